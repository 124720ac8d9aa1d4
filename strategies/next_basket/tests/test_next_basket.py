"""`next_basket` weighs what the shopper buys against what everybody buys."""

from __future__ import annotations

from vitrine_next_basket import NextBasket, NextBasketConfig

from vitrine_sdk import EventType, TrainingData
from vitrine_sdk.testing import DAY, NOW, EventRow, ItemRow, context, history, shop


def _shop() -> TrainingData:
    items = [ItemRow(id=name) for name in ("milk", "oats", "wine", "soap")]
    events = [
        EventRow(
            shopper=f"s{i}",
            item=item,
            time=NOW - week * 7 * DAY,
            session=str(week),
            revenue={"milk": 1.0, "oats": 2.0, "wine": 30.0, "soap": 3.0}[item],
        )
        for i in range(40)
        for week in range(1, 6)
        for item in (["milk"] + (["oats"] if i % 4 == 0 else []) + (["wine"] if i % 5 == 0 else []))
    ]
    return shop(items, events)


def _answer(past: list[int], ages: list[float], **options: object) -> list[tuple[str, str]]:
    data, strategy = _shop(), NextBasket()
    config = NextBasketConfig(**options)
    model = strategy.load(strategy.fit(data, config, 0), config, len(data.items))
    answer = model.recommend(context(history=history(past, EventType.PURCHASE, ages)), 9)
    return [
        (data.items.ids[i], strategy.reasons[r])
        for i, r in zip(answer.items, answer.reasons, strict=True)
    ]


WEEK = 7.0 * DAY


def test_own_habit_comes_before_everybodys() -> None:
    found = _answer([1, 1, 1], [WEEK, 2 * WEEK, 3 * WEEK])
    assert found[0] == ("oats", "bought_before")
    assert found[1] == ("milk", "others_buy")


def test_one_purchase_is_no_habit_yet() -> None:
    assert _answer([3], [WEEK], prior=20.0)[0] == ("milk", "others_buy")


def test_revenue_weighs_the_chance_by_what_it_brings() -> None:
    past = ([1, 1, 1], [WEEK, 2 * WEEK, 3 * WEEK])
    names = [name for name, _ in _answer(*past, objective="revenue")]
    assert names.index("wine") < names.index("milk")
    assert [name for name, _ in _answer(*past, objective="revenue", dear=0.0)][:2] == [
        "oats",
        "milk",
    ]


def test_who_has_bought_nothing_is_left_to_the_next_strategy() -> None:
    data, strategy = _shop(), NextBasket()
    config = NextBasketConfig()
    model = strategy.load(strategy.fit(data, config, 0), config, len(data.items))
    assert len(model.recommend(context(history=history([0], EventType.VIEW)), 5)) == 0
