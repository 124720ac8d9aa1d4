"""`query` answers with what searchers of the term went on to choose."""

from __future__ import annotations

from vitrine_query import Query, QueryConfig

from vitrine_sdk import EventType
from vitrine_sdk.testing import NOW, EventRow, ItemRow, context, shop


def test_by_term_then_by_its_words() -> None:
    items = [ItemRow(id=name) for name in ("mug", "teapot", "saw")]
    events = []
    for i in range(5):
        who = {"shopper": f"s{i}", "session": "1"}
        events += [
            EventRow(item=None, type=EventType.SEARCH, term="Tea  Pot", time=NOW - 90, **who),
            EventRow(item="mug", type=EventType.VIEW, time=NOW - 80, **who),
            EventRow(item="teapot", type=EventType.PURCHASE, time=NOW - 70, **who),
        ]
    events += [
        EventRow(shopper="x", item="saw", type=EventType.SEARCH, term="saw", time=NOW - 50),
        EventRow(shopper="y", item="saw", type=EventType.PURCHASE, time=NOW - 40),
    ]
    data, strategy, config = shop(items, events), Query(), QueryConfig()
    model = strategy.load(strategy.fit(data, config, 0), config, 3)

    def asked(term: str) -> list[tuple[str, str]]:
        answer = model.recommend(context(term=term), 5)
        return [
            (items[i].id, strategy.reasons[r])
            for i, r in zip(answer.items, answer.reasons, strict=True)
        ]

    assert asked("tea pot") == [("teapot", "chosen_after_search"), ("mug", "chosen_after_search")]
    assert asked("ＴＥＡ pot")[0][0] == "teapot"
    assert asked("big pot")[0] == ("teapot", "chosen_after_like_search")
    assert asked("saw") == [("saw", "chosen_after_search")]
    assert asked("kettle") == []
