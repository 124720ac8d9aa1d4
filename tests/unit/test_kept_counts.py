"""Kept counts are caught up from where that is right, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.plugins.discovery import discover
from app.plugins.kept_counts import MOST_SECONDS, fit_incrementally
from vitrine_sdk import Arrays, TrainingData
from vitrine_sdk.testing import DAY, NOW, EventRow, ItemRow, shop
from vitrine_sdk.testing.additive import assert_close


def data(days: int, *, items: int = 12, late: bool = False, who: int = 40) -> TrainingData:
    """A shop's first days; the same events each time."""
    rng = np.random.default_rng(2)
    rows = []
    for day in range(20):
        for shopper in rng.choice(who, 6, replace=False).tolist():
            for item in rng.choice(8, 3, replace=False).tolist():
                rows.append((day, f"s{shopper}", f"i{item}"))  # noqa: PERF401  # in this order
    kept = [
        EventRow(shopper=shopper, item=item, time=NOW + day * DAY)
        for day, shopper, item in rows
        if day < days
    ]
    if late:  # it happened in the beginning, and was heard of last
        kept.append(EventRow(shopper="s1", item="i1", time=NOW + 5))
    made = shop([ItemRow(id=f"i{n}") for n in range(items)], kept)
    return replace(made, now=int(made.events.time.max()))


def strategy() -> Any:
    found = discover().get("similar")
    assert found is not None
    return found.usable()


class Counting:
    """The strategy, and how many events it counts."""

    def __init__(self) -> None:
        self.strategy = strategy()
        self.counted = 0

    def count(self, data: TrainingData, config: Any) -> Arrays:
        self.counted += len(data.events)
        counts: Arrays = self.strategy.count(data, config)
        return counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strategy, name)


def fit(made: TrainingData, place: Path, key: str = "k") -> tuple[Arrays, bool, int]:
    counting: Any = Counting()
    config = counting.strategy.config()
    arrays, resumed = fit_incrementally(counting, made, config, 1, place, key)
    assert_close(arrays, counting.strategy.fit(made, config, 1))
    return arrays, resumed, counting.counted


def test_only_shoppers_with_news_are_counted(tmp_path: Path) -> None:
    first = data(5)
    assert fit(first, tmp_path / "c")[1:] == (False, len(first.events))
    then = data(6, items=15)  # the shop has three items more
    _, resumed, counted = fit(then, tmp_path / "c")
    assert resumed
    assert counted < len(then.events)
    assert fit(data(7), tmp_path / "c")[1]  # and three less


@pytest.mark.parametrize(
    "changed",
    [
        lambda place: fit(data(6), place, key="another configuration"),
        lambda place: fit(data(6, late=True), place),
        lambda place: fit(data(6, who=30), place),
        lambda place: fit(data(5 + 2 + MOST_SECONDS // DAY), place),
        lambda place: fit(data(4), place),
        lambda place: (place / "index.json").write_text("{") and fit(data(6), place),
    ],
    ids=["configuration", "late event", "other shoppers", "a week", "the past", "damaged"],
)
def test_all_is_counted_where_the_kept_counts_are_wrong(tmp_path: Path, changed: Any) -> None:
    fit(data(5), tmp_path / "c")
    assert not changed(tmp_path / "c")[1]
    assert fit(data(5), tmp_path / "d")[1:] == (False, len(data(5).events))


def test_nothing_is_left_beside_them(tmp_path: Path) -> None:
    fit(data(5), tmp_path / "a/c")
    fit(data(6), tmp_path / "a/c")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c"]
