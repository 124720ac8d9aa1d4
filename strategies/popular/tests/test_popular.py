"""`popular` counts what it says it counts."""

from __future__ import annotations

import numpy as np

from vitrine_popular import Popular, PopularConfig
from vitrine_sdk import EventType, TrainingData
from vitrine_sdk.testing import DAY, NOW, EventRow, ItemRow, context, shop


def _events(item: str, shoppers: int, days: float, kind: EventType = EventType.VIEW) -> list:
    return [
        EventRow(shopper=f"{item}{days}{i}", item=item, type=kind, time=int(NOW - days * DAY))
        for i in range(shoppers)
    ]


def _best(data: TrainingData, config: PopularConfig, **request: object) -> list[str]:
    strategy = Popular()
    model = strategy.load(strategy.fit(data, config, 0), config, len(data.items))
    return [data.items.ids[i] for i in model.recommend(context(**request), 10).items]


ITEMS = [ItemRow(id=name, created=NOW - i * DAY) for i, name in enumerate("abcd")]


def test_a_purchase_weighs_more_than_a_view() -> None:
    data = shop(ITEMS, [*_events("a", 4, 1), *_events("b", 1, 1, EventType.PURCHASE)])
    assert _best(data, PopularConfig())[:2] == ["b", "a"]
    assert _best(data, PopularConfig(purchase=1))[:2] == ["a", "b"]


def test_one_shopper_who_reloads_counts_once() -> None:
    reload = [EventRow(shopper="x", item="a", type=EventType.VIEW, time=NOW - i) for i in range(99)]
    assert _best(shop(ITEMS, [*reload, *_events("b", 2, 1)]), PopularConfig())[0] == "b"


def test_recent_events_count_more_and_old_ones_only_order_the_rest() -> None:
    data = shop(ITEMS, [*_events("a", 3, 20), *_events("b", 2, 1), *_events("c", 99, 60)])
    assert _best(data, PopularConfig(half_life_days=7))[:3] == ["b", "a", "c"]
    assert _best(data, PopularConfig(half_life_days=365))[:3] == ["a", "b", "c"]


def test_trending_is_growth_not_size() -> None:
    steady = [*_events("a", 50, 5), *_events("a", 50, 40)]
    rising = [*_events("b", 20, 5), *_events("b", 2, 40)]
    data = shop(ITEMS, [*steady, *rising])
    assert _best(data, PopularConfig())[0] == "a"
    assert _best(data, PopularConfig(rank="trending"))[0] == "b"


def test_items_without_an_event_follow_newest_first() -> None:
    data = shop(ITEMS, _events("c", 1, 1))
    assert _best(data, PopularConfig()) == ["c", "a", "b", "d"]
    assert _best(data, PopularConfig(new_items=False)) == ["c"]


def test_within_what_the_filters_leave() -> None:
    data = shop(ITEMS, [*_events("a", 3, 1), *_events("d", 1, 1)])
    assert _best(data, PopularConfig(), eligible=np.array([False, True, True, True]))[0] == "d"


def test_by_revenue() -> None:
    dear = [EventRow(shopper="x", item="a", revenue=100.0)]
    cheap = [EventRow(shopper=f"y{i}", item="b", revenue=1.0) for i in range(3)]
    data = shop(ITEMS, [*dear, *cheap])
    assert _best(data, PopularConfig())[0] == "b"
    assert _best(data, PopularConfig(by_revenue=True))[0] == "a"
