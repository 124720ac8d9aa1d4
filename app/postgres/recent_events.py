"""What shoppers did lately, read from the event log to make their histories again."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

from app.domain.catalogue import ItemId
from app.domain.event import REMEMBERED, HistoryEntry
from app.domain.merchant import MerchantId
from app.postgres.database import Database, raw

PAGE: Final = 50_000  # rows, about
FETCH: Final = 500  # rows that are taken in before requests run again: 1 to 2 ms

_DAY: Final = dt.timedelta(days=1)
# A query for a day is planned for its partition alone; one for the newest event, for all of them.
_DAYS: Final = """
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'event'::regclass AND c.relname ~ '^event_[0-9]{8}$'
ORDER BY day DESC
"""
# Anonymous events of a client count for its user up to the moment when the user became known.
_EVENTS: Final = """
SELECT CASE WHEN e.user_id IS NOT NULL THEN 'u:' || e.user_id
            WHEN i.user_id IS NOT NULL THEN 'u:' || i.user_id
            ELSE 'c:' || e.client_id END AS shopper,
       e.item_id, e.type, extract(epoch FROM e.occurred_at)::float8 AS at, e.result_id
FROM event AS e
LEFT JOIN shopper_identity AS i
    ON e.user_id IS NULL AND i.merchant_id = e.merchant_id AND i.client_id = e.client_id
    AND e.received_at <= i.since
WHERE e.merchant_id = $1 AND e.occurred_at >= $2 AND e.occurred_at < $3 AND e.received_at >= $4
  AND e.learn AND e.item_id IS NOT NULL AND e.type = ANY($5::int2[])
  AND (e.client_id IS NOT NULL OR e.user_id IS NOT NULL)
ORDER BY e.occurred_at DESC
"""


class RecentEvents:
    """Implements `services.history.RecentEvents`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def histories(
        self, merchant: MerchantId, *, days: int, received_since: float | None = None
    ) -> AsyncGenerator[Mapping[str, Sequence[HistoryEntry]], None]:
        """See `services.history.RecentEvents`. One transaction a day."""
        since = _MINIMUM if received_since is None else _moment(received_since)
        earliest = _MINIMUM if received_since is None else since - _DAY
        page: dict[str, list[HistoryEntry]] = {}
        rows = yielded = found = 0
        async with self._database.merchant(merchant) as connection:
            partitions = await (await raw(connection)).fetch(_DAYS)
        for partition in partitions:
            start = dt.datetime.combine(partition["day"], dt.time(), dt.UTC)
            if start + _DAY <= earliest or found == days:
                break
            before = rows
            async with self._database.merchant(merchant, statement_timeout=0) as connection:
                cursor = await (await raw(connection)).cursor(
                    _EVENTS, merchant, start, start + _DAY, since, list(_TYPES)
                )
                while records := await cursor.fetch(FETCH):
                    for shopper, item_id, type_, at, result_id in records:
                        entry = HistoryEntry(ItemId(item_id), _TYPES[type_], at, result_id)
                        page.setdefault(shopper, []).append(entry)
                    rows += len(records)
                    if rows - yielded >= PAGE:
                        yield page
                        page, yielded = {}, rows
            found += rows > before
        if page:
            yield page


_TYPES: Final = {int(type_): type_ for type_ in REMEMBERED}
_MINIMUM: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
