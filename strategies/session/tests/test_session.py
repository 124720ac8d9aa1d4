"""`session` answers from visits like this one, and only from this visit."""

from __future__ import annotations

import pytest
from vitrine_session import Session, SessionConfig

from vitrine_sdk import EventType, TrainingData
from vitrine_sdk.testing import DAY, NOW, EventRow, ItemRow, context, history, shop


@pytest.fixture(scope="module")
def data() -> TrainingData:
    items = [ItemRow(id=name) for name in "abcdefgh"]
    visits = ["abc"] * 8 + ["abd"] * 3 + ["efg"] * 8 + ["ebh"] * 8
    return shop(
        items,
        [
            EventRow(
                shopper=f"{i}",
                item=item,
                type=EventType.VIEW,
                time=NOW - DAY - i * 600 + step * 20,
                session="1",
            )
            for i, visit in enumerate(visits)
            for step, item in enumerate(visit)
        ],
    )


def _first(data: TrainingData, past: str, ages: list[float], **options: object) -> str:
    strategy, config = Session(), SessionConfig(embedding=0.0, **options)
    model = strategy.load(strategy.fit(data, config, 0), config, len(data.items))
    where = [data.items.ids.index(item) for item in past]
    answer = model.recommend(context(history=history(where, EventType.VIEW, ages)), 8)
    return next(data.items.ids[i] for i in answer.items if data.items.ids[i] not in past)


def test_the_whole_visit_counts_not_only_the_last_item(data: TrainingData) -> None:
    assert _first(data, "ba", [10, 30]) == "c"
    assert _first(data, "be", [10, 30]) == "h"


def test_an_earlier_visit_does_not_count(data: TrainingData) -> None:
    day = float(DAY)
    assert _first(data, "fa", [10, day]) in "egbh"
    assert _first(data, "fa", [10, day], pause_minutes=10_000) in "ebcg"


def test_own_items_come_again_only_where_wanted(data: TrainingData) -> None:
    strategy = Session()
    for own, shown in ((1.0, True), (0.0, False)):
        config = SessionConfig(embedding=0.0, own=own)
        model = strategy.load(strategy.fit(data, config, 0), config, len(data.items))
        answer = model.recommend(context(history=history([1, 0], EventType.VIEW)), 8)
        assert (0 in answer.items.tolist()) is shown


def test_going_back_counts_by_itself(data: TrainingData) -> None:
    """The same scores but for those of the last item and of the one before it."""
    strategy = Session()

    def scores(**options: float) -> dict[int, float]:
        config = SessionConfig(embedding=0.0, **options)
        model = strategy.load(strategy.fit(data, config, 0), config, len(data.items))
        answer = model.recommend(context(history=history([1, 0], EventType.VIEW)), 8)
        return dict(zip(answer.items.tolist(), answer.scores.tolist(), strict=True))

    plain = scores(own_last=1.0, own_before=1.0)
    changed = scores(own_last=0.5, own_before=2.0)
    assert set(changed) == set(plain)
    factor = {1: 0.5, 0: 2.0}
    for item, score in plain.items():
        assert changed[item] == pytest.approx(score * factor.get(item, 1.0), rel=1e-6)
