"""Baskets' lift, without items of the seeds' own kinds; a whole cart is asked at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from scipy import sparse

from vitrine_sdk import (
    NO_CANDIDATES,
    Arrays,
    Candidates,
    Config,
    Context,
    EventType,
    Facet,
    IntArray,
    Needs,
    TrainingData,
)
from vitrine_sdk.cooccurrence import damped, followed, neighbours, popularity, together
from vitrine_sdk.neighbours import Neighbours, checked
from vitrine_sdk.ranking import ranked

DAY = 86_400

Weight = Annotated[float, msgspec.Meta(ge=0, le=1000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ComplementaryConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    together: Weight = 1.0
    """How much being in one basket counts."""
    next: Weight = 0.3
    """How much being bought next, in a later basket, counts."""
    carts: Weight = 0.3
    """How much a cart counts beside a purchase."""
    window_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 730.0
    """Older baskets are not learned from."""
    largest_basket: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 60
    damping: Share = 0.5
    """0: what sells best comes first; 1: only what is peculiar to the item."""
    shrink: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 4.0
    """Pairs seen about as often as this are trusted half."""
    same_kind: bool = False
    """Also items of the same kind (an item's most specific group)."""
    neighbours: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 150


@dataclass(frozen=True, slots=True, eq=False)
class ComplementaryModel:
    pairs: Neighbours
    kind: IntArray  # n, -1 where unknown
    same_kind: bool

    def recommend(self, context: Context, limit: int) -> Candidates:
        seeds = context.seeds
        if not len(seeds):
            return NO_CANDIDATES
        found, scores = self.pairs.merged(seeds, np.ones(len(seeds), np.float32))
        # Not what is in the cart already, nor another of its kinds.
        keep = ~np.isin(found, seeds)
        if not self.same_kind:
            kinds = self.kind[seeds]
            keep &= ~np.isin(self.kind[found], kinds[kinds >= 0])
        return ranked(found[keep], scores[keep], limit, 0, context.eligible)


class Complementary:
    """See `ComplementaryConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("bought_together",)

    @property
    def config(self) -> type[ComplementaryConfig]:
        return ComplementaryConfig

    def needs(self, config: ComplementaryConfig) -> Needs:  # noqa: ARG002 - the contract's
        return Needs(seeds=True, eligible=True)

    def fit(self, data: TrainingData, config: ComplementaryConfig, seed: int) -> Arrays:  # noqa: ARG002
        n = len(data.items)
        events = data.events
        table = np.zeros(128, np.float32)
        table[EventType.PURCHASE], table[EventType.CART] = 1, config.carts
        weight = np.where(events.item >= 0, table[events.type], np.float32(0))
        recent = events.time >= data.now - config.window_days * DAY
        rows = np.flatnonzero((weight > 0) & recent)
        item, weight = events.item[rows], weight[rows].astype(np.float32)
        session = events.session[rows]
        counts = together(item, session, weight, n, config.largest_basket)
        counts = counts * np.float32(config.together)
        if config.next > 0:
            # Neighbours in the history that are not of one basket, which is counted already.
            after = followed(item, events.shopper[rows], weight, n, [(g, 1 / g) for g in (1, 2, 3)])
            within = followed(item, session, weight, n, [(g, 1 / g) for g in (1, 2, 3)])
            after = (after - within).maximum(0).tocsr()
            after.setdiag(0)
            counts = counts + after * np.float32(config.next)
        kind = _kinds(data.items.groups, n)
        if not config.same_kind:
            counts = _other_kinds(counts.tocsr(), kind)
        lifted = damped(counts, popularity(item, weight, n), 0.5, config.damping, config.shrink)
        return {**neighbours(lifted, config.neighbours).arrays("pairs"), "kind": kind}

    def load(self, arrays: Arrays, config: ComplementaryConfig, items: int) -> ComplementaryModel:
        return ComplementaryModel(
            Neighbours.from_arrays(arrays, "pairs", items),
            checked(arrays, "kind", np.int32, items),
            config.same_kind,
        )


def _kinds(groups: Facet, n: int) -> IntArray:
    """Each item's most specific group: the one with the fewest items; -1 where it has none."""
    sizes = np.bincount(groups.codes, minlength=max(len(groups.values), 1))
    owners = np.repeat(np.arange(n), np.diff(groups.offsets))
    order = np.lexsort((groups.codes, sizes[groups.codes], owners))
    owners, first = np.unique(owners[order], return_index=True)
    kind = np.full(n, -1, np.int32)
    kind[owners] = groups.codes[order][first]
    return kind


def _other_kinds(counts: sparse.csr_matrix, kind: IntArray) -> sparse.csr_matrix:
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    same = (kind[rows] == kind[counts.indices]) & (kind[rows] >= 0)
    data = np.where(same, 0, counts.data)
    return sparse.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)
