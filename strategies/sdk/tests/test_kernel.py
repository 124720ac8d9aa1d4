"""The compiled kernel and its twin in Python say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrine_sdk import kernel
from vitrine_sdk.neighbours import Neighbours, summed
from vitrine_sdk.ranking import ranked

ITEMS = 40

pytestmark = pytest.mark.skipif(kernel.compiled is None, reason="no kernel was built")

weights = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 0.1])


def twins(ask: Any) -> tuple[Any, Any]:
    """What the kernel says, and what its twin does."""
    compiled = kernel.compiled
    assert compiled is not None
    answer = ask()
    try:
        kernel.compiled = None
        return answer, ask()
    finally:
        kernel.compiled = compiled


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> None:
    assert one.dtype == other.dtype
    assert one.tolist() == other.tolist()


@settings(max_examples=200)
@given(
    cells=st.lists(
        st.lists(st.tuples(st.integers(0, ITEMS - 1), weights), max_size=9),
        min_size=1,
        max_size=ITEMS,
    ),
    rows=st.lists(st.tuples(st.integers(0, ITEMS - 1), weights), max_size=12),
    without=st.none() | st.lists(st.integers(-1, ITEMS), max_size=9),
)
def test_neighbours_are_merged_alike(
    cells: list[list[tuple[int, float]]],
    rows: list[tuple[int, float]],
    without: list[int] | None,
) -> None:
    flat = [cell for row in cells for cell in row]
    neighbours = Neighbours(
        np.cumsum([0, *map(len, cells)]).astype(np.int64),
        np.array([item for item, _ in flat], np.int32),
        np.array([weight for _, weight in flat], np.float32),
    )
    asked = np.array([row % len(cells) for row, _ in rows], np.int32)
    factors = np.array([factor for _, factor in rows], np.float32)
    away = None if without is None else np.array(without, np.int32)
    (items, sums), (other_items, other_sums) = twins(
        lambda: neighbours.merged(asked, factors, away)
    )
    same(items, other_items)
    same(sums, other_sums)
    assert items.tolist() == sorted(set(items.tolist()) - set(without or ()))


@given(cells=st.lists(st.tuples(st.integers(0, ITEMS - 1), weights), max_size=90))
def test_weights_are_summed_alike(cells: list[tuple[int, float]]) -> None:
    items = np.array([item for item, _ in cells], np.int32)
    values = np.array([weight for _, weight in cells], np.float32)
    (found, sums), (other_found, other_sums) = twins(lambda: summed(items, values))
    same(found, other_found)
    same(sums, other_sums)


@settings(max_examples=200)
@given(
    scores=st.lists(weights | st.just(float("nan")), max_size=120),
    limit=st.integers(1, 40),
    eligible=st.none() | st.lists(st.booleans(), min_size=120, max_size=120),
    seed=st.integers(0, 2**16),
)
def test_the_best_are_ranked_alike(
    scores: list[float], limit: int, eligible: list[bool] | None, seed: int
) -> None:
    if len(scores) > 4 * limit:  # a partition of what is no number is nothing to rely on
        scores = [score for score in scores if score == score]
    items = np.random.default_rng(seed).permutation(120).astype(np.int32)[: len(scores)]
    values = np.array(scores, np.float32)
    mask = None if eligible is None else np.array(eligible, np.bool_)
    found, other = twins(lambda: ranked(items, values, limit, 1, mask))
    same(found.items, other.items)
    same(found.reasons, other.reasons)
    assert np.array_equal(found.scores, other.scores, equal_nan=True)


@given(
    cells=st.lists(st.tuples(st.integers(0, ITEMS - 1), weights, weights), max_size=30),
    eligible=st.none() | st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS),
    limit=st.integers(1, 40),
)
def test_a_rows_first_neighbours_are_taken_alike(
    cells: list[tuple[int, float, float]], eligible: list[bool] | None, limit: int
) -> None:
    offsets = np.array([0, 0, 0, 0, len(cells)], np.int64)
    items, values, parts = (
        np.array([cell[i] for cell in cells], dtype)
        for i, dtype in enumerate((np.int32, np.float32, np.float32))
    )
    neighbours, of_parts = Neighbours(offsets, items, values), Neighbours(offsets, items, parts)
    mask = None if eligible is None else np.array(eligible, np.bool_)
    for row in (3, 2):
        for one, other in zip(
            *twins(lambda row=row: neighbours.first(row, limit, of_parts, mask)), strict=True
        ):
            same(one, other)


def test_what_lies_outside_of_the_arrays_is_refused() -> None:
    neighbours = Neighbours(
        np.array([0, 1], np.int64), np.array([0], np.int32), np.array([1], np.float32)
    )
    one = np.ones(1, np.float32)
    for row in (1, -1):
        with pytest.raises(IndexError):
            neighbours.merged(np.array([row], np.int32), one)
        with pytest.raises(IndexError):
            neighbours.first(row, 1, neighbours, None)
    with pytest.raises(IndexError):
        ranked(np.array([3], np.int32), one, 5, eligible=np.ones(2, np.bool_))


def test_arrays_of_other_types_are_the_twins() -> None:
    neighbours = Neighbours(
        np.array([0, 2], np.int64), np.array([4, 1], np.int32), np.array([1, 2], np.float32)
    )
    items, sums = neighbours.merged(np.array([0], np.int64), np.array([2.0]))  # type: ignore[arg-type]
    assert items.tolist() == [1, 4]
    assert sums.tolist() == [4, 2]


def test_what_is_no_array_or_cannot_be_written_is_refused() -> None:
    compiled: Any = kernel.compiled
    one, row = np.ones(1, np.bool_), np.zeros(1, np.int32)
    for wrong in ([0], b"\0\0\0\0", np.zeros(1, np.int64)):
        with pytest.raises(TypeError):
            compiled.taken(row, wrong)
    with pytest.raises(ValueError, match="contiguous"):
        compiled.taken(row, np.zeros(4, np.int32)[::2])
    marks = np.zeros(1, np.uint8)
    marks.setflags(write=False)
    with pytest.raises(ValueError, match="read-only"):
        compiled.qualify(row, one, None, marks, [], [], None, None, None, [0] * 8, 1)
