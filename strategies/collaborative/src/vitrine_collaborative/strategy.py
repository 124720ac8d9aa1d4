"""Graph filtering (GF-CF: Shen et al., "How Powerful is Graph Convolution for
Recommendation?", 2021): the normalised co-occurrence of items plus an ideal low-pass of its
spectrum. No order, no decay: for tastes that last, and histories that are long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from vitrine_sdk import (
    NO_CANDIDATES,
    Arrays,
    Candidates,
    Config,
    Context,
    EventType,
    FloatArray,
    Needs,
    TrainingData,
)
from vitrine_sdk.cooccurrence import type_weights
from vitrine_sdk.neighbours import Neighbours, checked, strongest
from vitrine_sdk.ranking import ranked

DAY = 86_400
ROWS = 2048  # items at a time while neighbours are found
SAMPLE = 256  # shoppers whose scores tell the magnitude

Weight = Annotated[float, msgspec.Meta(ge=0, le=1000)]


class CollaborativeConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is taste, and how smooth it is taken to be."""

    view: Weight = 1.0
    click: Weight = 1.0
    cart: Weight = 1.0
    purchase: Weight = 1.0
    search: Weight = 0.0
    conversion: Weight = 1.0
    history: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 1000
    """How many of the latest events are looked at; no more than the host keeps."""
    window_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 3650.0
    low_pass: Weight = 0.2
    """How much the smooth part counts beside co-occurrence."""
    size: Annotated[int, msgspec.Meta(ge=8, le=1024)] = 192
    """How many of the smoothest components are kept."""
    user_damping: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.4
    """How much less a shopper with a long history says about which items go together."""
    source_damping: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.5
    """How much less a popular item of the history says."""
    target_damping: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.3
    """How much a popular item is held back; GF-CF's own are 0.5, 0.5 and 0.5."""
    neighbours: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 600


@dataclass(frozen=True, slots=True, eq=False)
class CollaborativeModel:
    pairs: Neighbours
    components: FloatArray  # n, size
    degree: FloatArray  # n, the square root of the number of shoppers
    config: CollaborativeConfig

    def recommend(self, context: Context, limit: int) -> Candidates:
        past = np.unique(context.history.items)
        if not len(past):
            return NO_CANDIDATES
        found, scores = self.pairs.merged(past, np.ones(len(past), np.float32))
        keep = ~np.isin(found, past)
        found, scores = found[keep], scores[keep]
        if not len(found):
            return NO_CANDIDATES
        taste = (1 / self.degree[past]) @ self.components[past]
        smooth = (self.components[found] @ taste) * self.degree[found]
        total = scores + smooth * np.float32(self.config.low_pass)
        return ranked(found, total.astype(np.float32), limit, 0, context.eligible)


class Collaborative:
    """See `CollaborativeConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("similar_taste",)

    @property
    def config(self) -> type[CollaborativeConfig]:
        return CollaborativeConfig

    def needs(self, config: CollaborativeConfig) -> Needs:
        return Needs(history=config.history, eligible=True)

    def fit(self, data: TrainingData, config: CollaborativeConfig, seed: int) -> Arrays:
        n = len(data.items)
        chosen = _incidence(data, config)
        users = np.maximum(np.asarray(chosen.sum(axis=1)).ravel(), 1)
        items = np.maximum(np.asarray(chosen.sum(axis=0)).ravel(), 1)
        plain = _scaled(users, -0.5) @ chosen @ _scaled(items, -0.5)
        size = min(config.size, n, chosen.shape[0])
        components = _smoothest(plain.tocsr(), size, seed)
        degree = np.sqrt(items).astype(np.float32)
        damped = (_scaled(users, -config.user_damping) @ chosen).tocsr()
        source = (damped @ _scaled(items, -config.source_damping)).T.tocsr()
        target = (damped @ _scaled(items, -config.target_damping)).tocsr()
        # Other dampings have other magnitudes; `low_pass` means the same with all of them.
        some = np.random.default_rng(seed).permutation(chosen.shape[0])[:SAMPLE]
        usual = _spread(chosen[some] @ plain.T @ plain)
        source = source * np.float32(usual / max(_spread(chosen[some] @ source @ target), 1e-30))
        return {
            **_pairs(source.tocsr(), target, components, degree, config).arrays("pairs"),
            "components": components,
            "degree": degree,
        }

    def load(self, arrays: Arrays, config: CollaborativeConfig, items: int) -> CollaborativeModel:
        components = arrays.get("components")
        if components is None or components.dtype != np.float32 or components.ndim != 2:
            raise ValueError("array 'components' must be float32 with two axes")
        if len(components) != items:
            raise ValueError(f"array 'components' has {len(components)} rows, expected {items}")
        return CollaborativeModel(
            Neighbours.from_arrays(arrays, "pairs", items),
            components,
            checked(arrays, "degree", np.float32, items),
            config,
        )


def _incidence(data: TrainingData, config: CollaborativeConfig) -> sparse.csr_matrix:
    """Who has chosen what, each once, with the weight of the strongest event."""
    events = data.events
    weights = type_weights(
        events,
        {
            EventType.VIEW: config.view,
            EventType.CLICK: config.click,
            EventType.CART: config.cart,
            EventType.PURCHASE: config.purchase,
            EventType.SEARCH: config.search,
            EventType.CONVERSION: config.conversion,
        },
    )
    rows = np.flatnonzero((weights > 0) & (events.time >= data.now - config.window_days * DAY))
    n = len(data.items)
    key = events.shopper[rows].astype(np.int64) * max(n, 1) + events.item[rows]
    order = np.lexsort((-weights[rows], key))
    first = order[np.append(True, np.diff(key[order]) != 0)[: len(order)]]
    return sparse.csr_matrix(
        (weights[rows][first], (events.shopper[rows][first], events.item[rows][first])),
        shape=(max(events.shoppers, 1), n),
        dtype=np.float32,
    )


def _smoothest(matrix: sparse.csr_matrix, size: int, seed: int) -> FloatArray:
    """The right singular vectors with the largest values, float32[n, size], by randomised subspace
    iteration (Halko, Martinsson and Tropp, 2011)."""
    n = matrix.shape[1]
    if not size or not matrix.nnz:
        return np.zeros((n, size), np.float32)
    width = min(size + 24, *matrix.shape)
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((n, width)).astype(np.float32)
    across = matrix.T.tocsr()
    for _ in range(4):
        basis = np.linalg.qr(across @ (matrix @ basis))[0]
    projected = matrix @ basis
    _, vectors = np.linalg.eigh(projected.T @ projected)
    return np.ascontiguousarray((basis @ vectors[:, ::-1])[:, :size], np.float32)


def _scaled(degree: npt.NDArray[Any], power: float) -> Any:
    return sparse.diags_array(degree**power, dtype=np.float32)


def _spread(scores: sparse.csr_matrix) -> float:
    """Standard deviation, the zeros included."""
    cells = scores.shape[0] * scores.shape[1]
    if not cells:
        return 0.0
    mean = float(scores.sum()) / cells
    return float(np.sqrt(max(float((scores.data**2).sum()) / cells - mean * mean, 0)))


def _pairs(
    source: sparse.csr_matrix,
    target: sparse.csr_matrix,
    components: FloatArray,
    degree: FloatArray,
    config: CollaborativeConfig,
) -> Neighbours:
    """Co-occurrence of each item with all, the rows cut to the strongest by both parts together,
    a block of rows at a time: all of it would not fit."""
    n = source.shape[0]
    offsets, items, weights = [np.zeros(1, np.int64)], [], []
    for start in range(0, n, ROWS):
        block = (source[start : start + ROWS] @ target).tocsr()
        rows = np.repeat(np.arange(start, start + block.shape[0]), np.diff(block.indptr))
        # The smoothest few say which cells are worth keeping.
        smooth = _dots(components[:, :48], rows, block.indices)
        smooth *= degree[block.indices] / degree[rows]
        both = block.data + np.float32(config.low_pass) * np.maximum(smooth, 0)
        block.sort_indices()
        part = strongest(block.indptr, block.indices.astype(np.int32), both, config.neighbours)
        offsets.append(part.offsets[1:] + offsets[-1][-1])
        items.append(part.items)
        weights.append(_values(block, part))
    return Neighbours(
        np.concatenate(offsets),
        np.concatenate(items) if items else np.empty(0, np.int32),
        np.concatenate(weights) if weights else np.empty(0, np.float32),
    )


def _values(block: sparse.csr_matrix, part: Neighbours) -> FloatArray:
    """The block's own values at the cells that were kept."""
    if not len(part.items):
        return np.empty(0, np.float32)
    rows = np.repeat(np.arange(block.shape[0]), np.diff(part.offsets))
    return np.asarray(block[rows, part.items], np.float32).ravel()


def _dots(vectors: FloatArray, one: npt.NDArray[Any], other: npt.NDArray[Any]) -> FloatArray:
    """Row-wise products, in blocks."""
    found = np.empty(len(one), np.float32)
    step = 200_000
    for start in range(0, len(one), step):
        span = slice(start, start + step)
        found[span] = np.einsum("ij,ij->i", vectors[one[span]], vectors[other[span]])
    return found
