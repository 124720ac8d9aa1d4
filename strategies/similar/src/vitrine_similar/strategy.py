"""Item to item from baskets and histories, blended with content by how much is known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from vitrine_sdk import (
    NO_CANDIDATES,
    Arrays,
    BoolArray,
    Candidates,
    Config,
    Context,
    EventType,
    FloatArray,
    IntArray,
    Items,
    Needs,
    TrainingData,
)
from vitrine_sdk.additive import Counted
from vitrine_sdk.cooccurrence import damped, followed, popularity, together, type_weights
from vitrine_sdk.neighbours import Neighbours, checked, strongest
from vitrine_sdk.ranking import ranked
from vitrine_similar.content import features, kinds, nearest
from vitrine_similar.index import ContentIndex, is_installed

log = logging.getLogger(__name__)

DAY = 86_400
ROUNDING = 1e-4  # of counts: no real one is smaller
INDEXED = 50  # content neighbours an item, where an index finds them
TOGETHER, CONTENT = 0, 1  # as flags: does content say more than half?

Weight = Annotated[float, msgspec.Meta(ge=0, le=1000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class SimilarConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes two items similar, and which of the similar ones are wanted."""

    relation: Literal["related", "substitute", "complement"] = "related"
    """related: all. substitute: of the same kind. complement: bought with it, not of its kind.
    An item's kind is its most specific item group."""
    view: Weight = 1.0
    click: Weight = 1.0
    cart: Weight = 2.0
    purchase: Weight = 3.0
    search: Weight = 0.5
    conversion: Weight = 1.0
    window_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 730.0
    """Events older than this are not learned from."""
    gaps: Annotated[int, msgspec.Meta(ge=1, le=50)] = 2
    """How many places apart in a history two items may stand."""
    gap_decay: Annotated[float, msgspec.Meta(ge=0, le=4)] = 0.5
    """The weight of gap g is g ** -gap_decay."""
    backward: Share = 0.6
    """How much "came before" counts beside "came after"."""
    baskets: Weight = 2.0
    """How much being in one basket or session counts beside following in the history."""
    largest_basket: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 50
    damping: Share = 0.35
    """0: what sells best comes first; 1: only what is peculiar to the item."""
    shrink: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 6.0
    """Co-occurrences seen about as often as this are trusted half."""
    content: Share = 1.0
    """How much content similarity may count where behaviour says nothing."""
    neighbours: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 120
    """How many are kept an item."""
    index_from: Annotated[int, msgspec.Meta(ge=1)] = 200_000
    """From so many items on, content neighbours (50 an item at most) are found by an approximate
    index, if the extra `ann` is installed. Below, and without it, an item's features lead to their
    most popular items only."""


@dataclass(frozen=True, slots=True, eq=False)
class SimilarModel:
    """The strongest neighbours of each item; a cell's sign of origin is in `origins`."""

    neighbours: Neighbours
    behavioural: Neighbours
    """The part of a weight that comes from behaviour, on the same pattern."""
    items: int

    def recommend(self, context: Context, limit: int) -> Candidates:
        seeds = context.seeds
        if len(seeds) == 1:
            # They lie there strongest first, and equal ones by position: nothing is to be ordered.
            return Candidates(
                *self.neighbours.first(int(seeds[0]), limit, self.behavioural, context.eligible)
            )
        if not len(seeds):
            return NO_CANDIDATES
        factors = np.ones(len(seeds), np.float32)
        found, scores = self.neighbours.merged(seeds, factors)
        if not len(found):
            return NO_CANDIDATES
        _, behaviour = self.behavioural.merged(seeds, factors)
        keep = _without(found, seeds)
        if context.eligible is not None:
            keep &= context.eligible[found]
        reasons = np.where(behaviour * 2 >= scores, TOGETHER, CONTENT).astype(np.uint8)
        return ranked(found[keep], scores[keep], limit, reasons[keep])


def _without(found: IntArray, seeds: IntArray) -> BoolArray:
    """Which of `found` (ascending) are no seeds."""
    keep = np.ones(len(found), np.bool_)
    at = np.searchsorted(found, seeds)
    at[at == len(found)] = 0
    keep[at[found[at] == seeds]] = False
    return keep


class Similar:
    """See `SimilarConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("bought_together", "similar_content")

    @property
    def config(self) -> type[SimilarConfig]:
        return SimilarConfig

    def needs(self, config: SimilarConfig) -> Needs:  # noqa: ARG002 - the contract's signature
        return Needs(seeds=True, eligible=True)

    def fit(self, data: TrainingData, config: SimilarConfig, seed: int) -> Arrays:
        counts, known, _ = _counts(data, config)
        return self._finished(counts, known, data.items, config, seed)

    # What `vitrine_sdk.additive` asks for.

    def count(self, data: TrainingData, config: SimilarConfig) -> Arrays:
        counts, known, bought = _counts(data, config)
        return _plain(counts, known, bought)

    def combine(self, parts: Sequence[Counted], items: int, config: SimilarConfig) -> Arrays:
        if config.relation == "complement" and any(part.counts["bought"][0] for part in parts):
            # Where anybody buys, those who only look say nothing of what is bought together.
            parts = [part for part in parts if part.counts["bought"][0]]
        known = np.zeros(items, np.float64)
        total = sparse.csr_matrix((items, items), dtype=np.float64)
        for part in parts:
            there = part.positions
            size = len(part.counts["known"])
            cells = (part.counts["data"], part.counts["indices"], part.counts["indptr"])
            counts = sparse.csr_matrix(cells, shape=(size, size)).astype(np.float64).tocoo()
            row, column = counts.row, counts.col
            there = np.arange(size, dtype=np.int32) if there is None else there
            still = (there[row] >= 0) & (there[column] >= 0)
            total = total + part.sign * sparse.csr_matrix(
                (counts.data[still], (there[row[still]], there[column[still]])),
                shape=(items, items),
            )
            kept = there >= 0
            known[there[kept]] += part.sign * part.counts["known"][kept].astype(np.float64)
        # What was added and taken away leaves its rounding behind.
        total.data[np.abs(total.data) < ROUNDING] = 0
        total.eliminate_zeros()
        bought = any(part.counts["bought"][0] for part in parts)
        known[np.abs(known) < ROUNDING] = 0
        return _plain(total.astype(np.float32), known.astype(np.float32), bought)

    def finish(
        self,
        counts: Arrays,
        items: Items,
        now: int,  # noqa: ARG002
        config: SimilarConfig,
        seed: int,
    ) -> Arrays:
        n = len(items)
        cells = (counts["data"], counts["indices"], counts["indptr"])
        known: FloatArray = counts["known"]
        return self._finished(sparse.csr_matrix(cells, shape=(n, n)), known, items, config, seed)

    def _finished(
        self,
        raw: sparse.csr_matrix,
        known: FloatArray,
        items: Items,
        config: SimilarConfig,
        seed: int,
    ) -> Arrays:
        n = len(items)
        counts = damped(raw, known, 0.5, config.damping, config.shrink)
        kind = kinds(items.groups, n)
        behaviour = strongest(*_csr(_of_relation(counts, kind, config.relation)), config.neighbours)
        behaviour = _relative(behaviour)
        # Certainty of what behaviour says of an item: half at `trusted` weighted events.
        trusted = 20.0
        sure = (known / (known + trusted)).astype(np.float32)
        full = np.diff(behaviour.offsets) >= config.neighbours
        similar = _empty(n)
        if config.content > 0 and n and config.relation != "complement":
            needy = np.flatnonzero((sure < 0.9) | ~full).astype(np.int32)
            prior = known + np.linspace(0, 1e-3, n, dtype=np.float32)
            similar = _by_content(items, needy, prior, config, seed)
            if config.relation == "substitute":
                similar = _same_kind(similar, kind)
        return _blend(behaviour, similar, sure, config.content, config.neighbours)

    def load(self, arrays: Arrays, config: SimilarConfig, items: int) -> SimilarModel:  # noqa: ARG002
        neighbours = Neighbours.from_arrays(arrays, "neighbours", items)
        behavioural = checked(arrays, "behaviour", np.float32, len(neighbours.items))
        return SimilarModel(
            neighbours, Neighbours(neighbours.offsets, neighbours.items, behavioural), items
        )


def _by_content(
    items: Items, rows: IntArray, prior: FloatArray, config: SimilarConfig, seed: int
) -> Neighbours:
    if len(items) >= config.index_from:
        if is_installed():
            keep = min(config.neighbours, INDEXED)
            return ContentIndex(features(items), seed).nearest(rows, keep)
        log.warning("%d items and no index: install vitrine-similar[ann]", len(items))
    return nearest(features(items), rows, prior, config.neighbours, postings=48)


def _counts(
    data: TrainingData, config: SimilarConfig
) -> tuple[sparse.csr_matrix, FloatArray, bool]:
    """Co-occurrence, the weight of all events an item, and whether anything was bought."""
    n = len(data.items)
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
    bought = bool((events.type == EventType.PURCHASE).any())
    if config.relation == "complement" and bought:
        # Bought together: what was only looked at on the way is no complement.
        weights = np.where(events.type >= EventType.CART, weights, 0).astype(np.float32)
    used = np.flatnonzero((weights > 0) & (events.time >= data.now - config.window_days * DAY))
    item, weight = events.item[used], weights[used]
    known = popularity(item, weight, n)
    counts = sparse.csr_matrix((n, n), dtype=np.float32)
    if config.relation != "complement":
        gaps = [(g, g**-config.gap_decay) for g in range(1, config.gaps + 1)]
        forward = followed(item, events.shopper[used], weight, n, gaps)
        forward.setdiag(0)
        counts = forward + forward.T * np.float32(config.backward)
    if config.baskets > 0:
        baskets = together(item, events.session[used], weight, n, config.largest_basket)
        counts = counts + baskets * np.float32(config.baskets)
    return counts, known, bought


def _plain(counts: sparse.csr_matrix, known: FloatArray, bought: bool) -> Arrays:
    indptr, indices, data = _csr(counts)
    return {
        "indptr": indptr,
        "indices": indices,
        "data": data.astype(np.float32),
        "known": known,
        "bought": np.array([bought]),
    }


def _of_relation(counts: sparse.csr_matrix, kind: IntArray, relation: str) -> sparse.csr_matrix:
    """Keeps the cells of the wanted relation; items of unknown kind go with any."""
    if relation == "related":
        return counts
    counts = counts.tocsr()
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    mine, theirs = kind[rows], kind[counts.indices]
    same = (mine == theirs) & (mine >= 0)
    unknown = (mine < 0) | (theirs < 0)
    wanted = ~same if relation == "complement" else same | unknown
    data = np.where(wanted, counts.data, 0)
    return sparse.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)


def _same_kind(neighbours: Neighbours, kind: IntArray) -> Neighbours:
    rows = np.repeat(np.arange(len(neighbours.offsets) - 1), np.diff(neighbours.offsets))
    same = (kind[rows] == kind[neighbours.items]) | (kind[rows] < 0)
    weights = np.where(same, neighbours.weights, 0).astype(np.float32)
    return Neighbours(neighbours.offsets, neighbours.items, weights)


def _csr(
    matrix: sparse.csr_matrix,
) -> tuple[npt.NDArray[np.int64], IntArray, FloatArray]:
    matrix = matrix.tocsr()
    matrix.sort_indices()
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data


def _empty(n: int) -> Neighbours:
    return Neighbours(np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def _relative(neighbours: Neighbours) -> Neighbours:
    """Each row's best weight becomes 1, so that it can be blended with a cosine."""
    sizes = np.diff(neighbours.offsets)
    best = np.ones(len(sizes), np.float32)
    filled = sizes > 0
    best[filled] = neighbours.weights[neighbours.offsets[:-1][filled]]
    weights = neighbours.weights / np.repeat(best, sizes)
    return Neighbours(neighbours.offsets, neighbours.items, weights.astype(np.float32))


def _blend(
    behaviour: Neighbours, similar: Neighbours, sure: FloatArray, content: float, keep: int
) -> Arrays:
    """The artefact: ``sure * behaviour + (1 - sure) * content`` and the first term alone."""
    n = len(sure)
    shape = (n, n)
    scale = np.repeat(sure, np.diff(behaviour.offsets))
    known = sparse.csr_matrix(
        (behaviour.weights * scale, behaviour.items, behaviour.offsets), shape=shape
    )
    # A floor, because even a sure item has too few neighbours sometimes.
    rest = np.repeat(np.maximum(1 - sure, 0.02) * np.float32(content), np.diff(similar.offsets))
    total = known + sparse.csr_matrix(
        (similar.weights * rest, similar.items, similar.offsets), shape=shape
    )
    best = strongest(*_csr(total), keep)
    # The behavioural part on the pattern of what was kept.
    rows = np.repeat(np.arange(n), np.diff(best.offsets))
    key = rows.astype(np.int64) * n + best.items
    known.sort_indices()
    have = np.repeat(np.arange(n), np.diff(known.indptr)).astype(np.int64) * n + known.indices
    at = np.searchsorted(have, key)
    at[at == len(have)] = 0
    hit = have[at] == key if len(have) else np.zeros(len(key), np.bool_)
    part = np.zeros(len(key), np.float32)
    part[hit] = known.data[at[hit]]
    return {**best.arrays("neighbours"), "behaviour": part}
