"""Recommending with a real Redis: how often it is waited for, and what happens when it is away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import redis

from app.domain.catalogue import DEFAULT_SECTION, ItemId
from app.domain.event import Event, Line, Shopper
from app.domain.recommendation import RecommendationRequest
from app.embedded import EmbeddedRedis
from app.redis.connection import RedisConnection
from app.redis.history import HistoryStore
from app.redis.history_reader import StoredHistoryReader
from app.redis.item_features import RedisItemFeatures
from app.services.answer import Answer
from tests.recommending_shop import (
    SHOP,
    RecommendingShop,
    after_latest,
    after_seeds,
    in_order,
    product,
)
from vitrine_sdk import EventType

SHOPPER = Shopper(client_id="c1", user_id="u1")
ITEMS = [product(n) for n in range(60)]


def viewed(item_id: str, shopper: Shopper = SHOPPER) -> Event:
    return Event(
        merchant=SHOP,
        type=EventType.VIEW,
        action="item_detail_load",
        time=1_700_000_000.0,
        received=1_700_000_000.0,
        shopper=shopper,
        fingerprint=item_id.encode().ljust(16),
        lines=(Line(item_id=ItemId(item_id)),),
    )


@asynccontextmanager
async def shop_on(
    redis_url: str, *, prefill: bool, timeout: float = 5.0, **options: Any
) -> AsyncIterator[tuple[RecommendingShop, HistoryStore]]:
    connection = RedisConnection(redis_url, timeout=timeout)
    history = HistoryStore(connection.client)
    features = RedisItemFeatures(connection)
    await features.write(SHOP, DEFAULT_SECTION, ITEMS)
    shop = RecommendingShop(
        ITEMS,
        prefill=prefill,
        history_reader=StoredHistoryReader(history),
        feature_reader=features,
        **options,
    )
    shop.strategy("latest", after_latest(60))
    shop.strategy("similar", after_seeds(60))
    shop.strategy("all", in_order(60))
    shop.pod("you", "latest", "all", num_results=20, exclude_seen=True)
    shop.pod("pdp", "similar", "all", num_results=20)
    shop.pod("home", "all", num_results=20)
    await shop.serving.refresh()
    try:
        yield shop, history
    finally:
        await connection.close()


async def ask(shop: RecommendingShop, pod: str, **request: Any) -> Answer:
    return await shop.service.recommend(
        shop.serving.merchants()[SHOP],
        RecommendationRequest(pod_id=pod, shopper=SHOPPER, **request),
        dependence=str(request),
    )


class Watched:
    """What Redis did since the last look: commands by name, and reads (what came together in one
    packet, a pipeline, is one)."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.look()

    def look(self) -> tuple[dict[str, int], int]:
        calls = {
            name.removeprefix("cmdstat_"): stats["calls"]
            for name, stats in self._client.info("commandstats").items()
            if name not in ("cmdstat_info", "cmdstat_hello", "cmdstat_client|setinfo")
        }
        reads = self._client.info("stats")["total_reads_processed"]
        before, self._calls = getattr(self, "_calls", {}), calls
        reads_before, self._reads = getattr(self, "_reads", 0), reads
        changed = {
            name: count - before.get(name, 0)
            for name, count in calls.items()
            if count != before.get(name, 0)
        }
        return changed, reads - reads_before - 2  # the two INFOs of a look


@pytest.fixture
def watched(redis_url: str) -> Iterator[Watched]:
    with redis.Redis.from_url(redis_url) as client:
        yield Watched(client)


async def test_a_list_waits_for_redis_at_most_twice(redis_url: str, watched: Watched) -> None:
    async with shop_on(redis_url, prefill=False) as (shop, history):
        await history.add([viewed("i5", Shopper(client_id="c1")), viewed("i7")])
        await ask(shop, "home", num_results=1)  # its connection is open now
        watched.look()

        got = await ask(shop, "you")
        assert got.items[:3] == ("i8", "i9", "i10")
        assert "i7" not in got.items
        assert "i5" not in got.items, "the client's history counts too"
        calls, waits = watched.look()
        assert calls.keys() == {"lrange", "hmget"}
        assert calls["lrange"] == 2
        assert waits == 2, "one for both histories, one for all items that are not at hand"

        await ask(shop, "you")
        assert watched.look() == ({"lrange": 2}, 1)

        await ask(shop, "pdp", item_ids=(ItemId("i20"),))
        calls, waits = watched.look()
        assert (calls.keys(), waits) == ({"hmget"}, 1)

        for _ in range(3):
            await ask(shop, "pdp", item_ids=(ItemId("i20"),))
        assert watched.look() == ({}, 0), "what is at hand and not personal asks nobody"


PAGE = (("you", ()), ("pdp", ("i20",)), ("home", ()), ("you", ()))


async def ask_page(shop: RecommendingShop, shopper: Shopper = SHOPPER) -> Sequence[Answer]:
    snapshot = shop.serving.merchants()[SHOP]
    requests = [
        RecommendationRequest(
            pod_id=pod, shopper=shopper, item_ids=tuple(map(ItemId, seeds)), num_results=10
        )
        for pod, seeds in PAGE
    ]
    return await shop.service.recommend_page(
        [shop.service.understand(snapshot, request) for request in requests]
    )


def shown_on(answers: Sequence[Answer]) -> list[str]:
    """The items of a page's lists, as they are shown."""
    return [
        result["data"]["id"]
        for answer in answers
        for result in msgspec.json.decode(answer.body(""))["response"]["results"]
    ]


async def test_a_page_waits_for_redis_at_most_twice(redis_url: str, watched: Watched) -> None:
    async with shop_on(redis_url, prefill=False) as (shop, history):
        await history.add([viewed("i5", Shopper(client_id="c1")), viewed("i7")])
        await ask(shop, "home", num_results=1)  # its connection is open now
        watched.look()

        page = await ask_page(shop)
        calls, waits = watched.look()
        assert (calls.keys(), calls["lrange"]) == ({"lrange", "hmget"}, 2)
        assert waits == 2, "one for the history, one for all lists' items, though four are asked"
        assert page[0].items[:3] == ("i8", "i9", "i10")
        items = shown_on(page)
        assert len(set(items)) == len(items) == 40
        assert not {"i5", "i7"} & set(page[3].items), "the history is each list's"

        again = await ask_page(shop)
        assert watched.look() == ({"lrange": 2}, 1)
        assert shown_on(again) == items


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path, durable=False)
    with server:
        yield server


async def test_redis_killed_and_back(own_redis: EmbeddedRedis) -> None:
    async with shop_on(own_redis.url, prefill=False) as (shop, history):
        await history.add([viewed("i7")])
        before = await ask(shop, "you")
        own_redis.stop()
        for _ in range(5):
            got = await ask(shop, "you")
            assert got.items == before.items, "history and items are remembered"
            assert got.degraded == ("history",)
        other = RecommendationRequest(pod_id="home", shopper=Shopper(client_id="c2"))
        got = await shop.service.recommend(shop.serving.merchants()[SHOP], other)
        assert len(got.items) == 20
        assert got.degraded == ("features",)
        shown = msgspec.json.decode(got.body(""))["response"]["results"]
        assert all(result["value"].startswith("Item ") for result in shown)
        page = await ask_page(shop, Shopper(client_id="c3"))
        assert any("features" in answer.degraded for answer in page)
        items = shown_on(page)
        assert len(set(items)) == len(items), "no item twice, whatever is away"
        assert all(answer.items for answer in page)
        own_redis.start()
        for breaker in (shop.histories._breaker, shop.service._showing._breaker):
            breaker._seconds = 0.0
        await history.add([viewed("i7")])
        assert (await ask(shop, "you")).degraded == ()


async def test_redis_stalled(own_redis: EmbeddedRedis) -> None:
    async with shop_on(own_redis.url, prefill=True) as (shop, history):
        shop.histories._share = 0.02  # of 5 seconds
        await history.add([viewed("i7")])
        before = await ask(shop, "you")
        assert own_redis._child is not None
        process = psutil.Process(own_redis._child.pid)
        process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(5):  # the store's own timeout alone would take longer
                got = [await ask(shop, "you") for _ in range(20)]
        finally:
            process.send_signal(signal.SIGCONT)
        assert all(answer.items == before.items for answer in got)
        assert all(answer.degraded == ("history",) for answer in got)
