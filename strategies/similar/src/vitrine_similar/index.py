"""Nearest items by an approximate index, where a catalogue is so large that the most popular items
of a feature (`content.nearest`) are hardly ever the nearest ones.

The features are projected at random to `DIMENSIONS`; an inverted file (faiss, the extra `ann`) of
these finds candidates, and of them the true cosines decide. Random projection: Achlioptas, PODS
2001. The recall is measured by ops/bench/ann.py.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from vitrine_sdk import FloatArray, IntArray
from vitrine_sdk.neighbours import Neighbours, strongest

DIMENSIONS: Final = 128
CANDIDATES: Final = 200  # whose cosines are worked out, an item; twice what is kept at least
PROBES: Final = 16  # lists that are looked through, of 4 √n
SAMPLE: Final = 40  # items a list, from which the lists are learned
ROUNDS: Final = 6  # of k-means
CHUNK: Final = 512  # items that are asked for at once: 100,000 cosines


def is_installed() -> bool:
    return find_spec("faiss") is not None


class ContentIndex:
    """Of a catalogue's features, once for all questions.

    Raises:
        ImportError: faiss is not installed.
    """

    def __init__(self, matrix: sparse.csr_matrix, seed: int) -> None:
        """Args:
        matrix: rows of unit length, one an item.
        """
        import faiss  # here: only large catalogues need it

        self._matrix = matrix
        n = matrix.shape[0]
        dice = np.random.default_rng(seed)
        signs = dice.integers(0, 2, (matrix.shape[1], DIMENSIONS), np.int8)
        self._projection = (signs * np.float32(2) - 1) / np.float32(math.sqrt(DIMENSIONS))
        lists = max(int(4 * math.sqrt(n)), 1)
        # The index does not keep its quantizer alive.
        self._quantizer = faiss.IndexFlatIP(DIMENSIONS)
        self._index = faiss.IndexIVFFlat(
            self._quantizer, DIMENSIONS, lists, faiss.METRIC_INNER_PRODUCT
        )
        self._index.cp.seed = seed % 2**31
        self._index.cp.niter = ROUNDS
        self._index.cp.min_points_per_centroid = 1  # else small catalogues are warned of
        sample = np.sort(dice.choice(n, min(n, lists * SAMPLE), replace=False))
        self._index.train(self._projected(matrix[sample]))
        for start in range(0, n, 100 * CHUNK):
            self._index.add(self._projected(matrix[start : start + 100 * CHUNK]))

    def nearest(self, rows: IntArray, keep: int, probes: int = PROBES) -> Neighbours:
        """For each of `rows` (ascending; the others stay empty) about its `keep` nearest items by
        cosine.

        Args:
            probes: lists that are looked through; more find more and take longer.
        """
        n = self._matrix.shape[0]
        self._index.nprobe = probes
        offsets = np.zeros(n + 1, np.int64)
        parts: list[Neighbours] = []
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            asked = self._projected(self._matrix[chunk])
            _, found = self._index.search(asked, min(max(CANDIDATES, 2 * keep), n))
            part = _by_cosine(self._matrix, chunk, found, keep)
            offsets[chunk + 1] = np.diff(part.offsets)
            parts.append(part)
        return Neighbours(
            np.cumsum(offsets),
            np.concatenate([p.items for p in parts]) if parts else np.empty(0, np.int32),
            np.concatenate([p.weights for p in parts]) if parts else np.empty(0, np.float32),
        )

    def _projected(self, matrix: sparse.csr_matrix) -> FloatArray:
        vectors: FloatArray = np.ascontiguousarray(matrix @ self._projection, np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        return vectors


def _by_cosine(
    matrix: sparse.csr_matrix, rows: IntArray, found: npt.NDArray[np.int64], keep: int
) -> Neighbours:
    """Of the candidates (a row of `found` each, -1: none) the nearest ones."""
    count = found.shape[1]
    owners = np.repeat(rows, count)
    items = found.ravel()
    no_neighbour = (items < 0) | (items == owners)
    items = np.where(no_neighbour, owners, items)
    cosines: FloatArray = np.asarray(
        matrix[owners].multiply(matrix[items]).sum(axis=1), np.float32
    ).ravel()
    cosines[no_neighbour] = 0
    offsets = np.arange(0, len(items) + 1, count)
    return strongest(offsets, items.astype(np.int32), cosines, keep)
