"""Redis' connection is closed in the very moment that it is written to: uvloop says so in its own
way, and nobody may be left waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from app.domain import fingerprint
from app.domain.errors import Unavailable
from app.domain.event import Event, Line, Shopper
from app.domain.merchant import MerchantId
from app.postgres.database import Database
from app.postgres.event_log import EventLog
from app.redis.connection import RedisConnection
from app.redis.history import HistoryStore
from app.services.track import ACCEPTED, Tracker
from vitrine_sdk import EventType

GONE = "unable to perform operation on <TCPTransport closed=True>; the handler is closed"


class Closing:
    """A client whose pipelines meet a closed connection."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def pipeline(self, transaction: bool) -> Any:
        raise self.error


def event(merchant: str) -> Event:
    now = round(time.time(), 3)
    return Event(
        merchant=MerchantId(merchant),
        type=EventType.VIEW,
        action="test",
        time=now,
        received=now,
        shopper=Shopper("c"),
        fingerprint=fingerprint.of_id(MerchantId(merchant), str(now)),
        lines=(Line(item_id="i"),),  # type: ignore[arg-type]
    )


async def test_it_is_as_if_redis_were_away(redis_url: str) -> None:
    history = HistoryStore(Closing(RuntimeError(GONE)))  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await history.add([event("shop")])
    connection = RedisConnection(redis_url, pool=1, timeout=1.0)
    with pytest.raises(Unavailable), connection.errors():
        raise RuntimeError(GONE)
    with pytest.raises(RuntimeError, match="a defect"), connection.errors():
        raise RuntimeError("a defect")
    await connection.close()


async def test_an_event_that_is_kept_is_acknowledged_whatever_the_history_does(
    database: Database, merchant: Any
) -> None:
    class Broken:
        async def add(self, events: Sequence[Event]) -> None:
            raise ZeroDivisionError("a defect")

        async def join(self, identities: Sequence[Any]) -> None:
            raise ZeroDivisionError("a defect")

    gaps: list[Any] = []
    tracker = Tracker(
        EventLog(database), Broken(), on_history_gap=lambda merchants, _: gaps.append(merchants)
    )
    await tracker.start()
    async with asyncio.timeout(30):
        assert list(await tracker.track([event(merchant.id)])) == [ACCEPTED]
    await tracker.close()
    assert [set(found) for found in gaps] == [{merchant.id}]
