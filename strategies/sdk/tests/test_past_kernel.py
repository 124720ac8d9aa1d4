"""A history on its way to a model: the kernel and its twins in Python say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrine_sdk import EventType, FloatArray, History, kernel
from vitrine_sdk.neighbours import Neighbours
from vitrine_sdk.past import NOTHING_AGAIN, following, repeated, weighed

ITEMS = 150

pytestmark = pytest.mark.skipif(kernel.history is None, reason="no kernel was built")

few = st.floats(0, 4, width=32) | st.sampled_from([0.0, 1.0, 0.5])
items = st.integers(0, ITEMS - 1)
histories = st.lists(
    st.tuples(items, st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 10**7)),
    min_size=1,
    max_size=300,
)


def twins(ask: Callable[[], Any]) -> tuple[Any, Any]:
    """What the kernels say, and what their twins do."""
    compiled, history = kernel.compiled, kernel.history
    answer = ask()
    try:
        kernel.compiled = kernel.history = None
        return answer, ask()
    finally:
        kernel.compiled, kernel.history = compiled, history


def past(events: list[tuple[int, int, int]]) -> History:
    events = sorted(events, key=lambda event: event[2])
    return History(
        np.array([item for item, _, _ in events], np.int32),
        np.array([type_ for _, type_, _ in events], np.int8),
        np.array([age for _, _, age in events], np.float32),
    )


def same(one: Any, other: Any) -> None:
    """To the last bit, but for what `exp2` rounds in one way or the other."""
    assert len(one) == len(other)
    for mine, twins_ in zip(one, other, strict=True):
        assert mine.dtype == twins_.dtype
        if mine.dtype == np.float32:
            np.testing.assert_allclose(mine, twins_, rtol=1e-6, atol=0)
        else:
            assert mine.tolist() == twins_.tolist()


TABLE = np.zeros(128, np.float32)
TABLE[[1, 2, 3, 4]] = 1.0, 0.5, 2.0, 3.0


@settings(max_examples=100)
@given(events=histories, recency=st.sampled_from([0.8, 1.0, 0.05]))
def test_events_are_weighed_alike(events: list[tuple[int, int, int]], recency: float) -> None:
    history = past(events)
    # Nothing lies so near the least that it is a matter of rounding.
    one, other = twins(lambda: weighed(history, TABLE, recency, 30.0, 0.0))
    same(one, other)
    weights, chosen, telling = one
    assert chosen.tolist() == history.items[weights > 0].tolist()
    assert telling.tolist() == weights[weights > 0].tolist()


def test_what_counts_little_is_left_out() -> None:
    history = past([(7, 4, 0), (8, 1, 0), (9, 6, 0), (5, 4, 86_400 * 300)])
    for weights, chosen, telling in twins(lambda: weighed(history, TABLE, 0.5, 30.0, 0.01)):
        assert weights.tolist() == [3.0, 0.5, 0.0, pytest.approx(3 / 8 / 1024)]
        assert (chosen.tolist(), telling.tolist()) == ([7, 8], [3.0, 0.5])


@settings(max_examples=100)
@given(events=histories, ready=st.lists(few, min_size=ITEMS, max_size=ITEMS), data=st.data())
def test_what_is_had_again_is_found_alike(
    events: list[tuple[int, int, int]], ready: list[float], data: st.DataObject
) -> None:
    history, again = past(events), np.array(ready, np.float32)
    weights = np.array(data.draw(st.lists(few, min_size=len(events), max_size=len(events))))
    one, other = twins(
        lambda: repeated(history, weights.astype(np.float32), EventType.PURCHASE, again)
    )
    same(one, other)
    found, sums = one
    assert found.tolist() == sorted(set(found.tolist()))
    assert (sums > 0).all()
    bought = set(history.items[history.types == EventType.PURCHASE].tolist())
    assert bought.issuperset(found.tolist())


@pytest.mark.parametrize("seed", range(60))
def test_what_follows_is_found_alike(seed: int) -> None:
    dice = np.random.default_rng(seed)

    def some(count: int) -> FloatArray:
        """Many of them equal, some nothing."""
        return dice.choice([0, 1, 0.5, *dice.random(3)], count).astype(np.float32)

    sizes = dice.integers(0, 40, ITEMS)
    transitions = Neighbours(
        np.concatenate(([0], sizes.cumsum())).astype(np.int64),
        dice.integers(0, ITEMS, sizes.sum()).astype(np.int32),
        some(sizes.sum()),
    )
    rows = dice.integers(0, ITEMS, dice.integers(0, 12)).astype(np.int32)
    factors = some(len(rows))
    history = past([(item, 4, 0) for item in dice.integers(0, ITEMS, 50).tolist()])
    had = np.unique(dice.choice(history.items, dice.integers(0, 20)))
    again = (had.astype(np.int32), dice.choice([0.5, 1, 0.3], len(had)).astype(np.float32))
    eligible = None if seed % 2 else dice.random(ITEMS) > 0.5
    for share in (0.0, 0.4, 1.0):
        for limit in (1, 7, 40, 200):
            args = transitions, rows, factors, history, again, share, limit, eligible
            one, other = twins(lambda args=args: following(*args))  # type: ignore[misc]
            assert one.items.tolist() == other.items.tolist()
            assert one.scores.tolist() == other.scores.tolist()
            assert one.reasons.tolist() == other.reasons.tolist()
            assert len(one) <= limit


def test_the_kernel_refuses_what_would_lead_it_astray() -> None:
    compiled = kernel.history
    assert compiled is not None
    ints, floats = np.zeros(2, np.int32), np.zeros(2, np.float32)
    types, ages = np.zeros(2, np.int8), np.zeros(2, np.float32)
    offsets = np.array([0, 1], np.int64)
    one, weight = np.zeros(1, np.int32), np.ones(1, np.float32)
    none, nothing = NOTHING_AGAIN

    def follow(**others: Any) -> Any:
        given_ = {
            "offsets": offsets, "neighbours": one, "weights": weight, "rows": one,
            "factors": weight, "without": none, "first": none, "first_scores": nothing,
            "share": 0.5, "eligible": None, "limit": 3, **others,
        }  # fmt: skip
        return compiled.following(*given_.values())

    items_, scores, reasons = follow()
    assert (items_.tolist(), scores.tolist(), reasons.tolist()) == ([0], [1.0], [0])
    with pytest.raises(IndexError, match="row 1 of 1"):
        follow(rows=one + np.int32(1))
    with pytest.raises(IndexError, match="item 5 of 1"):
        follow(neighbours=one + np.int32(5))
    with pytest.raises(IndexError, match="item -1 of 1"):
        follow(first=one - np.int32(1), first_scores=weight)
    with pytest.raises(IndexError, match="ends beyond"):
        follow(offsets=np.array([0, 7], np.int64))
    with pytest.raises(ValueError, match="flags"):
        follow(eligible=np.zeros(0, np.bool_))
    with pytest.raises(ValueError, match="length"):
        follow(factors=nothing)
    with pytest.raises(TypeError):
        follow(without=None)
    assert follow()[1].tolist() == [1.0], "nothing of a refused call is left"
    with pytest.raises(IndexError, match="type"):
        compiled.weighed(ints, types - np.int8(1), ages, TABLE, floats, 1.0, 0.0)
    with pytest.raises(ValueError, match="decays"):
        compiled.weighed(ints, types, ages, TABLE, weight, 1.0, 0.0)
    with pytest.raises(IndexError, match="item 0 of 0"):
        compiled.repeated(ints, types, floats, 0, nothing)
    with pytest.raises(ValueError, match="length"):
        compiled.known(ints, ints, types[:1], np.zeros(2, np.int64), 5, 0)
