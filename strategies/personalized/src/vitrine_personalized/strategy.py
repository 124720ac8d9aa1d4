"""Directed item-to-item transitions from a decayed history, learned likeness of items, and repeat
purchases where a shop has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from vitrine_sdk import (
    NO_CANDIDATES,
    Arrays,
    Candidates,
    Config,
    Context,
    Events,
    EventType,
    FloatArray,
    History,
    Needs,
    TrainingData,
)
from vitrine_sdk.cooccurrence import damped, followed, neighbours, popularity, type_weights
from vitrine_sdk.embeddings import Training, embed, nearest, profile
from vitrine_sdk.neighbours import Neighbours, checked, contained, summed
from vitrine_sdk.ranking import ranked

DAY = 86_400
FROM_HISTORY, BOUGHT_BEFORE = 0, 1
EMBEDDED = 20  # events of the history that make its profile
MOSTLY_REPEATS = 0.25
PURCHASE = np.int8(EventType.PURCHASE)

Weight = Annotated[float, msgspec.Meta(ge=0, le=1000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class PersonalizedConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the history counts, and how transitions are learned."""

    view: Weight = 1.0
    click: Weight = 1.0
    cart: Weight = 2.0
    purchase: Weight = 3.0
    search: Weight = 0.5
    conversion: Weight = 1.0
    history: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    """How many of the latest events are looked at."""
    recency: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    """Each event counts so much of the one that came after it."""
    half_life_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 30.0
    """An event this old counts half, beside `recency`."""
    window_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 730.0
    """Events older than this are not learned from."""
    gaps: Annotated[int, msgspec.Meta(ge=1, le=50)] = 6
    """How many places after an event another one is taken as its consequence."""
    gap_decay: Annotated[float, msgspec.Meta(ge=0, le=4)] = 0.7
    """The weight of gap g is g ** -gap_decay."""
    backward: Share = 0.6
    """How much "came before" counts beside "came after"."""
    damping: Share = 0.3
    """0: what sells best comes first; 1: only what is peculiar to the history."""
    shrink: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    """Transitions seen about as often as this are trusted half."""
    repeats: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Share of the answer for what the shopper bought before; null: as the shop's data says."""
    neighbours: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 120
    """How many transitions are kept an item."""
    embedding: Weight | None = None
    """How much learned likeness counts beside counted transitions; null: 1.5, or nothing in a
    shop where a quarter of the purchases or more repeat an earlier one."""
    embedding_recency: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    """As `recency`, for the likeness."""
    embedding_epochs: Annotated[int, msgspec.Meta(ge=1, le=100)] = 8
    embedding_size: Annotated[int, msgspec.Meta(ge=8, le=512)] = 64


@dataclass(frozen=True, slots=True, eq=False)
class PersonalizedModel:
    transitions: Neighbours
    likes: Neighbours  # each item's nearest by embedding: candidates only
    vectors: FloatArray  # n, size; or 0, 0 where there are none
    embedding: float
    again: FloatArray  # how readily an item is bought again, 0 .. 1
    repeats: float  # share of purchases that repeat an earlier one
    type_weights: FloatArray  # 128, by EventType
    config: PersonalizedConfig

    def recommend(self, context: Context, limit: int) -> Candidates:
        history = context.history
        if not len(history):
            return NO_CANDIDATES
        weights = self._weights(history, self.config.recency)
        # What counts for less than a hundredth of the most costs time and changes nothing.
        telling = (weights > np.float32(0.01) * weights.max()).nonzero()[0]
        items, telling_weights = history.items.take(telling), weights.take(telling)
        if self.embedding > 0:
            found, scores = self.transitions.merged(items, telling_weights)
            found, scores = self._with_likeness(history, items, found, scores)
            others = ~contained(found, history.items)
            found, scores = found[others], scores[others]
        else:
            found, scores = self.transitions.merged(items, telling_weights, history.items)
        reasons = np.zeros(len(found), np.uint8)
        if self.repeats > 0:
            found, scores, reasons = self._with_repeats(history, weights, found, scores, reasons)
        return ranked(found, scores, limit, reasons, context.eligible)

    def _weights(self, history: History, recency: float) -> FloatArray:
        """Of each event: by its type, its place and its age."""
        decay = _decays(recency)[: len(history)]
        if len(decay) < len(history):
            decay = np.float32(recency) ** np.arange(len(history), dtype=np.float32)
        # The newest event always counts, however old it is: ages are relative to it.
        days = (history.ages - history.ages[0]) / np.float32(DAY)
        age = np.exp2(-days / np.float32(self.config.half_life_days))
        weights: FloatArray = self.type_weights.take(history.types) * decay * age
        return weights.astype(np.float32, copy=False)

    def _with_likeness(
        self,
        history: History,
        items: npt.NDArray[np.int32],
        found: npt.NDArray[np.int32],
        scores: FloatArray,
    ) -> tuple[npt.NDArray[np.int32], FloatArray]:
        """Adds the likeness to the history's profile, and what is nearest to its latest items."""
        latest = items[:5]
        near, _ = self.likes.merged(latest, np.zeros(len(latest), np.float32))
        if len(scores):
            scores = scores / max(float(scores.max()), 1e-30)
        found, scores = summed(
            np.concatenate((found, near)),
            np.concatenate((scores, np.zeros(len(near), np.float32))),
        )
        if not len(found):
            return found, scores
        past = history.items[:EMBEDDED]
        weights = self._weights(history, self.config.embedding_recency)[:EMBEDDED]
        likeness = np.maximum(profile(self.vectors, past, weights, found), 0)
        best = max(float(likeness.max()), 1e-30)
        return found, (scores + likeness * np.float32(self.embedding / best)).astype(np.float32)

    def _with_repeats(
        self,
        history: History,
        weights: FloatArray,
        found: npt.NDArray[np.int32],
        scores: FloatArray,
        reasons: npt.NDArray[np.uint8],
    ) -> tuple[npt.NDArray[np.int32], FloatArray, npt.NDArray[np.uint8]]:
        items = history.items
        bought = (history.types == PURCHASE).nonzero()[0]
        if len(bought) < len(items):
            items, weights = items.take(bought), weights.take(bought)
        items, again = summed(items, np.sqrt(weights) * self.again.take(items))
        keep = (again > 0).nonzero()[0]
        if len(keep) < len(items):
            items, again = items.take(keep), again.take(keep)
        if not len(items):
            return found, scores, reasons
        share = np.float32(self.repeats)
        if len(scores):
            scores = scores * ((1 - share) / max(scores.item(scores.argmax()), 1e-30))
        again = again * (share / again[again.argmax()])
        codes = np.full(len(items), BOUGHT_BEFORE, np.uint8)
        return (
            np.concatenate((items, found)),
            np.concatenate((again, scores)).astype(np.float32),
            np.concatenate((codes, reasons)),
        )


@lru_cache(maxsize=64)
def _decays(recency: float) -> FloatArray:
    decays: FloatArray = np.float32(recency) ** np.arange(256, dtype=np.float32)
    decays.setflags(write=False)
    return decays


class Personalized:
    """See `PersonalizedConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 2
    reasons: ClassVar[tuple[str, ...]] = ("from_history", "bought_before")

    @property
    def config(self) -> type[PersonalizedConfig]:
        return PersonalizedConfig

    def needs(self, config: PersonalizedConfig) -> Needs:
        return Needs(history=config.history, eligible=True)

    def fit(self, data: TrainingData, config: PersonalizedConfig, seed: int) -> Arrays:
        n = len(data.items)
        events = data.events
        weights = type_weights(events, _weights_by_type(config))
        recent = events.time >= data.now - config.window_days * DAY
        used = np.flatnonzero((weights > 0) & recent)
        # A view, then a click, then a cart of one item are one step in a history.
        step = np.ones(len(used), np.bool_)
        step[1:] = (np.diff(events.item[used]) != 0) | (np.diff(events.shopper[used]) != 0)
        first = np.flatnonzero(step)
        item, shopper = events.item[used][first], events.shopper[used][first]
        weight = np.maximum.reduceat(weights[used], first) if len(first) else weights[used]

        gaps = [(g, g**-config.gap_decay) for g in range(1, config.gaps + 1)]
        counts = followed(item, shopper, weight, n, gaps)
        counts = counts + counts.T * np.float32(config.backward)
        counts.setdiag(0)
        sold = popularity(item, weight, n)
        counts = damped(counts, sold, 0.5, config.damping, config.shrink)
        again, share = _repeats(events, n)
        repeats = share if config.repeats is None else config.repeats
        embedding = config.embedding
        if embedding is None:
            embedding = 0.0 if share >= MOSTLY_REPEATS else 1.5
        vectors = np.empty((0, 0), np.float32)
        likes = Neighbours(
            np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
        )
        if embedding > 0:
            how = Training(
                size=config.embedding_size,
                epochs=config.embedding_epochs,
                decay=config.embedding_recency,
                length=EMBEDDED,
            )
            vectors = embed(item, shopper, n, seed, how)
            likes = nearest(vectors, 100, sold)
        return {
            **neighbours(counts, config.neighbours).arrays("transitions"),
            **likes.arrays("likes"),
            "vectors": vectors,
            "embedding": np.array([embedding], np.float32),
            "again": again,
            "repeats": np.array([repeats], np.float32),
        }

    def load(self, arrays: Arrays, config: PersonalizedConfig, items: int) -> PersonalizedModel:
        table = np.zeros(128, np.float32)
        for code, weight in _weights_by_type(config).items():
            table[code] = weight
        embedding = float(checked(arrays, "embedding", np.float32, 1)[0])
        vectors = arrays.get("vectors")
        if vectors is None or vectors.dtype != np.float32 or vectors.ndim != 2:
            raise ValueError("array 'vectors' must be float32 with two axes")
        if embedding > 0 and len(vectors) != items:
            raise ValueError(f"array 'vectors' has {len(vectors)} rows, expected {items}")
        return PersonalizedModel(
            Neighbours.from_arrays(arrays, "transitions", items),
            Neighbours.from_arrays(arrays, "likes", items),
            vectors,
            embedding,
            checked(arrays, "again", np.float32, items),
            float(checked(arrays, "repeats", np.float32, 1)[0]),
            table,
            config,
        )


def _weights_by_type(config: PersonalizedConfig) -> dict[int, float]:
    return {
        EventType.VIEW: config.view,
        EventType.CLICK: config.click,
        EventType.CART: config.cart,
        EventType.PURCHASE: config.purchase,
        EventType.SEARCH: config.search,
        EventType.CONVERSION: config.conversion,
    }


def _repeats(events: Events, n: int) -> tuple[FloatArray, float]:
    """How readily each item is bought again (share of its buyers who did on another visit, shrunk
    towards the shop's mean), and the share of all purchases that repeat one; 0 if under a tenth."""
    rows = np.flatnonzero((events.type == EventType.PURCHASE) & (events.item >= 0))
    if not len(rows):
        return np.zeros(n, np.float32), 0.0
    # Distinct (shopper, item, visit).
    visit = events.session[rows].astype(np.int64)
    pair = events.shopper[rows].astype(np.int64) * n + events.item[rows]
    order = np.lexsort((visit, pair))
    pair, visit = pair[order], visit[order]
    new_pair = np.concatenate(([True], np.diff(pair) != 0))
    new_visit = new_pair | np.concatenate(([True], np.diff(visit) != 0))
    item = events.item[rows][order]
    starts = np.flatnonzero(new_pair)
    visits = np.add.reduceat(new_visit.astype(np.int64), starts)
    buyers = np.bincount(item[starts], minlength=n)
    repeaters = np.bincount(item[starts], visits > 1, minlength=n)
    share = float((visits.sum() - len(starts)) / visits.sum())
    if share < 0.1:
        return np.zeros(n, np.float32), 0.0
    mean = repeaters.sum() / max(buyers.sum(), 1)
    again = (repeaters + 5 * mean) / (buyers + 5)
    again[buyers == 0] = 0
    return again.astype(np.float32), share
