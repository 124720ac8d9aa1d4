"""Events through failures: kept once, in order, whatever goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import psycopg
import pytest
from redis.asyncio import Redis

from app.domain import fingerprint
from app.domain.catalogue import ItemId
from app.domain.errors import Conflict, Unavailable
from app.domain.event import Event, HistoryEntry, Line, Shopper
from app.domain.merchant import MerchantId
from app.embedded import APP_ROLE, EmbeddedPostgres
from app.embedded.postgres import OWNER_ROLE
from app.files.event_spool import EventSpool
from app.postgres.database import Database, connect, raw
from app.postgres.event_log import EventLog
from app.postgres.merchants import Merchants
from app.postgres.migration import Migrations
from app.postgres.recent_events import RecentEvents
from app.postgres.shopper_log import ShopperLog
from app.redis.connection import RedisConnection
from app.redis.history import HistoryStore
from app.services.history import HistoryKeeper, HistoryRebuild
from app.services.privacy import Privacy
from app.services.track import Appended, Outcome, Tracker
from vitrine_sdk import EventType

SHOP = MerchantId("shop")


def event(
    number: int,
    *,
    merchant: str = SHOP,
    type_: EventType = EventType.VIEW,
    client: str | None = "c",
    user: str | None = None,
    item: str | None = None,
    at: float | None = None,
    **more: Any,
) -> Event:
    now = round(time.time(), 3) if at is None else at
    fields: dict[str, Any] = {
        "merchant": MerchantId(merchant),
        "type": type_,
        "action": "test",
        "time": now,
        "received": now,
        "shopper": Shopper(client, user),
        "fingerprint": fingerprint.of_id(MerchantId(merchant), str(number)),
        "lines": (Line(item_id=item or str(number)),),
    }
    return Event(**{**fields, **more})


async def items(database: Database, merchant: str = SHOP) -> list[str]:
    async with database.merchant(MerchantId(merchant)) as connection:
        rows = await (await raw(connection)).fetch("SELECT item_id FROM event")
    return sorted(row["item_id"] for row in rows)


async def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.02)


@pytest.fixture
async def database(module_database_url: str, module_owner_url: str) -> AsyncIterator[Database]:
    """The module's database with no event in it."""
    async with await psycopg.AsyncConnection.connect(module_owner_url) as connection:
        await connection.execute("SET lock_timeout = '20s'")  # a test left a transaction open
        await connection.execute(
            "TRUNCATE event, event_id, event_rejected, shopper_identity, shopper_erasure"
        )
    made = connect(module_database_url, pool=5)
    await _shop(made)
    yield made
    await made.close()


async def _shop(database: Database, name: str = SHOP) -> None:
    with contextlib.suppress(Conflict):  # another test made it
        await Merchants(database).create(name, name, actor="test")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


# The log


async def test_a_poison_event_is_set_aside_and_the_others_are_kept(database: Database) -> None:
    poison = event(3, shopper=Shopper("c", None, 2**70))  # no column of PostgreSQL holds it
    nul = event(5, action="a\x00b")
    batch = [event(1), event(2), poison, event(4), nul, event(6)]
    appended = await EventLog(database).append(batch)
    outcomes = [receipt.outcome for receipt in appended.receipts]
    rejected = Outcome.REJECTED
    assert outcomes == [Outcome.ACCEPTED] * 2 + [rejected, Outcome.ACCEPTED, rejected] + [
        Outcome.ACCEPTED
    ]
    assert await items(database) == ["1", "2", "4", "6"]
    async with database.merchant(SHOP) as connection:
        rows = await (await raw(connection)).fetch("SELECT * FROM event_rejected ORDER BY id")
    assert ["int64" in rows[0]["reason"], "0x00" in rows[1]["reason"]] == [True, True]
    assert '"item_id":"3"' in rows[0]["event"]
    # It can be seen by nobody else.
    async with database.merchant(MerchantId("other")) as connection:
        assert not await (await raw(connection)).fetch("SELECT * FROM event_rejected")


async def test_a_merchant_that_is_gone_harms_no_other(
    database: Database,
) -> None:
    for name in ("a", "b"):
        await _shop(database, name)
    # An identity refers to its merchant, so these cannot be kept.
    batch = [event(n, merchant=m, client=f"c{n}", user="u") for n, m in enumerate("axbaxb")]
    appended = await EventLog(database).append(batch)
    assert [r.outcome is Outcome.ACCEPTED for r in appended.receipts] == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert await items(database, "a") == ["0", "3"]
    assert await items(database, "b") == ["2", "5"]


async def test_the_same_event_from_several_processes_at_once(database: Database) -> None:
    logs = [EventLog(database) for _ in range(4)]
    batches = [[event(n) for n in order] for order in (range(50), range(49, -1, -1)) * 2]
    results = await asyncio.gather(
        *(log.append(batch) for log, batch in zip(logs, batches, strict=True))
    )
    assert await items(database) == sorted(str(n) for n in range(50))
    accepted = sum(r.outcome is Outcome.ACCEPTED for a in results for r in a.receipts)
    assert accepted == 50


async def test_duplicates_within_one_batch(database: Database) -> None:
    appended = await EventLog(database).append([event(1), event(1), event(2)])
    assert [r.outcome for r in appended.receipts] == [
        Outcome.ACCEPTED,
        Outcome.DUPLICATE,
        Outcome.ACCEPTED,
    ]
    assert await items(database) == ["1", "2"]


async def test_what_a_large_batch_leaves_out_is_as_if_it_were_sent(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [event(n, client=f"c{n}", at=1_700_000_000.0 + n) for n in range(5)]
    full = event(
        9,
        at=1_700_000_100.0,
        user="u",
        revenue=5.0,
        term="t",
        payload={"a": 1},
        learn=False,
        lines=(Line(item_id=ItemId("9"), variation_id="v", quantity=2.0),),
    )
    nothing = event(10, at=1_700_000_200.0, client=None, lines=())
    stored = []
    for lean_rows in (1_000, 1):
        monkeypatch.setattr("app.postgres.event_log.LEAN_ROWS", lean_rows)
        for batch in (plain, [*plain, full, nothing]):
            log = EventLog(database)
            assert {r.outcome for r in (await log.append(batch)).receipts} == {Outcome.ACCEPTED}
            async with database.merchant(SHOP) as connection:
                driver = await raw(connection)
                rows = await driver.fetch("SELECT * FROM event ORDER BY occurred_at")
                stored.append([tuple(row) for row in rows])
                await driver.execute("DELETE FROM event")
                await driver.execute("DELETE FROM event_id")
    assert len(stored[0]) == 5
    assert stored[:2] == stored[2:]


async def test_a_partition_that_was_dropped_is_made_again(
    database: Database, module_owner_url: str
) -> None:
    log = EventLog(database)
    day = time.time() - 3 * 86400
    await log.append([event(1, at=day)])
    owner = connect(module_owner_url, pool=1)
    name = time.strftime("event_%Y%m%d", time.gmtime(day))
    async with owner.system() as connection:
        await (await raw(connection)).execute(f"DROP TABLE {name}")
    await owner.close()
    await log.append([event(2, at=day)])
    assert await items(database) == ["2"]


async def test_what_ends_a_transaction_leaves_no_trace_on_its_connection(
    module_database_url: str,
) -> None:
    database = connect(module_database_url, pool=1)
    ask = "SELECT pg_backend_pid(), current_setting('statement_timeout')"
    told: list[Any] = []

    async def fail() -> None:
        async with database.driver(SHOP, statement_timeout=7.0) as driver:
            told.append(await driver.fetchrow(ask))
            await driver.execute("SELECT 1 / 0")

    async def hang() -> None:
        async with asyncio.timeout(0.2), database.driver(SHOP, statement_timeout=7.0) as driver:
            await driver.execute("SELECT pg_sleep(30)")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await fail()
    (first,) = told
    async with database.system() as connection:
        again = await (await raw(connection)).fetchrow(ask)
    assert first[1] == "7s"
    assert (again[0], again[1]) == (first[0], "30s")  # rolled back, and used again
    with pytest.raises(TimeoutError):
        await hang()
    async with database.system() as connection:
        driver = await raw(connection)
        assert (await driver.fetchrow(ask))[0] != first[0]  # nobody knows what that one does
        assert not await driver.fetchval("SELECT current_setting('vitrine.merchant', true)")
    await database.close()


# The tracker, with stores that fail as told


class FailingLog:
    """An event log that is away while `away` is set."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.away = False
        self.calls: list[int] = []

    async def append(self, events: Sequence[Event]) -> Appended:
        self.calls.append(len(events))
        if self.away:
            raise Unavailable("away")
        return await self._log.append(events)

    async def erased(self, events: Sequence[Event]) -> frozenset[int]:
        if self.away:
            raise Unavailable("away")
        return await self._log.erased(events)


class Deaf:
    """A history that takes everything, or nothing."""

    def __init__(self) -> None:
        self.away = False
        self.heard: list[Event] = []

    async def add(self, events: Sequence[Event]) -> None:
        if self.away:
            raise Unavailable("away")
        self.heard += events

    async def join(self, identities: Any) -> None:
        pass


async def test_groups_form_while_a_commit_is_under_way(database: Database) -> None:
    log = FailingLog(EventLog(database))
    tracker = Tracker(log, Deaf(), committers=1)
    await tracker.start()
    await asyncio.gather(*(tracker.track([event(n)]) for n in range(200)))
    await tracker.close()
    assert sum(log.calls) == 200
    assert len(log.calls) <= 5
    assert len(await items(database)) == 200


async def test_a_full_queue_refuses_at_once_and_loses_nothing(database: Database) -> None:
    tracker = Tracker(FailingLog(EventLog(database)), Deaf(), max_pending=10)
    calls = [asyncio.create_task(tracker.track([event(n)])) for n in range(15)]
    await asyncio.sleep(0)
    await tracker.start()
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [r for r in results if isinstance(r, Unavailable)]
    assert len(refused) == 5
    assert "too many events wait" in refused[0].message
    await tracker.close()
    assert len(await items(database)) == 10
    with pytest.raises(Unavailable, match="stops"):
        await tracker.track([event(99)])


async def test_a_slow_history_holds_no_answer_up_and_is_no_gap(database: Database) -> None:
    class Slow(Deaf):
        def __init__(self) -> None:
            super().__init__()
            self.may = asyncio.Event()

        async def add(self, events: Sequence[Event]) -> None:
            await self.may.wait()
            await super().add(events)

    history = Slow()
    gaps: list[Any] = []
    tracker = Tracker(
        EventLog(database), history, on_history_gap=lambda merchants, _: gaps.append(merchants)
    )
    await tracker.start()
    await tracker.track([event(1)])  # answered, though nothing is written
    assert history.heard == []
    closing = asyncio.create_task(tracker.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    history.may.set()
    await closing
    assert [e.lines[0].item_id for e in history.heard] == ["1"]
    assert gaps == []


async def test_without_a_spool_nothing_is_acknowledged_while_the_log_is_away(
    database: Database,
) -> None:
    log = FailingLog(EventLog(database))
    tracker = Tracker(log, Deaf())
    await tracker.start()
    log.away = True
    with pytest.raises(Unavailable) as refused:
        await tracker.track([event(1)])
    assert refused.value.retry_after >= 1
    log.away = False
    await tracker.track([event(1)])
    await tracker.close()
    assert await items(database) == ["1"]


async def test_events_wait_in_the_spool_and_are_replayed_once_in_order(
    database: Database, tmp_path: Path
) -> None:
    log, history, spool = FailingLog(EventLog(database)), Deaf(), EventSpool(tmp_path)
    spool.open()
    tracker = Tracker(log, history, spool)
    await tracker.start()
    log.away = True
    for n in range(20):
        (receipt,) = await tracker.track([event(n)])
        assert receipt.outcome is Outcome.ACCEPTED
        # The shopper's history knows at once, and once.
        assert [e.lines[0].item_id for e in history.heard] == [str(i) for i in range(n + 1)]
    await tracker.track([event(3)])  # again: the log tells them apart
    assert await items(database) == []
    assert spool.bytes > 0
    log.away = False
    await tracker.track([event(20)])  # behind those that wait
    await until(lambda: not tracker.spooling)
    assert await items(database) == sorted(str(n) for n in range(21))
    assert spool.bytes == 0
    await tracker.track([event(21)])
    assert len(await items(database)) == 22
    await tracker.close()
    spool.close()


async def test_what_a_dead_process_left_is_replayed_by_the_next(
    database: Database, tmp_path: Path
) -> None:
    log = EventLog(database)
    left = EventSpool(tmp_path)
    left.open()
    left.append([event(1), event(2)])
    await log.append([event(1)])  # it died between the commit and the deletion
    left.close()
    spool = EventSpool(tmp_path)
    spool.open()
    tracker = Tracker(log, Deaf(), spool)
    await tracker.start()
    await until(lambda: not tracker.spooling)
    await tracker.close()
    assert await items(database) == ["1", "2"]
    assert list(tmp_path.rglob("*.events")) == []


async def test_a_poison_event_in_the_spool_holds_nothing_up(
    database: Database, tmp_path: Path
) -> None:
    spool = EventSpool(tmp_path)
    spool.open()
    spool.append([event(1), event(2, action="a\x00b"), event(3)])
    tracker = Tracker(EventLog(database), Deaf(), spool)
    await tracker.start()
    await until(lambda: not tracker.spooling)
    await tracker.close()
    spool.close()
    assert await items(database) == ["1", "3"]


@dataclass
class OwnPostgres:
    """A PostgreSQL that a test may kill."""

    server: EmbeddedPostgres

    def kill(self) -> None:
        with psycopg.connect(self.server.url(APP_ROLE)) as connection:
            postmaster = psutil.Process(connection.info.backend_pid).ppid()
        os.kill(postmaster, signal.SIGKILL)

    def restart(self) -> None:
        self.server.stop()
        self.server.start()


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("own"), durable=True)
    server.start()
    Migrations(server.url(OWNER_ROLE)).up()
    yield OwnPostgres(server)
    server.stop()


async def test_postgresql_is_killed_and_comes_back(
    own_postgres: OwnPostgres, tmp_path: Path
) -> None:
    url = own_postgres.server.url(APP_ROLE)
    database = connect(url, pool=3)
    await _shop(database)
    spool = EventSpool(tmp_path)
    spool.open()
    tracker = Tracker(EventLog(database), Deaf(), spool)
    await tracker.start()
    acknowledged: list[int] = []
    stop = asyncio.Event()

    async def sender(start: int) -> None:
        number = start
        while not stop.is_set():
            await tracker.track([event(number)])
            acknowledged.append(number)
            number += 10

    senders = [asyncio.create_task(sender(n)) for n in range(10)]
    await until(lambda: len(acknowledged) > 100)
    own_postgres.kill()
    await until(lambda: tracker.spooling)
    before = len(acknowledged)
    await until(lambda: len(acknowledged) > before + 100)
    await asyncio.to_thread(own_postgres.restart)
    await until(lambda: not tracker.spooling, 60)
    stop.set()
    await asyncio.gather(*senders)
    await tracker.close()
    spool.close()
    assert await items(database) == sorted(str(n) for n in acknowledged)
    await database.close()


# The history


async def read(history: HistoryStore, client: str | None, user: str | None) -> list[HistoryEntry]:
    return list(await history.read(SHOP, Shopper(client, user), 100))


async def test_histories_are_made_again_from_the_log(database: Database, redis: Redis) -> None:
    log, history = EventLog(database), HistoryStore(redis, length=5)
    now = round(time.time(), 3)
    old = now - 400 * 86400  # a shop that slept for a year has a history too
    batch = [
        event(1, client="c", at=old),
        event(2, client="c", at=now - 50),
        event(3, client="c", user="u", at=now - 40, type_=EventType.PURCHASE),
        event(4, client="other", at=now - 30, result_id="r"),
        event(5, client="c", at=now - 20, type_=EventType.IMPRESSION),
        event(6, client="c", at=now - 10, learn=False),
        *(event(10 + n, client="busy", at=now - n) for n in range(8)),
    ]
    appended = await log.append(batch)
    await history.add(batch)
    await history.join(appended.identities)
    shoppers = [("c", "u"), ("other", None), ("busy", None)]
    before = [(await read(history, *shopper))[:5] for shopper in shoppers]
    assert [len(entries) for entries in before] == [3, 1, 5]
    await redis.flushdb()
    rebuild = HistoryRebuild(RecentEvents(database), history, length=5)
    done = await rebuild.run(SHOP)
    assert (done.shoppers, done.entries) == (3, 9)
    assert [await read(history, *shopper) for shopper in shoppers] == before
    again = await rebuild.run(SHOP)  # does no harm
    assert again.entries == 0
    await redis.rpush(_only_key(await redis.keys("vitrine:history:*other*")), b'["9",1,1.0,null]')
    await rebuild.run(SHOP, replace=True)
    assert [await read(history, *shopper) for shopper in shoppers] == before


def _only_key(keys: list[bytes]) -> bytes:
    (key,) = keys
    return key


async def test_an_emptied_redis_and_a_gap_are_noticed_and_filled(
    database: Database, redis: Redis
) -> None:
    log, store = EventLog(database), HistoryStore(redis)
    keeper = HistoryKeeper(
        HistoryRebuild(RecentEvents(database), store), store, lambda: [SHOP], interval=0.05
    )
    history = Deaf()
    tracker = Tracker(log, history, on_history_gap=keeper.note_gap)
    await tracker.start()
    now = round(time.time(), 3)
    await tracker.track([event(1, at=now)])
    history.away = True
    await tracker.track([event(2, at=now + 1)])
    await keeper.check()  # Redis was empty, and a gap was noted
    assert [e.item_id for e in await read(store, "c", None)] == ["2", "1"]
    await tracker.track([event(3, at=now + 0.5)])
    await keeper.check()
    assert [e.item_id for e in await read(store, "c", None)] == ["2", "3", "1"]
    await keeper.start()
    await redis.flushdb()
    deadline = time.monotonic() + 20
    while len(await read(store, "c", None)) < 3:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await keeper.close()
    await tracker.close()


@pytest.mark.parametrize("packed", [True, False])
async def test_a_history_is_bounded(redis: Redis, redis_url: str, packed: bool) -> None:
    connection = RedisConnection(redis_url)
    run = connection.run if packed else None
    history = HistoryStore(redis, run=run, length=10, days=2)
    for n in range(40):
        await history.add([event(n, at=1_700_000_000.0 + n)])
    await connection.close()
    keys = await redis.keys("*")
    assert keys == [b"vitrine:history:{shop:c:c}"]
    assert 10 <= await redis.llen(keys[0]) <= 12
    assert 0 < await redis.ttl(keys[0]) <= 2 * 86400
    assert [e.item_id for e in await history.read(SHOP, Shopper("c"), 3)] == ["39", "38", "37"]


# Forgetting


async def test_a_shopper_is_told_and_forgotten_also_in_a_spool(
    database: Database, redis: Redis, tmp_path: Path
) -> None:
    log, history = EventLog(database), HistoryStore(redis)
    now = round(time.time() - 100, 3)
    mine = [event(1, at=now), event(2, user="ann", at=now + 1)]
    others = [event(3, client="d", at=now), event(4, user="bob", at=now + 2)]
    poison = event(5, user="ann", action="a\x00b")
    appended = await log.append([*mine, *others, poison])
    await history.add([*mine, *others])
    await history.join(appended.identities)
    privacy = Privacy(ShopperLog(database), history)
    ann = await privacy.person(SHOP, user_id="ann")
    assert ann.client_ids == ("c",)
    told = [row async for row in privacy.export(SHOP, ann)]
    assert [(row["kind"], row["item_id"]) for row in told] == [
        ("event", "2"),
        ("event", "1"),
        ("history", "2"),
        ("history", "1"),
    ]
    spool = EventSpool(tmp_path)
    spool.open()
    spool.append([event(6, user="ann", at=now + 3), event(7, user="bob", at=now + 3)])
    forgotten = await privacy.forget(SHOP, ann)
    assert (forgotten.events, forgotten.histories) == (2, 1)
    tracker = Tracker(log, Deaf(), spool)
    await tracker.start()
    await until(lambda: not tracker.spooling)
    await tracker.close()
    assert await items(database) == ["3", "4", "7"]
    assert [row async for row in privacy.export(SHOP, ann)] == []
    async with database.merchant(SHOP) as connection:
        driver = await raw(connection)
        assert await driver.fetch("SELECT * FROM event_rejected") == []
        assert await driver.fetch("SELECT * FROM shopper_identity WHERE user_id = 'ann'") == []
    assert [e.item_id for e in await read(history, None, "bob")] == ["4"]
    # Who comes back is a shopper as any other.
    await log.append([event(8, user="ann")])
    assert await items(database) == ["3", "4", "7", "8"]
