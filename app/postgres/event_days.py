"""Whole days of the event log: which there are, read for an archive, dropped."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

from app.domain.merchant import MerchantId
from app.postgres.database import Database, raw

_DAYS: Final = """
SELECT child.relname FROM pg_inherits
JOIN pg_class child ON child.oid = inhrelid
WHERE inhparent = 'public.event'::regclass AND child.relname ~ '^event_[0-9]{8}$'
"""
_ROWS: Final = """
SELECT * FROM event WHERE merchant_id = $1 AND occurred_at >= $2 AND occurred_at < $3
ORDER BY occurred_at
"""
_ROWS_AT_ONCE: Final = 10_000


class EventDays:
    """Implements `services.retention.EventDays`. Raises (every method): Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def before(self, day: dt.date) -> Sequence[dt.date]:
        """UTC days before `day` that the log has, oldest first."""
        async with self._database.system() as connection:
            rows = await (await raw(connection)).fetch(_DAYS)
        days = (dt.date.fromisoformat(row["relname"].removeprefix("event_")) for row in rows)
        return sorted(one for one in days if one < day)

    async def rows(
        self, merchant: MerchantId, day: dt.date
    ) -> AsyncGenerator[Sequence[Mapping[str, Any]], None]:
        """A merchant's rows of a day, in order of time, some at a time."""
        start = dt.datetime.combine(day, dt.time(), dt.UTC)
        end = start + dt.timedelta(days=1)
        async with self._database.merchant(merchant, statement_timeout=0) as connection:
            cursor = await (await raw(connection)).cursor(_ROWS, merchant, start, end)
            while rows := await cursor.fetch(_ROWS_AT_ONCE):
                yield [dict(row) for row in rows]

    async def drop(self, day: dt.date) -> bool:
        """Drop a day, of all merchants; whether there was one."""
        async with self._database.system() as connection:
            dropped = await (await raw(connection)).fetchval("SELECT drop_event_partition($1)", day)
        return bool(dropped)
