"""What shoppers did lately, read from the event log to make their histories again."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from app.domain.catalogue import ItemId
from app.domain.event import REMEMBERED, HistoryEntry
from app.domain.merchant import MerchantId
from app.postgres.database import Database, raw
from vitrine_sdk import EventType

PAGE: Final = 10_000  # rows

_DAY: Final = dt.timedelta(days=1)
_LATEST: Final = """
SELECT max(occurred_at) FROM event WHERE merchant_id = $1 AND occurred_at < $2
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
    ) -> AsyncIterator[Mapping[str, Sequence[HistoryEntry]]]:
        """See `services.history.RecentEvents`. One transaction a day."""
        types = [int(type_) for type_ in REMEMBERED]
        before = dt.datetime.now(dt.UTC) + _DAY
        since = _MINIMUM if received_since is None else _moment(received_since)
        earliest = _MINIMUM if received_since is None else since - _DAY
        for _ in range(days):
            async with self._database.merchant(merchant, statement_timeout=0) as connection:
                driver = await raw(connection)
                latest = await driver.fetchval(_LATEST, merchant, before)
                if latest is None or latest < earliest:
                    return
                start = latest.replace(hour=0, minute=0, second=0, microsecond=0)
                page: dict[str, list[HistoryEntry]] = {}
                rows = 0
                async for shopper, item_id, type_, at, result_id in driver.cursor(
                    _EVENTS, merchant, start, before, since, types, prefetch=PAGE
                ):
                    entry = HistoryEntry(ItemId(item_id), EventType(type_), at, result_id)
                    page.setdefault(shopper, []).append(entry)
                    rows += 1
                    if rows == PAGE:
                        yield page
                        page, rows = {}, 0
                if page:
                    yield page
                before = start


_MINIMUM: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
