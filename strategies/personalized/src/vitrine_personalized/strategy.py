"""Directed item-to-item transitions from a decayed history, learned likeness of items, and repeat
purchases where a shop has them."""

from __future__ import annotations

from dataclasses import dataclass
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
from vitrine_sdk.past import NOTHING_AGAIN, blended, following, repeated, weighed

DAY = 86_400
EMBEDDED = 20  # events of the history that make its profile
MOSTLY_REPEATS = 0.25

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
        # What counts for less than a hundredth of the most costs time and changes nothing.
        weights, items, telling = weighed(
            history, self.type_weights, self.config.recency, self.config.half_life_days, 0.01
        )
        again = NOTHING_AGAIN
        if self.repeats > 0:
            again = repeated(history, weights, EventType.PURCHASE, self.again)
        if self.embedding <= 0:
            return following(
                self.transitions, items, telling, history, again, self.repeats, limit,
                context.eligible,
            )  # fmt: skip
        found, scores = self.transitions.merged(items, telling)
        found, scores = self._with_likeness(history, items, found, scores)
        others = ~contained(found, history.items)
        found, scores = found[others], scores[others]
        return blended(found, scores, again, self.repeats, limit, context.eligible)

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
        config = self.config
        weights, _, _ = weighed(
            history, self.type_weights, config.embedding_recency, config.half_life_days
        )
        likeness = np.maximum(profile(self.vectors, past, weights[:EMBEDDED], found), 0)
        best = max(float(likeness.max()), 1e-30)
        return found, (scores + likeness * np.float32(self.embedding / best)).astype(np.float32)


class Personalized:
    """See `PersonalizedConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 2
    reasons: ClassVar[tuple[str, ...]] = ("from_history", "bought_before")  # as `blended` says

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
