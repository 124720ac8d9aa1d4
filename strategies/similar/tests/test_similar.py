"""`similar` finds what goes together, and what only looks alike."""

from __future__ import annotations

import pytest

from vitrine_sdk import TrainingData
from vitrine_sdk.testing import EventRow, ItemRow, context, shop
from vitrine_similar import Similar, SimilarConfig


def _asked(data: TrainingData, config: SimilarConfig, *seeds: str) -> list[tuple[str, str]]:
    strategy = Similar()
    model = strategy.load(strategy.fit(data, config, 0), config, len(data.items))
    answer = model.recommend(context([data.items.ids.index(s) for s in seeds]), 10)
    return [
        (data.items.ids[i], strategy.reasons[r])
        for i, r in zip(answer.items, answer.reasons, strict=True)
    ]


def _shop() -> TrainingData:
    items = [
        ItemRow(id="tent", name="Tent for two", price=200, groups=("camp", "tents")),
        ItemRow(id="tent4", name="Tent for four", price=260, groups=("camp", "tents")),
        ItemRow(id="mat", name="Sleeping mat", price=40, groups=("camp", "mats")),
        ItemRow(id="stove", name="Gas stove", price=50, groups=("camp", "stoves")),
        ItemRow(id="tent6", name="Tent for six", price=300, groups=("camp", "tents")),
        ItemRow(id="cup", name="Teetasse", price=5, groups=("home", "cups")),
        ItemRow(id="茶", name="抹茶茶碗", price=30, groups=("home", "bowls")),
        ItemRow(id="碗", name="茶碗", price=30, groups=("home", "bowls")),
    ]
    baskets = [("tent", "mat"), ("tent", "mat"), ("tent", "stove"), ("tent4", "mat")]
    baskets += [("tent", "tent4"), ("cup", "stove"), ("cup", "mat")] * 2
    events = [
        EventRow(shopper=f"s{i}", item=item, session="1")
        for i, basket in enumerate(baskets * 3)
        for item in basket
    ]
    return shop(items, events)


def test_bought_together() -> None:
    found = _asked(_shop(), SimilarConfig(), "tent")
    assert found[0] in [("mat", "bought_together"), ("tent4", "bought_together")]
    assert "tent" not in dict(found)


def test_substitutes_are_of_the_same_kind() -> None:
    found = dict(_asked(_shop(), SimilarConfig(relation="substitute"), "tent"))
    assert set(found) == {"tent4", "tent6"}


def test_complements_are_not() -> None:
    found = dict(_asked(_shop(), SimilarConfig(relation="complement"), "tent"))
    assert set(found) == {"mat", "stove"}


def test_an_item_nobody_bought_is_like_its_kind_by_content() -> None:
    found = _asked(_shop(), SimilarConfig(), "tent6")
    assert {item for item, _ in found[:2]} == {"tent", "tent4"}
    assert found[0][1] == "similar_content"


def test_names_in_any_language() -> None:
    assert _asked(_shop(), SimilarConfig(), "茶")[0] == ("碗", "similar_content")


def test_a_whole_cart_is_asked_together() -> None:
    found = [item for item, _ in _asked(_shop(), SimilarConfig(), "tent", "cup")]
    assert found[0] == "mat"
    assert not {"tent", "cup"} & set(found)


@pytest.mark.parametrize("damping", [0.0, 0.9])
def test_damping_lifts_what_is_peculiar(damping: float) -> None:
    items = [ItemRow(id=name) for name in ("seed", "bread", "niche", *map(str, range(5)))]
    events = []
    for i in range(200):
        basket = ["bread", str(i % 5)]
        if i % 20 == 0:
            basket = ["seed", "bread"]
        if i % 25 == 0:
            basket = ["seed", "niche"]
        events += [EventRow(shopper=f"s{i}", item=item, session="1") for item in basket]
    data = shop(items, events)
    first = _asked(data, SimilarConfig(damping=damping, content=0), "seed")[0][0]
    assert first == ("bread" if damping == 0 else "niche")
