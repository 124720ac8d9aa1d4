"""What recommendations brought: clicks remembered in a real Redis, orders led back to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from app.domain.catalogue import ItemId
from app.domain.errors import Unavailable
from app.domain.event import Event, Line, Shopper
from app.domain.merchant import MerchantId
from app.redis.connection import RedisConnection
from app.redis.history import HistoryStore
from app.redis.placements import Placements
from app.services.attribute import Attribution, Click, Placement, Search
from app.telemetry.metrics import Metrics
from vitrine_sdk import EventType

SHOP = MerchantId("shop")


class Serving:
    def merchants(self) -> Any:
        known = SimpleNamespace(pods={"home": 1, "pdp": 1}, strategies={"popular": 1, "similar": 1})
        return {SHOP: SimpleNamespace(configuration=known)}


class Counted:
    """What was counted, by name and labels."""

    def __init__(self) -> None:
        self.metrics = Metrics()

    def of(self, name: str, pod: str = "home", strategy: str = "popular") -> float:
        labels = {"merchant": "shop", "pod": pod, "strategy": strategy}
        return (
            self.metrics.registry.get_sample_value(f"vitrine_recommendation_{name}_total", labels)
            or 0.0
        )

    def shop(self, name: str) -> float:
        found = self.metrics.registry.get_sample_value(
            f"vitrine_shop_{name}_total", {"merchant": "shop"}
        )
        return found or 0.0


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(redis_url)
    yield connection
    await connection.close()


def event(type_: EventType, *items: str, client: str = "c", **fields: Any) -> Event:
    fields.setdefault("shopper", Shopper(client_id=client))
    return Event(
        merchant=SHOP,
        type=type_,
        action="x",
        time=1.0,
        received=1.0,
        fingerprint=b"0" * 16,
        lines=tuple(Line(item_id=ItemId(item), price=10.0, quantity=2.0) for item in items),
        **fields,
    )


def click(*items: str, pod: str = "home", strategy: str = "popular", **fields: Any) -> Event:
    return event(EventType.CLICK, *items, pod_id=pod, strategy=strategy, **fields)


async def test_orders_are_led_back_to_the_last_click(redis: RedisConnection) -> None:
    counted = Counted()
    attribution = Attribution(Placements(redis), Serving(), counted.metrics)
    working = asyncio.create_task(attribution.run())
    attribution.received(
        event(EventType.IMPRESSION, "a", "b", "c", pod_id="home", strategy="popular")
    )
    attribution.received(click("a", result_id="r1"))
    attribution.received(click("b"))
    attribution.received(click("b", pod="pdp", strategy="similar"))  # the later one counts
    attribution.received(event(EventType.CLICK, "z"))  # of a search: no pod
    attribution.received(event(EventType.CART, "a"))
    attribution.received(event(EventType.PURCHASE, "a", "b", "z", revenue=60.0))
    attribution.received(event(EventType.PURCHASE, "a", client="somebody else"))
    attribution.received(event(EventType.PURCHASE, "a", learn=False))  # a robot's
    async with asyncio.timeout(20):
        while counted.of("purchases", "pdp", "similar") < 1 or counted.of("purchases") < 1:
            await asyncio.sleep(0.01)
    working.cancel()
    assert counted.of("impressions") == 3
    assert (counted.of("clicks"), counted.of("clicks", "pdp", "similar")) == (2, 1)
    assert counted.of("carts") == 1
    assert (counted.of("purchases"), counted.of("revenue")) == (1, 20)
    assert counted.of("revenue", "pdp", "similar") == 20
    assert (counted.shop("purchases"), counted.shop("revenue")) == (4, 80)


async def test_a_result_leads_across_items_and_identities(redis: RedisConnection) -> None:
    counted = Counted()
    attribution = Attribution(Placements(redis), Serving(), counted.metrics)
    await attribution.attribute([click("a", result_id="r1"), click("b", pod="pdp")])
    known = Shopper(client_id="c", user_id="u")  # who has signed in since
    await attribution.attribute([event(EventType.PURCHASE, "b", shopper=known, result_id="r1")])
    assert counted.of("purchases") == 1
    assert counted.of("purchases", "pdp") == 0


async def test_invented_names_become_no_labels(redis: RedisConnection) -> None:
    counted = Counted()
    attribution = Attribution(Placements(redis), Serving(), counted.metrics)
    for number in range(5):
        attribution.received(click("a", pod=f"invented-{number}", strategy="x"))
    assert counted.of("clicks", "other", "other") == 5


async def test_a_forgotten_shopper_leaves_no_clicks(redis: RedisConnection) -> None:
    placements = Placements(redis)
    await placements.remember([Click(SHOP, "c:me", ["i:a"], Placement("home", "popular"))])
    assert await HistoryStore(redis.client).forget(SHOP, ["c:me"]) == 0  # there is no history
    assert await placements.find([Search(SHOP, ["c:me"], ["i:a"])]) == [None]


async def test_more_clicks_than_are_sent_at_once_and_more_than_one_shopper_makes(
    redis: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.redis.connection.MOST_PARTS", 7)
    placements = Placements(redis)
    home = Placement("home", "popular")
    await placements.remember([Click(SHOP, f"c:{n}", [f"i:{n}"], home) for n in range(20)])
    robot = [Click(SHOP, "c:robot", [f"i:{n}"], home) for n in range(1_001)]
    await placements.remember(robot[:1_000])
    wanted = [Search(SHOP, [f"c:{n}"], ["r:1", f"i:{n}"]) for n in range(20)]
    robots = Search(SHOP, ["c:robot"], ["i:5"])
    assert await placements.find([*wanted, robots]) == [home] * 21
    await placements.remember(robot[1_000:])
    assert await placements.find([robots]) == [None]


async def test_what_cannot_be_attributed_is_counted() -> None:
    class Away:
        async def remember(self, clicks: Sequence[Click]) -> None:
            raise Unavailable("away")

        async def find(self, searches: Sequence[Search]) -> Sequence[Placement | None]:
            raise Unavailable("away")

    counted = Counted()
    attribution = Attribution(Away(), Serving(), counted.metrics, waiting=2)
    for _ in range(3):
        attribution.received(click("a"))
    failures = "vitrine_attribution_failures_total"
    sample = counted.metrics.registry.get_sample_value
    assert sample(failures, {"reason": "full"}) == 1
    working = asyncio.create_task(attribution.run())
    async with asyncio.timeout(20):
        while sample(failures, {"reason": "away"}) != 2:
            await asyncio.sleep(0.01)
    working.cancel()
