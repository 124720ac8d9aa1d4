"""Item embeddings learned from what follows what. Needs scipy (a strategy declares it).

One vector an item, of unit length, such that the decayed mean of a history points at the item that
came next: CORE (Hou, Hu, Zhang, Zhao, 2022) with the mean in place of its encoder, so that it is a
linear model, learned with softmax over the catalogue (sampled where that is large) by lazy Adam.
Counting only knows pairs that were seen; this knows what is like them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from vitrine_sdk.contract import FloatArray, IntArray
from vitrine_sdk.neighbours import Neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long and how hard. Time is bounded by `steps`, whatever the number of events."""

    size: int = 64
    epochs: int = 8
    steps: int = 1600  # of `batch` examples; fewer epochs where they do not suffice
    batch: int = 512  # fewer in a small shop, so that an epoch has a hundred steps
    learning_rate: float = 0.004
    temperature: float = 0.08
    decay: float = 0.8  # of the history's weights, a place
    length: int = 20  # of the history
    dropout: float = 0.3  # of the history's mean
    forget: float = 0.1  # share of the history's items left out
    softmax: int = 16_384  # items compared at a time; the whole catalogue if it is no larger


def embed(items: IntArray, owners: IntArray, n: int, seed: int, how: Training) -> FloatArray:
    """float32[n, size], unit rows; zero rows for items without an event.

    Args:
        items: positions, one owner's (shopper's, session's) together, oldest first.
    """
    histories, targets = _examples(items, owners, how, seed, n)
    rng = np.random.default_rng(seed)
    counts = np.bincount(items, minlength=n)
    present = np.flatnonzero(counts)
    if not len(targets):
        return np.zeros((n, how.size), np.float32)
    vectors = (rng.standard_normal((n, how.size)) * 0.1).astype(np.float32)
    learner = _LazyAdam(vectors, how.learning_rate)
    chance = counts[present] ** 0.75
    chance = chance / chance.sum()
    batch = min(how.batch, max(len(targets) // 100, 32))
    per_epoch = max(len(targets) // batch, 1)
    epochs = max(min(how.epochs, how.steps // per_epoch), 1)
    for _ in range(epochs):
        order = rng.permutation(len(targets))
        for start in range(0, min(per_epoch, how.steps) * batch, batch):
            rows = order[start : start + batch]
            if len(present) <= how.softmax:
                pool, offset = present, None
            else:
                drawn = rng.choice(len(present), how.softmax, p=chance)
                pool = np.unique(np.concatenate((present[drawn], targets[rows])))
                place = np.searchsorted(present, pool)
                offset = np.log(how.softmax * chance[place]).astype(np.float32)
            _step(vectors, learner, histories[rows], targets[rows], pool, offset, rng, how)
    vectors[counts == 0] = 0
    return _unit(vectors)[0]


def profile(
    vectors: FloatArray, items: IntArray, weights: FloatArray, candidates: IntArray
) -> FloatArray:
    """Cosine of each candidate with the weighted mean of the history's items."""
    mean = weights @ vectors[items]
    length = float(np.sqrt(mean @ mean))
    scores: FloatArray = vectors[candidates] @ (mean / max(length, 1e-9)).astype(np.float32)
    return scores


def nearest(
    vectors: FloatArray, keep: int, popularity: npt.NDArray[Any], pool: int = 16_384
) -> Neighbours:
    """Each item's `keep` nearest by cosine among the `pool` most popular others, so that the work
    is linear in the catalogue. Items without a vector have none."""
    known = np.flatnonzero(np.abs(vectors).sum(axis=1) > 0)
    others = np.sort(known[np.argsort(-popularity[known], kind="stable")[:pool]])
    sizes = np.zeros(len(vectors), np.int64)
    found: list[IntArray] = []
    weights: list[FloatArray] = []
    keep = min(keep, max(len(others) - 1, 0))
    block = max(1, 20_000_000 // max(len(others), 1))
    for start in range(0, len(known) if keep else 0, block):
        rows = known[start : start + block]
        cosine = vectors[rows] @ vectors[others].T
        place = np.minimum(np.searchsorted(others, rows), len(others) - 1)
        own = np.flatnonzero(others[place] == rows)
        cosine[own, place[own]] = -2
        best = np.argpartition(-cosine, keep - 1, axis=1)[:, :keep]
        values = np.take_along_axis(cosine, best, 1)
        order = np.lexsort((best, -values), axis=1)
        found.append(others[np.take_along_axis(best, order, 1)].ravel().astype(np.int32))
        weights.append(np.take_along_axis(values, order, 1).ravel())
        sizes[rows] = keep
    return Neighbours(
        np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        np.concatenate(found) if found else np.empty(0, np.int32),
        np.concatenate(weights) if weights else np.empty(0, np.float32),
    )


def _examples(
    items: IntArray, owners: IntArray, how: Training, seed: int, n: int
) -> tuple[sparse.csr_matrix, npt.NDArray[np.int64]]:
    """A row an event that has something before it: what came before, weighted; and the event."""
    m = len(items)
    starts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1])[:m])
    first = np.repeat(starts, np.diff(np.append(starts, m))).astype(np.int64)
    place = np.arange(m)
    asked = place[place > first]
    most = how.steps * how.batch
    if len(asked) > most:  # more than the steps could use
        asked = np.sort(np.random.default_rng(seed).choice(asked, most, replace=False))
    sizes = np.minimum(asked - first[asked], how.length)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    back = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)  # 0: the event just before
    cells = np.repeat(asked, sizes) - 1 - back
    weights = (how.decay**back).astype(np.float32)
    matrix = sparse.csr_matrix((weights, items[cells], offsets), shape=(len(asked), n))
    return matrix, items[asked].astype(np.int64)


def _step(
    vectors: FloatArray,
    learner: _LazyAdam,
    histories: sparse.csr_matrix,
    targets: npt.NDArray[np.int64],
    pool: npt.NDArray[np.int64],
    offset: FloatArray | None,
    rng: np.random.Generator,
    how: Training,
) -> None:
    """One step down the cross-entropy of a batch."""
    size = len(targets)
    histories = histories.copy()
    histories.data *= rng.random(len(histories.data), np.float32) > how.forget
    touched = np.union1d(pool, histories.indices)
    local = np.searchsorted(touched, histories.indices)
    past = sparse.csr_matrix((histories.data, local, histories.indptr), shape=(size, len(touched)))
    unit, norms = _unit(vectors[touched])
    at = np.searchsorted(touched, pool)
    answers = unit[at]
    kept = (rng.random((size, how.size), np.float32) > how.dropout) / np.float32(1 - how.dropout)
    mean = (past @ unit) * kept
    length = np.sqrt((mean * mean).sum(axis=1, keepdims=True)) + np.float32(1e-6)
    head = mean / length
    logits = head @ answers.T
    logits /= np.float32(how.temperature)
    if offset is not None:
        logits -= offset
    # What the shopper has already had is no wrong answer to push away.
    rows = np.repeat(np.arange(size), np.diff(histories.indptr))
    where = np.minimum(np.searchsorted(pool, histories.indices), len(pool) - 1)
    inside = pool[where] == histories.indices
    right = np.searchsorted(pool, targets)
    line = np.arange(size)
    answer = logits[line, right].copy()
    logits[rows[inside], where[inside]] = -1e9
    logits[line, right] = answer
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    logits[line, right] -= 1
    logits /= np.float32(size * how.temperature)
    # Back through the two unit lengths.
    gradient = np.zeros_like(unit)
    gradient[at] = logits.T @ head
    back = logits @ answers
    back = (back - head * (head * back).sum(axis=1, keepdims=True)) / length
    gradient += past.T @ (back * kept)
    gradient = (gradient - unit * (unit * gradient).sum(axis=1, keepdims=True)) / norms
    learner.update(touched, gradient.astype(np.float32))


class _LazyAdam:
    """Adam (Kingma and Ba, 2015) on the rows that a step touches."""

    def __init__(self, values: FloatArray, rate: float) -> None:
        self.values, self.rate, self.steps = values, rate, 0
        self.first = np.zeros_like(values)
        self.second = np.zeros_like(values)

    def update(self, rows: npt.NDArray[Any], gradient: FloatArray) -> None:
        self.steps += 1
        first = self.first[rows]
        first += np.float32(0.1) * (gradient - first)
        second = self.second[rows]
        second += np.float32(0.001) * (gradient * gradient - second)
        self.first[rows], self.second[rows] = first, second
        rate = self.rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        self.values[rows] -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))


def _unit(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    norms = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True)) + np.float32(1e-9)
    return vectors / norms, norms
