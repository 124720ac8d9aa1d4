"""Similarity of items by what the catalogue says of them: names in any language, groups, facets,
price. For items that nobody has bought yet, so it has to cost little, not to be perfect."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from vitrine_sdk import Facet, FloatArray, IntArray, Items
from vitrine_sdk.neighbours import Neighbours, strongest

BUCKETS = 1 << 16
GRAM = 4
PRICE_STEPS = 4  # an octave of price is cut into so many
CHUNK = 4096


def features(items: Items) -> sparse.csr_matrix:
    """Rows of unit length, one an item: hashed character n-grams (they need no word list, and no
    language's spaces), groups, facet values and the neighbourhood of the price; rare ones weigh
    more (idf), each kind by its own factor."""
    n = len(items)
    blocks = [_grams(items.names), _facet(items.groups)]
    blocks += [_facet(facet) for _, facet in sorted(items.facets.items())]
    blocks.append(_prices(items.price))
    factors = [1.0, 1.0] + [0.5] * len(items.facets) + [0.3]
    weighted = []
    for block, factor in zip(blocks, factors, strict=True):
        if not block.shape[1]:
            continue
        frequency = np.bincount(block.indices, minlength=block.shape[1])
        idf = np.log1p(n / np.maximum(frequency, 1)).astype(np.float32)
        block = block @ sparse.diags_array(idf, dtype=np.float32)
        weighted.append(_unit(block.tocsr()) * np.float32(factor))
    if not weighted:
        return sparse.csr_matrix((n, 1), dtype=np.float32)
    return _unit(sparse.hstack(weighted, format="csr", dtype=np.float32))


def nearest(
    matrix: sparse.csr_matrix, rows: IntArray, prior: FloatArray, keep: int, postings: int
) -> Neighbours:
    """For each of `rows` (the others stay empty) its `keep` nearest items by cosine.

    A feature leads only to the `postings` items with the highest `prior` that have it, so the work
    is (features of the rows) times `postings`, whatever the size of the catalogue.
    """
    n = matrix.shape[0]
    index = _postings(matrix, prior, postings)
    offsets = np.zeros(n + 1, np.int64)
    parts: list[Neighbours] = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        product = (matrix[chunk] @ index).tocsr()
        product.sort_indices()
        own = np.repeat(chunk, np.diff(product.indptr)) == product.indices
        product.data[own] = 0
        part = strongest(product.indptr, product.indices.astype(np.int32), product.data, keep)
        offsets[chunk + 1] = np.diff(part.offsets)
        parts.append(part)
    return Neighbours(
        np.cumsum(offsets),
        np.concatenate([p.items for p in parts]) if parts else np.empty(0, np.int32),
        np.concatenate([p.weights for p in parts]) if parts else np.empty(0, np.float32),
    )


def kinds(groups: Facet, n: int) -> IntArray:
    """Each item's kind: its most specific group, that is the one with the fewest items; -1
    where it has none."""
    sizes = np.bincount(groups.codes, minlength=max(len(groups.values), 1))
    owners = np.repeat(np.arange(n), np.diff(groups.offsets))
    order = np.lexsort((groups.codes, sizes[groups.codes], owners))
    owners = owners[order]
    first = np.concatenate(([True], np.diff(owners) != 0)) if len(owners) else np.empty(0, bool)
    result = np.full(n, -1, np.int32)
    result[owners[first]] = groups.codes[order][first]
    return result


def _postings(matrix: sparse.csr_matrix, prior: FloatArray, postings: int) -> sparse.csr_matrix:
    by_feature = matrix.T.tocsr()
    feature = np.repeat(np.arange(by_feature.shape[0]), np.diff(by_feature.indptr))
    order = np.lexsort((by_feature.indices, -prior[by_feature.indices], feature))
    counts = np.diff(by_feature.indptr)
    rank = np.arange(len(order)) - np.repeat(by_feature.indptr[:-1], counts)
    chosen = order[rank < postings]
    return sparse.csr_matrix(
        (by_feature.data[chosen], (feature[chosen], by_feature.indices[chosen])),
        shape=by_feature.shape,
    )


def _grams(names: Sequence[str]) -> sparse.csr_matrix:
    columns: list[int] = []
    offsets = [0]
    cache: dict[str, list[int]] = {}
    for name in names:
        found = cache.get(name)
        if found is None:
            text = f" {unicodedata.normalize('NFKC', name).casefold().strip()} "
            pieces = {text[i : i + GRAM] for i in range(max(len(text) - GRAM + 1, 1))}
            # Scripts without spaces say more in fewer characters: pairs of them too.
            pieces |= {text[i : i + 2] for i in range(len(text) - 1) if text[i] > "\u2e7f"}
            found = sorted({zlib.crc32(p.encode()) % BUCKETS for p in pieces if p.strip()})
            cache[name] = found
        columns += found
        offsets.append(len(columns))
    return sparse.csr_matrix(
        (np.ones(len(columns), np.float32), np.array(columns, np.int32), np.array(offsets)),
        shape=(len(offsets) - 1, BUCKETS),
    )


def _facet(facet: Facet) -> sparse.csr_matrix:
    return sparse.csr_matrix(
        (np.ones(len(facet.codes), np.float32), facet.codes, facet.offsets),
        shape=(len(facet.offsets) - 1, len(facet.values)),
    )


def _prices(price: FloatArray) -> sparse.csr_matrix:
    """Each price is in two neighbouring steps of a logarithmic scale, so that near prices share at
    least one."""
    n = len(price)
    known = np.flatnonzero(np.isfinite(price) & (price > 0))
    step = np.floor(np.log2(price[known]) * PRICE_STEPS).astype(np.int64)
    step = np.clip(step + 64, 0, 254)
    return sparse.csr_matrix(
        (np.ones(2 * len(known), np.float32), (np.tile(known, 2), np.append(step, step + 1))),
        shape=(n, 256),
    )


def _unit(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    squares: npt.NDArray[np.float32] = np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
    scale = 1 / np.sqrt(np.maximum(squares, 1e-12))
    matrix = matrix.copy()
    matrix.data = matrix.data * np.repeat(scale, np.diff(matrix.indptr)).astype(np.float32)
    return matrix
