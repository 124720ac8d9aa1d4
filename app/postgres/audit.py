"""The audit log: who changed what, in the change's own transaction. It is only ever added to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.audit import AuditEntry
from app.domain.merchant import MerchantId
from app.postgres.database import Database
from app.postgres.tables import audit


async def record(
    connection: AsyncConnection,
    merchant: MerchantId,
    actor: str,
    action: str,
    subject: str,
    before: Any = None,
    after: Any = None,
) -> None:
    """Note a change within the transaction that makes it.

    Args:
        actor: the token's id, "cli", or the job that acted.
        action: "<noun>.<verb>", e.g. "pod.create".
        subject: id of what was changed.
        before, after: anything msgspec can turn into JSON; None where there was, or is, nothing.
            Never a secret.
    """
    await connection.execute(
        audit.insert().values(
            merchant_id=merchant,
            actor=actor,
            action=action,
            subject=subject,
            # SQL NULL, not JSON null, where there is nothing.
            before=sa.null() if before is None else msgspec.to_builtins(before),
            after=sa.null() if after is None else msgspec.to_builtins(after),
        )
    )


class AuditLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        merchant: MerchantId,
        *,
        before_id: int | None,
        limit: int,
        action: str | None = None,
        subject: str | None = None,
        actor: str | None = None,
    ) -> Sequence[AuditEntry]:
        """Newest first, those with an id below `before_id`."""
        query = (
            sa.select(audit)
            .where(audit.c.merchant_id == merchant)
            .order_by(audit.c.id.desc())
            .limit(limit)
        )
        if before_id is not None:
            query = query.where(audit.c.id < before_id)
        for column, value in (
            (audit.c.action, action),
            (audit.c.subject, subject),
            (audit.c.actor, actor),
        ):
            if value is not None:
                query = query.where(column == value)
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [
            AuditEntry(
                id=row["id"],
                at=row["at"].timestamp(),
                actor=row["actor"],
                action=row["action"],
                subject=row["subject"],
                before=row["before"],
                after=row["after"],
            )
            for row in rows
        ]
