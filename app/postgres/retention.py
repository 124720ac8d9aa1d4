"""Deletes rows that were to be kept for a while only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from app.domain.merchant import MerchantId
from app.domain.task import TaskStatus
from app.postgres.database import Database
from app.postgres.tables import event_id, idempotency_key, served_sample, task

_ROWS_AT_ONCE: Final = 10_000

_EXPIRING: Final[Mapping[str, tuple[sa.Table, sa.Column[object], sa.ColumnElement[bool]]]] = {
    # An order counts once for ever.
    "event_id": (event_id, event_id.c.claimed_at, sa.not_(event_id.c.forever)),
    "served_sample": (served_sample, served_sample.c.served_at, sa.true()),
    "idempotency_key": (idempotency_key, idempotency_key.c.created_at, sa.true()),
    "task": (
        task,
        task.c.finished_at,
        task.c.status.in_([TaskStatus.DONE, TaskStatus.FAILED]),
    ),
}


class ExpiringRows:
    """Raises (every method): Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete(self, merchant: MerchantId, days: Mapping[str, int]) -> Mapping[str, int]:
        """Delete a merchant's rows that are older than their days, in short transactions.

        Args:
            days: by kind: event_id, served_sample, idempotency_key, task.

        Returns:
            How many rows went, by kind.
        """
        counts = {}
        for kind, age in days.items():
            table, time, which = _EXPIRING[kind]
            old = (
                sa.select(*table.primary_key.columns)
                .where(
                    table.c.merchant_id == merchant,
                    time < sa.func.now() - sa.func.make_interval(0, 0, 0, age),
                    which,
                )
                .limit(_ROWS_AT_ONCE)
            )
            statement = sa.delete(table).where(
                table.c.merchant_id == merchant, sa.tuple_(*table.primary_key.columns).in_(old)
            )
            counts[kind] = 0
            while True:
                async with self._database.merchant(merchant) as connection:
                    deleted = (await connection.execute(statement)).rowcount
                counts[kind] += deleted
                if deleted < _ROWS_AT_ONCE:
                    break
        return counts
