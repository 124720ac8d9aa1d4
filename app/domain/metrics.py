"""How good ranked lists are: pure functions over arrays, one row a query.

`lists` is int32[q, K]: item positions, best first, -1 where a list is short. `Truth` holds what
each query's shopper went on to choose. Every metric of accuracy gives one value a query, so that
an interval can be drawn by resampling queries; `k` never exceeds K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Query `i` went on to choose ``items[offsets[i]:offsets[i + 1]]``, each once."""

    offsets: npt.NDArray[np.int64]
    items: IntArray
    revenue: npt.NDArray[np.float32]  # what each of them brought; zeros where unknown

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Where the lists and the truth meet."""

    found: npt.NDArray[np.bool_]  # q, K
    revenue: npt.NDArray[np.float32]  # q, K; of the item at that place, 0 if not chosen


def hits(lists: IntArray, truth: Truth) -> Hits:
    """Looks every listed item up in its query's truth."""
    queries, _ = lists.shape
    width = int(max(lists.max(initial=0), truth.items.max(initial=0))) + 1
    wanted = np.repeat(np.arange(queries), truth.sizes) * width + truth.items
    order = np.argsort(wanted)
    wanted, revenue = wanted[order], truth.revenue[order]
    keys = np.arange(queries)[:, None] * width + lists
    if not len(wanted):
        return Hits(np.zeros(lists.shape, np.bool_), np.zeros(lists.shape, np.float32))
    at = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    found = (wanted[at] == keys) & (lists >= 0)
    return Hits(found, np.where(found, revenue[at], 0).astype(np.float32))


def hit_rate(found: npt.NDArray[np.bool_], k: int) -> Values:
    """HR@k: 1 if any of the first k was chosen. With one item a query it equals recall."""
    return np.asarray(found[:, :k].any(axis=1), np.float64)


def recall(found: npt.NDArray[np.bool_], sizes: npt.NDArray[np.int64], k: int) -> Values:
    """Recall@k: the share of what was chosen that the first k hold (He et al., LightGCN, 2020:
    divided by the number chosen, not by k)."""
    return np.asarray(found[:, :k].sum(axis=1) / np.maximum(sizes, 1), np.float64)


def ndcg(found: npt.NDArray[np.bool_], sizes: npt.NDArray[np.int64], k: int) -> Values:
    """NDCG@k, binary gain, log2 discount, ideal of min(number chosen, k) hits (Järvelin and
    Kekäläinen, 2002; normalised as in LightGCN's and SASRec's evaluation)."""
    discount = 1 / np.log2(np.arange(k) + 2)
    ideal = np.concatenate(([0.0], np.cumsum(discount)))
    best = ideal[np.minimum(sizes, k)]
    gained = found[:, :k] @ discount[: found[:, :k].shape[1]]
    return np.asarray(gained / np.where(best > 0, best, 1), np.float64)


def mrr(found: npt.NDArray[np.bool_], k: int) -> Values:
    """MRR@k: one over the place of the first hit, 0 if none of the first k (SR-GNN's, 2019)."""
    head = found[:, :k]
    return np.where(head.any(axis=1), 1 / (head.argmax(axis=1) + 1), 0.0)


def average_precision(found: npt.NDArray[np.bool_], sizes: npt.NDArray[np.int64], k: int) -> Values:
    """MAP@k's term: the mean of the precision at each hit, over min(number chosen, k) (Kaggle's
    and `ml_metrics`' definition)."""
    head = found[:, :k]
    precision = head.cumsum(axis=1) / np.arange(1, head.shape[1] + 1)
    total = (precision * head).sum(axis=1)
    return np.asarray(total / np.maximum(np.minimum(sizes, k), 1), np.float64)


def revenue_captured(hit: Hits, truth: Truth, k: int) -> tuple[Values, Values]:
    """Revenue captured@k: held-out revenue of the chosen items among the first k, over all held-out
    revenue. A ratio of sums, so that a large basket counts for what it is: (captured, total) a
    query; see `bootstrap_ratio`."""
    captured = hit.revenue[:, :k].sum(axis=1, dtype=np.float64)
    row = np.repeat(np.arange(len(truth)), truth.sizes)
    return captured, np.bincount(row, truth.revenue, minlength=len(truth)).astype(np.float64)


def coverage(lists: IntArray, items: int, k: int) -> float:
    """The share of the catalogue that stands in at least one list."""
    shown = lists[:, :k]
    return len(np.unique(shown[shown >= 0])) / max(items, 1)


def novelty(lists: IntArray, popularity: npt.NDArray[Any], k: int) -> Values:
    """Mean self-information a list, ``-log2`` of the share of shoppers' events that the item has
    (Zhou et al., 2010; add-one smoothed)."""
    share = (popularity + 1) / (popularity.sum() + len(popularity))
    surprise = np.append(-np.log2(share), 0.0)  # the last one is for -1
    head = lists[:, :k]
    shown = np.maximum((head >= 0).sum(axis=1), 1)
    return np.asarray(surprise[head].sum(axis=1) / shown, np.float64)


def diversity(lists: IntArray, k: int) -> float:
    """How different the lists are from each other: one minus the mean overlap of each list with the
    next one's (Zhou et al., 2010, "personalisation", over a ring of pairs instead of all). 0: every
    shopper is shown the same."""
    head = lists[:, :k]
    if len(head) < 2:
        return 0.0
    other = np.roll(head, 1, axis=0)
    shared = ((head[:, :, None] == other[:, None, :]) & (head[:, :, None] >= 0)).sum(axis=(1, 2))
    full = np.maximum((head >= 0).sum(axis=1), 1)
    return float(1 - (shared / full).mean())


def intra_list_diversity(lists: IntArray, kind: IntArray, k: int) -> Values:
    """The share of a list's pairs that are of different kinds (Ziegler et al., 2005, with a binary
    distance). `kind`: int32[n], the item's most specific group."""
    head = lists[:, :k]
    kinds = np.append(kind, -1)[head]
    both = (head[:, :, None] >= 0) & (head[:, None, :] >= 0)
    differ = (kinds[:, :, None] != kinds[:, None, :]) & both
    pairs = both.sum(axis=(1, 2)) - (head >= 0).sum(axis=1)
    return np.asarray(differ.sum(axis=(1, 2)) / np.maximum(pairs, 1), np.float64)


def popular_share(
    lists: IntArray, popularity: npt.NDArray[Any], k: int, head: float = 0.01
) -> float:
    """The share of shown places that the most popular `head` of the catalogue takes."""
    count = max(int(len(popularity) * head), 1)
    popular = np.zeros(len(popularity) + 1, np.bool_)
    popular[np.argsort(-popularity, kind="stable")[:count]] = True
    shown = lists[:, :k]
    return float(popular[shown][shown >= 0].mean()) if (shown >= 0).any() else 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, and the interval that holds it with the stated confidence."""

    value: float
    low: float
    high: float


def _samples(queries: int, samples: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each query is drawn; int64[samples, q] in blocks is the caller's matter."""
    return np.random.default_rng(seed).multinomial(queries, [1 / queries] * queries, samples)


def bootstrap_ratio(
    above: Values, below: Values, seed: int = 0, samples: int = 500, confidence: float = 0.95
) -> Estimate:
    """``sum(above) / sum(below)`` with a percentile bootstrap over queries (Efron, 1979)."""
    queries = len(above)
    if not queries or not below.sum():
        return Estimate(0.0, 0.0, 0.0)
    ratios = []
    block = max(1, 20_000_000 // queries)
    for start in range(0, samples, block):
        drawn = _samples(queries, min(block, samples - start), seed + start)
        ratios.append((drawn @ above) / np.maximum(drawn @ below, 1e-300))
    low, high = np.quantile(np.concatenate(ratios), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))


def bootstrap(
    values: Values, seed: int = 0, samples: int = 500, confidence: float = 0.95
) -> Estimate:
    """The mean a query with its percentile bootstrap interval."""
    return bootstrap_ratio(values, np.ones(len(values)), seed, samples, confidence)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run `a` against run `b` on the same queries."""

    difference: Estimate  # a - b
    p_value: float  # two-sided, paired sign-flip permutation test


def compare(a: Values, b: Values, seed: int = 0, samples: int = 500) -> Comparison:
    """Paired: each query is its own control, so that hard and easy queries cancel out."""
    gap = a - b
    rng = np.random.default_rng(seed)
    observed = abs(gap.mean()) if len(gap) else 0.0
    extreme = 0
    moved = gap[gap != 0]
    for _ in range(samples):
        signs = rng.integers(0, 2, len(moved)) * 2 - 1
        extreme += abs((moved * signs).sum()) / max(len(gap), 1) >= observed - 1e-15
    return Comparison(bootstrap(gap, seed, samples), (extreme + 1) / (samples + 1))
