"""The shared connection to Redis: many calls in one packet, and what it does when Redis fails."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import redis
import uvloop

from app.domain.catalogue import DEFAULT_SECTION, ItemFeatures, ItemId
from app.domain.errors import Unavailable
from app.domain.event import Event, Line, Shopper
from app.domain.merchant import MerchantId
from app.domain.past import Past
from app.embedded import EmbeddedRedis
from app.redis.coalescing import CoalescingRedis
from app.redis.connection import RedisConnection
from app.redis.feature_reader import CoalescedFeatureReader
from app.redis.history import HistoryStore
from app.redis.history_reader import CoalescedHistoryReader
from app.redis.item_features import RedisItemFeatures
from vitrine_sdk import EventType

SHOP = MerchantId("shop")


@pytest.fixture
async def coalescing(redis_url: str) -> AsyncIterator[CoalescingRedis]:
    made = CoalescingRedis(redis_url)
    yield made
    await made.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


async def test_many_calls_are_one_packet_and_each_gets_its_own_replies(
    coalescing: CoalescingRedis, client: redis.Redis
) -> None:
    for n in range(50):
        client.rpush(f"list{n}", *range(n), "end")
    await coalescing.call([("PING",)])
    before = client.info("stats")["total_reads_processed"]
    calls = [
        coalescing.call([("LRANGE", f"list{n}", 0, -1), ("EXISTS", f"list{n}")]) for n in range(50)
    ]
    answers = await asyncio.gather(*calls)
    reads = client.info("stats")["total_reads_processed"] - before - 1
    for n, (listed, exists) in enumerate(answers):
        assert listed == [*(str(k).encode() for k in range(n)), b"end"]
        assert exists == 1
    assert reads == 1


def test_it_works_on_the_servers_event_loop(redis_url: str) -> None:
    async def read() -> list[list[bytes]]:
        made = CoalescingRedis(redis_url)
        try:
            async with asyncio.timeout(10):
                return await asyncio.gather(*(made.call([("ECHO", n)]) for n in range(20)))
        finally:
            await made.close()

    assert uvloop.run(read()) == [[str(n).encode()] for n in range(20)]


async def test_who_gives_up_leaves_the_others_their_replies(
    coalescing: CoalescingRedis, client: redis.Redis
) -> None:
    client.set("a", "1")
    client.set("b", "2")
    given_up = coalescing.call([("GET", "a")])
    kept = coalescing.call([("GET", "b")])
    given_up.cancel()
    assert await kept == [b"2"]
    assert await coalescing.call([("GET", "a")]) == [b"1"]


async def test_a_refused_command_fails_alone(
    coalescing: CoalescingRedis, client: redis.Redis
) -> None:
    client.set("a", "1")
    wrong = coalescing.call([("LRANGE", "a", 0, -1)])
    right = coalescing.call([("GET", "a")])
    with pytest.raises(Unavailable):
        await wrong
    assert await right == [b"1"]


async def test_nobody_is_there() -> None:
    away = CoalescingRedis("redis://127.0.0.1:1/0")
    calls = [away.call([("PING",)]) for _ in range(3)]
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    await away.close()


async def test_too_many_wait() -> None:
    away = CoalescingRedis("redis://127.0.0.1:1/0", max_waiting=2)
    calls = [away.call([("PING",)]) for _ in range(3)]
    assert calls[2].done()
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    await away.close()


async def test_a_wrong_password_is_no_answer() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"SELECT\r\n$1\r\n3\r\n")
        writer.write(b"-WRONGPASS invalid username-password pair\r\n-NOAUTH\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        made = CoalescingRedis(f"redis://someone:wrong@127.0.0.1:{port}/3")
        with pytest.raises(Unavailable):
            await made.call([("PING",)])
        await made.close()


async def test_killed_stalled_and_back(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path, durable=False)
    with server:
        made = CoalescingRedis(server.url, answer_timeout=0.05)
        assert await made.call([("PING",)]) == [b"PONG"]
        assert server._child is not None
        process = psutil.Process(server._child.pid)
        process.send_signal(signal.SIGSTOP)
        try:
            stalled = made.call([("PING",)])
            await asyncio.sleep(0.1)
            made.call([("PING",)]).cancel()  # finds that nothing came, and lets go
            with pytest.raises(Unavailable):
                await stalled
        finally:
            process.send_signal(signal.SIGCONT)
        assert await made.call([("PING",)]) == [b"PONG"]
        server.stop()
        with pytest.raises(Unavailable):
            await made.call([("PING",)])
        with pytest.raises(Unavailable):
            await made.call([("PING",)])
        server.start()
        assert await made.call([("PING",)]) == [b"PONG"]
        await made.close()


async def test_histories_are_read_as_the_store_reads_them(
    redis_url: str, coalescing: CoalescingRedis
) -> None:
    connection = RedisConnection(redis_url)
    store = HistoryStore(connection.client)
    shoppers = [
        Shopper(client_id="c1"),
        Shopper(client_id="c1", user_id="ü:1"),
        Shopper(user_id="ü:1"),
        Shopper(client_id="new"),
        Shopper(),
    ]
    for time, (shopper, item_id) in enumerate(
        [(shoppers[0], "a"), (shoppers[1], "b"), (shoppers[0], "c"), (shoppers[1], "d")]
    ):
        event = Event(
            merchant=SHOP, type=EventType.VIEW, action="item_detail_load", time=1e9 + time,
            received=1e9, shopper=shopper, fingerprint=bytes(16),
            lines=(Line(item_id=ItemId(item_id)),),
        )  # fmt: skip
        await store.add([event])
    reader = CoalescedHistoryReader(coalescing)
    for shopper in shoppers:
        for limit in (0, 1, 3, 10):
            expected = Past.of(await store.read(SHOP, shopper, limit))
            found = await reader.read(SHOP, shopper, limit, math.inf)
            assert columns(found) == columns(expected)
    assert (await reader.read(SHOP, shoppers[1], 10, math.inf)).ids == b"dcba"
    await connection.close()


def columns(past: Past) -> tuple[object, ...]:
    return past.ids, past.ends.tolist(), past.types.tolist(), past.times.tolist()


async def test_features_are_read_as_the_store_reads_them(
    coalescing: CoalescingRedis, redis_url: str
) -> None:
    connection = RedisConnection(redis_url)
    store = RedisItemFeatures(connection)
    items = [ItemFeatures(id=ItemId(f"i{n}"), version=n + 1, name=f"Item {n}") for n in range(300)]
    await store.write(SHOP, DEFAULT_SECTION, items)
    reader = CoalescedFeatureReader(coalescing)
    wanted = [f"i{n}" for n in (7, 299, 7, 12)] + ["unknown"]
    found = await reader.features(SHOP, DEFAULT_SECTION, wanted)
    assert found == await store.features(SHOP, DEFAULT_SECTION, wanted)
    assert found == [items[7], items[299], items[7], items[12], None]
    assert await reader.features(SHOP, DEFAULT_SECTION, []) == []
    await connection.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """A Redis whose connections wait: nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"


async def test_each_waits_as_long_as_it_may(redis_url: str, silent: str) -> None:
    told: list[bool] = []
    redis_ = CoalescingRedis(silent, observe=lambda _seconds, answered: told.append(answered))
    now = asyncio.get_running_loop().time()

    def ask(seconds: float) -> asyncio.Task[list[bytes]]:
        return asyncio.create_task(redis_.ask([("PING",)], now + seconds))

    async def ends(asked: asyncio.Task[list[bytes]]) -> None:
        with pytest.raises(TimeoutError):
            await asked

    async with asyncio.timeout(10):
        forever, long, unsent = ask(math.inf), ask(1_000), ask(0.05)
        await ends(unsent)
        while redis_._link is None:
            await asyncio.sleep(0)
        # The alarm is set for the long one: it is set again for who has less time, and for none.
        later, sooner, late = ask(0.3), ask(0.2), ask(-1)
        for asked in (late, sooner, later):
            await ends(asked)
    assert not forever.done()
    assert not long.done()
    await redis_.close()
    for asked in (forever, long):
        with pytest.raises(Unavailable):
            await asked
    assert told == [False] * 6
    redis_ = CoalescingRedis(redis_url, observe=lambda _seconds, answered: told.append(answered))
    until = asyncio.get_running_loop().time() + 0.05
    assert await redis_.ask([("ECHO", 1)], until) == [b"1"]
    assert told.pop()
    await asyncio.sleep(0.1)
    assert redis_._alarm is None, "an alarm for nobody"
    assert await redis_.ask([("ECHO", 2)], until + 10) == [b"2"], "what was late is of the past"
    await redis_.close()


async def test_a_history_is_waited_for_as_long_as_there_is_time(silent: str) -> None:
    redis_ = CoalescingRedis(silent)
    reader = CoalescedHistoryReader(redis_)
    with pytest.raises(TimeoutError):
        await reader.read(SHOP, Shopper("c1"), 10, asyncio.get_running_loop().time() + 0.05)
    await redis_.close()


async def test_who_waits_for_features_can_give_up(silent: str) -> None:
    """A cancellation is one: the request's time ends when it ends."""
    redis_ = CoalescingRedis(silent)
    reader = CoalescedFeatureReader(redis_)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.features(SHOP, DEFAULT_SECTION, ["i1"])
    await redis_.close()
