"""The metrics, against values worked out by hand and against plain definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import metrics
from app.domain.metrics import Truth

# Two queries: the first finds its second item at place 2 and its third at 4; the other nothing.
LISTS = np.array([[9, 1, 8, 2], [5, 6, -1, -1]], np.int32)
TRUTH = Truth(
    np.array([0, 3, 4]), np.array([3, 1, 2, 7], np.int32), np.array([10, 20, 30, 40], np.float32)
)
FOUND = metrics.hits(LISTS, TRUTH).found


def test_hits() -> None:
    assert FOUND.tolist() == [[False, True, False, True], [False] * 4]
    assert metrics.hits(LISTS, TRUTH).revenue.tolist() == [[0, 20, 0, 30], [0] * 4]


def test_a_short_list_never_hits_its_padding() -> None:
    lists = np.array([[-1, -1], [-1, -1]], np.int32)
    truth = Truth(np.array([0, 1, 2]), np.array([1, 0], np.int32), np.zeros(2, np.float32))
    assert not metrics.hits(lists, truth).found.any()


def test_accuracy_by_hand() -> None:
    sizes = TRUTH.sizes
    assert metrics.hit_rate(FOUND, 1).tolist() == [0, 0]
    assert metrics.hit_rate(FOUND, 2).tolist() == [1, 0]
    assert metrics.recall(FOUND, sizes, 4) == pytest.approx([2 / 3, 0])
    assert metrics.mrr(FOUND, 4).tolist() == [0.5, 0]
    assert metrics.mrr(FOUND, 1).tolist() == [0, 0]
    assert metrics.average_precision(FOUND, sizes, 4) == pytest.approx([(1 / 2 + 2 / 4) / 3, 0])
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    gained = 1 / math.log2(3) + 1 / math.log2(5)
    assert metrics.ndcg(FOUND, sizes, 4) == pytest.approx([gained / ideal, 0])


def test_revenue_captured_is_a_ratio_of_sums() -> None:
    captured, total = metrics.revenue_captured(metrics.hits(LISTS, TRUTH), TRUTH, 2)
    assert captured.tolist() == [20, 0]
    assert total.tolist() == [60, 40]
    assert metrics.bootstrap_ratio(captured, total).value == pytest.approx(0.2)


def test_beyond_accuracy_by_hand() -> None:
    popularity = np.array([0, 6, 0, 0, 0, 2, 0, 0, 0, 0])
    assert metrics.coverage(LISTS, 10, 2) == pytest.approx(4 / 10)
    share = (popularity + 1) / 18
    expected = (-math.log2(share[9]) - math.log2(share[1])) / 2
    assert metrics.novelty(LISTS, popularity, 2)[0] == pytest.approx(expected)
    assert metrics.popular_share(LISTS, popularity, 2, head=0.1) == pytest.approx(1 / 4)
    assert metrics.diversity(np.array([[1, 2], [1, 3]], np.int32), 2) == pytest.approx(0.5)
    kind = np.array([0, 1, 1, 0, 0, 0, 0, 0, 0, 2], np.int32)
    assert metrics.intra_list_diversity(LISTS, kind, 3)[0] == pytest.approx(1.0)
    assert metrics.intra_list_diversity(np.array([[1, 2, 9]], np.int32), kind, 3)[
        0
    ] == pytest.approx(2 / 3)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 15), min_size=6, max_size=6, unique=True),
            st.sets(st.integers(0, 15), min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 6),
)
def test_the_vectors_equal_the_definitions(
    queries: list[tuple[list[int], set[int]]], k: int
) -> None:
    lists = np.array([shown for shown, _ in queries], np.int32)
    chosen = [sorted(wanted) for _, wanted in queries]
    truth = Truth(
        np.concatenate(([0], np.cumsum([len(one) for one in chosen]))),
        np.array([i for one in chosen for i in one], np.int32),
        np.zeros(sum(map(len, chosen)), np.float32),
    )
    found = metrics.hits(lists, truth).found
    for row, (shown, wanted) in enumerate(queries):
        places = [i for i, item in enumerate(shown[:k]) if item in wanted]
        assert metrics.recall(found, truth.sizes, k)[row] == pytest.approx(
            len(places) / len(wanted)
        )
        ideal = sum(1 / math.log2(i + 2) for i in range(min(k, len(wanted))))
        assert metrics.ndcg(found, truth.sizes, k)[row] == pytest.approx(
            sum(1 / math.log2(i + 2) for i in places) / ideal
        )
        assert metrics.mrr(found, k)[row] == (1 / (places[0] + 1) if places else 0)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(100):
        drawn = (rng.random(400) < 0.1).astype(np.float64)
        found = metrics.bootstrap(drawn, seed=trial, samples=200)
        held += found.low <= 0.1 <= found.high
    assert 85 <= held <= 100


def test_a_paired_comparison_sees_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(2000)
    better = hard + 0.01 + rng.normal(0, 0.05, 2000)
    assert metrics.bootstrap(better).low < metrics.bootstrap(hard).high
    found = metrics.compare(better, hard)
    assert found.difference.low > 0
    assert found.p_value < 0.01
    same = metrics.compare(hard, rng.permutation(hard))
    assert same.difference.low < 0 < same.difference.high
    assert same.p_value > 0.05
