"""Counting which items go together, near-linear in events. Needs scipy (a strategy declares it)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from vitrine_sdk.contract import Events, FloatArray, IntArray
from vitrine_sdk.neighbours import Neighbours, strongest

CHUNK = 4_000_000


def followed(
    items: IntArray,
    owners: IntArray,
    weights: FloatArray,
    n: int,
    gaps: Iterable[tuple[int, float]],
) -> sparse.csr_matrix:
    """Directed: cell (i, j) sums, over all j that come `gap` places after an i of the same owner
    (rows of one owner stand together, oldest first), the gap's weight times the weight of j."""
    total = sparse.csr_matrix((n, n), dtype=np.float32)
    for gap, factor in gaps:
        if gap >= len(items):
            break
        same = owners[:-gap] == owners[gap:]
        for start in range(0, len(same), CHUNK):
            part = np.flatnonzero(same[start : start + CHUNK]) + start
            total = total + sparse.csr_matrix(
                (weights[part + gap] * np.float32(factor), (items[part], items[part + gap])),
                shape=(n, n),
                dtype=np.float32,
            )
    return total


def together(
    items: IntArray, owners: IntArray, weights: FloatArray, n: int, largest: int
) -> sparse.csr_matrix:
    """Symmetric, no diagonal: cell (i, j) sums over owners (baskets, sessions) that hold both the
    product of the square roots of their weights; owners with more than `largest` distinct items
    say little and cost much: their first `largest` are counted."""
    key = owners.astype(np.int64) * n + items
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.concatenate(([True], np.diff(key[order]) != 0)))
    if not len(key):
        return sparse.csr_matrix((n, n), dtype=np.float32)
    weights = np.maximum.reduceat(weights[order], first)
    owners, items = owners[order][first], items[order][first]
    starts = np.flatnonzero(np.concatenate(([True], np.diff(owners) != 0)))
    rank = np.arange(len(owners)) - np.repeat(starts, np.diff(np.append(starts, len(owners))))
    keep = rank < largest
    incidence = sparse.csr_matrix(
        (np.sqrt(weights[keep]), (owners[keep], items[keep])),
        shape=(int(owners.max()) + 1, n),
        dtype=np.float32,
    )
    product = (incidence.T @ incidence).tocsr()
    product.setdiag(0)
    product.eliminate_zeros()
    return product


def damped(
    counts: sparse.csr_matrix,
    popularity: FloatArray,
    source: float,
    target: float,
    shrink: float,
) -> sparse.csr_matrix:
    """Cell (i, j): ``c * c / (c + shrink) / (popularity_i ** source * popularity_j ** target)``.

    Few sightings are trusted less (shrink); what everybody has says less about `i` (target).
    """
    counts = counts.tocsr()
    base = np.maximum(popularity, 1).astype(np.float32)
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    data = counts.data
    data = data * data / np.maximum(data + np.float32(shrink), np.float32(1e-30))
    data = data / (base[rows] ** np.float32(source) * base[counts.indices] ** np.float32(target))
    return sparse.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)


def neighbours(matrix: sparse.csr_matrix, keep: int) -> Neighbours:
    """The `keep` strongest positive cells of each row."""
    matrix = matrix.tocsr()
    matrix.sort_indices()
    return strongest(matrix.indptr, matrix.indices.astype(np.int32), matrix.data, keep)


def type_weights(events: Events, weights: dict[int, float]) -> FloatArray:
    """The weight of each event's type, 0 where the event names no known item."""
    table = np.zeros(128, np.float32)
    for code, weight in weights.items():
        table[code] = weight
    return np.where(events.item >= 0, table[events.type], np.float32(0)).astype(np.float32)


def popularity(items: IntArray, weights: FloatArray, n: int) -> npt.NDArray[np.float32]:
    """Sum of weights an item."""
    return np.bincount(items, weights, minlength=n).astype(np.float32)
