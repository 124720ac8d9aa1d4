"""`personalized` follows what the shopper just did, and knows shops where people buy again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vitrine_personalized import Personalized, PersonalizedConfig
from vitrine_sdk import EventType, TrainingData
from vitrine_sdk.testing import DAY, NOW, EventRow, ItemRow, context, history, shop


@pytest.fixture(scope="module")
def paths() -> TrainingData:
    """Forty shoppers walk a-b-c-d, forty w-x-y-z."""
    items = [ItemRow(id=name) for name in "abcdwxyz"]
    events = [
        EventRow(shopper=f"{walk}{i}", item=item, type=EventType.VIEW, time=NOW - (9 - step) * DAY)
        for walk in ("abcd", "wxyz")
        for i in range(40)
        for step, item in enumerate(walk)
    ]
    return shop(items, events)


def _model(data: TrainingData, **options: object) -> Any:
    strategy, config = Personalized(), PersonalizedConfig(**options)
    return strategy.load(strategy.fit(data, config, 0), config, len(data.items))


def _first(data: TrainingData, model: Any, *past: str, **more: object) -> str:
    where = [data.items.ids.index(item) for item in past]
    return data.items.ids[model.recommend(context(history=history(where, **more)), 3).items[0]]


@pytest.mark.parametrize("embedding", [0.0, 1.5])
def test_it_is_directed(paths: TrainingData, embedding: float) -> None:
    model = _model(paths, embedding=embedding)
    assert _first(paths, model, "b", "a") == "c"
    assert _first(paths, model, "x", "w") == "y"


def test_the_last_click_counts_most(paths: TrainingData) -> None:
    model = _model(paths, embedding=0.0)
    assert _first(paths, model, "x", "a") in "wyz"
    assert _first(paths, model, "a", "x") in "bcd"


def test_likeness_reaches_pairs_that_were_never_seen() -> None:
    """p and q are each followed by the same things, never by each other."""
    rng = np.random.default_rng(0)
    items = [ItemRow(id=str(i)) for i in range(40)]
    events = []
    for i in range(600):
        half = int(rng.integers(2))  # two worlds of twenty items
        for step, item in enumerate(rng.choice(20, 4, replace=False) + 20 * half):
            if {int(item)} <= {0, 1} and i % 2 != int(item):
                continue  # 0 only in even histories, 1 only in odd: never together
            events.append(EventRow(shopper=f"s{i}", item=str(item), time=NOW - (9 - step) * DAY))
    data = shop(items, events)
    past = context(history=history([0]))
    counted = _model(data, embedding=0.0).recommend(past, 40).items.tolist()
    learned = _model(data, embedding=1.5).recommend(past, 40).items.tolist()
    assert 1 not in counted
    assert 1 in learned[:25]


def test_repeat_purchases_where_the_shop_has_them() -> None:
    items = [ItemRow(id=name) for name in ("milk", "bread", "lamp", "vase")]
    events = [
        EventRow(shopper=f"s{i}", item=item, time=NOW - week * 7 * DAY, session=str(week))
        for i in range(30)
        for week in range(1, 5)
        for item in (["milk", "bread"] if week > 1 else ["milk", ["lamp", "vase"][i % 2]])
    ]
    data = shop(items, events)
    bought = {"types": EventType.PURCHASE}
    assert _first(data, _model(data), "lamp", "milk", **bought) == "milk"
    assert _first(data, _model(data, repeats=0.0), "lamp", "milk", **bought) not in ("milk", "lamp")
