"""Neighbours of the session, in the manner of VSTAN (Ludewig, Mauro, Latifi and Jannach, 2021:
sequence and time aware nearest neighbours), blended with item-to-item transitions."""

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
    IntArray,
    Needs,
    TrainingData,
)
from vitrine_sdk.cooccurrence import damped, followed, neighbours, type_weights
from vitrine_sdk.embeddings import Training, embed, nearest, profile
from vitrine_sdk.neighbours import Neighbours, checked, summed
from vitrine_sdk.ranking import ranked

DAY = 86_400
NEIGHBOURS, SEEN = 0, 1
EMBEDDED = np.float32(0.7)  # the weights of the visit's items in its profile, a place

Weight = Annotated[float, msgspec.Meta(ge=0, le=1000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class SessionConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How like visits are found, and what is taken from them."""

    view: Weight = 1.0
    click: Weight = 1.0
    cart: Weight = 1.0
    purchase: Weight = 1.0
    search: Weight = 1.0
    conversion: Weight = 1.0
    length: Annotated[int, msgspec.Meta(ge=1, le=200)] = 12
    """How many of the visit's latest items are looked at."""
    pause_minutes: Annotated[float, msgspec.Meta(ge=1, le=10_000)] = 60.0
    """A longer silence begins a new visit."""
    recency: Share = 0.4
    """Each item of the visit counts so much of the one that came after it."""
    sessions_an_item: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 400
    """Only so many of the latest visits with an item are looked at."""
    neighbours: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 400
    """How many like visits are taken."""
    distance: Annotated[float, msgspec.Meta(gt=0, le=100)] = 2.5
    """How far from the common item another one still counts: e ** (-places / distance)."""
    backward: Share = 0.7
    """How much what came before the common item counts beside what came after."""
    half_life_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 60.0
    """A visit this old counts half."""
    idf: Share = 0.3
    """How much more rare items count: (visits / visits with the item) ** idf, for the answer."""
    own: Weight = 1.0
    """How much what the visit has already had counts in the answer; 0: never shown again."""
    own_last: Weight = 1.0
    """How much the item that was looked at last counts beside the rest of those."""
    own_before: Weight = 1.3
    """How much the one before it does: going back is what shoppers do most."""
    transitions: Weight = 0.25
    """How much item-to-item transitions count beside like visits."""
    embedding: Weight = 0.5
    """How much learned likeness to the whole visit counts beside like visits; 0: not learned."""
    embedding_epochs: Annotated[int, msgspec.Meta(ge=1, le=100)] = 8
    embedding_size: Annotated[int, msgspec.Meta(ge=8, le=512)] = 64
    largest: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 50
    """Only the last so many items of a visit are learned from."""


@dataclass(frozen=True, slots=True, eq=False)
class SessionModel:
    visits: Neighbours  # a visit's items in order; its weight is the visit's own, by age and length
    of_item: Neighbours  # an item's visits, the latest first; the weight is the place in the visit
    transitions: Neighbours
    likes: Neighbours  # each item's nearest by embedding: candidates only
    vectors: FloatArray  # n, size; or 0, 0 where there are none
    rarity: FloatArray  # n
    config: SessionConfig

    def recommend(self, context: Context, limit: int) -> Candidates:
        items = _current(context.history, self.config)
        if not len(items):
            return NO_CANDIDATES
        config = self.config
        place = np.arange(len(items), dtype=np.float32)
        weights = np.float32(config.recency) ** place
        found, scores = self._from_neighbours(items, weights)
        if config.transitions > 0:
            more, values = self.transitions.merged(items, weights)
            if len(more):
                values = values * np.float32(config.transitions / max(float(values.max()), 1e-30))
                found, scores = summed(
                    np.concatenate((found, more)), np.concatenate((scores, values))
                )
        if config.embedding > 0:
            latest = items[:3]
            near, _ = self.likes.merged(latest, np.zeros(len(latest), np.float32))
            found, scores = summed(
                np.concatenate((found, near)),
                np.concatenate((scores, np.zeros(len(near), np.float32))),
            )
            likeness = np.maximum(profile(self.vectors, items, EMBEDDED**place, found), 0)
            scores = (scores + likeness * config.embedding).astype(np.float32)
        if not len(found):
            return NO_CANDIDATES
        had = np.full(len(items), config.own, np.float32)
        had[:1] *= np.float32(config.own_last)
        had[1:2] *= np.float32(config.own_before)
        at = np.minimum(found.searchsorted(items), len(found) - 1)  # they ascend
        there = found[at] == items
        own = np.zeros(len(found), np.bool_)
        own[at[there]] = True
        factor = np.ones(len(found), np.float32)
        factor[at[there]] = had[there]
        scores = scores * factor
        keep = scores > 0
        reasons = np.where(own, SEEN, NEIGHBOURS).astype(np.uint8)
        return ranked(found[keep], scores[keep], limit, reasons[keep], context.eligible)

    def _from_neighbours(self, items: IntArray, weights: FloatArray) -> tuple[IntArray, FloatArray]:
        """The items of the most similar visits, near the place where they meet the current one;
        the best has score 1."""
        config = self.config
        starts = self.of_item.offsets[items]
        counts = np.minimum(self.of_item.offsets[items + 1] - starts, config.sessions_an_item)
        cells, _ = _cells(starts, counts)
        if not len(cells):
            return np.empty(0, np.int32), np.empty(0, np.float32)
        visit = self.of_item.items[cells]
        # Stable: of several meetings of one visit, the one with the newest item comes first.
        order = np.argsort(visit, kind="stable")
        visit = visit[order]
        first = np.flatnonzero(np.concatenate(([True], visit[1:] != visit[:-1])))
        similarity = np.add.reduceat(np.repeat(weights, counts)[order], first)
        met = self.of_item.weights[cells][order][first]
        visit = visit[first]
        similarity = similarity * self.visits.weights[self.visits.offsets[visit]]
        if len(visit) > config.neighbours:
            # A total order, so that the same visits are taken on every machine.
            best = np.argsort(-similarity, kind="stable")[: config.neighbours]
            visit, similarity, met = visit[best], similarity[best], met[best]
        begin = self.visits.offsets[visit]
        sizes = self.visits.offsets[visit + 1] - begin
        cells, place = _cells(begin, sizes)
        away = place - np.repeat(met, sizes)
        near = np.exp(-np.abs(away) / np.float32(config.distance))
        near = np.where(away < 0, near * np.float32(config.backward), near)
        near = near * np.repeat(similarity, sizes)
        found = self.visits.items[cells]
        found, scores = summed(found, (near * self.rarity[found]).astype(np.float32))
        return found, (scores / max(float(scores.max()), 1e-30)).astype(np.float32)


def _cells(
    starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """The cells of all rows, one row after another, and each cell's place in its row."""
    before = np.cumsum(counts) - counts
    place = np.arange(int(counts.sum())) - np.repeat(before, counts)
    return place + np.repeat(starts, counts), place.astype(np.float32)


def _current(history: History, config: SessionConfig) -> IntArray:
    """The items of the visit under way, newest first, each once."""
    if not len(history):
        return history.items
    pause = np.flatnonzero(np.diff(history.ages) > config.pause_minutes * 60)
    end = int(pause[0]) + 1 if len(pause) else len(history)
    items = history.items[:end]
    _, first = np.unique(items, return_index=True)
    return items[np.sort(first)[: config.length]]


class Session:
    """See `SessionConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("similar_visits", "seen_in_this_visit")

    @property
    def config(self) -> type[SessionConfig]:
        return SessionConfig

    def needs(self, config: SessionConfig) -> Needs:
        return Needs(history=4 * config.length, eligible=True)

    def fit(self, data: TrainingData, config: SessionConfig, seed: int) -> Arrays:
        n = len(data.items)
        session, item, time = _learned(data.events, config)
        starts = np.flatnonzero(np.concatenate(([True], np.diff(session) != 0)))
        starts = starts if len(session) else np.empty(0, np.int64)
        sizes = np.diff(np.append(starts, len(session)))
        visits = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        row = np.repeat(np.arange(len(starts)), sizes)
        place = np.arange(len(session)) - np.repeat(starts, sizes)
        # A visit's own weight: by its age, and by its length, as a cosine has it.
        ended = np.maximum.reduceat(time, starts) if len(starts) else time
        own = np.exp2(-(data.now - ended) / (config.half_life_days * DAY)) / np.sqrt(sizes)

        # An item's visits, the latest first; of a repeated item the last place counts.
        last = np.ones(len(session), np.bool_)
        key = row * n + item
        order = np.argsort(key, kind="stable")
        last[order[:-1]] = key[order][:-1] != key[order][1:]
        cells = np.flatnonzero(last)
        cells = cells[np.lexsort((-row[cells], -ended[row[cells]], item[cells]))]
        held = np.bincount(item[cells], minlength=n)
        postings = np.concatenate(([0], np.cumsum(held))).astype(np.int64)
        rank = np.arange(len(cells)) - np.repeat(postings[:-1], held)
        kept = rank < config.sessions_an_item
        of_item = Neighbours(
            np.concatenate(([0], np.cumsum(np.minimum(held, config.sessions_an_item)))).astype(
                np.int64
            ),
            row[cells][kept].astype(np.int32),
            place[cells][kept].astype(np.float32),
        )
        rarity = (max(len(starts), 1) / np.maximum(held, 1)) ** config.idf

        ones = np.ones(len(item), np.float32)
        gaps = [(gap, 1 / gap) for gap in range(1, 6)]
        counts = followed(item.astype(np.int32), row.astype(np.int32), ones, n, gaps)
        counts = counts + counts.T * np.float32(0.6)
        counts = damped(counts, held.astype(np.float32), 0.5, 0.3, 0.0)
        vectors = np.empty((0, 0), np.float32)
        likes = Neighbours(
            np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
        )
        if config.embedding > 0:
            how = Training(
                size=config.embedding_size,
                epochs=config.embedding_epochs,
                decay=float(EMBEDDED),
                length=config.length,
                softmax=4096,
                steps=3000,
            )
            vectors = embed(item.astype(np.int32), row.astype(np.int32), n, seed, how)
            likes = nearest(vectors, 50, held)
        return {
            **likes.arrays("likes"),
            "vectors": vectors,
            **Neighbours(
                visits, item.astype(np.int32), np.repeat(own, sizes).astype(np.float32)
            ).arrays("visits"),
            **of_item.arrays("of_item"),
            **neighbours(counts, 100).arrays("transitions"),
            "rarity": rarity.astype(np.float32),
        }

    def load(self, arrays: Arrays, config: SessionConfig, items: int) -> SessionModel:
        offsets = arrays.get("visits_offsets")
        if offsets is None or offsets.ndim != 1 or not len(offsets):
            raise ValueError("array 'visits_offsets' must be there")
        vectors = arrays.get("vectors")
        if vectors is None or vectors.dtype != np.float32 or vectors.ndim != 2:
            raise ValueError("array 'vectors' must be float32 with two axes")
        if config.embedding > 0 and len(vectors) != items:
            raise ValueError(f"array 'vectors' has {len(vectors)} rows, expected {items}")
        return SessionModel(
            Neighbours.from_arrays(arrays, "visits", len(offsets) - 1),
            Neighbours.from_arrays(arrays, "of_item", items),
            Neighbours.from_arrays(arrays, "transitions", items),
            Neighbours.from_arrays(arrays, "likes", items),
            vectors,
            checked(arrays, "rarity", np.float32, items),
            config,
        )


def _learned(
    events: Events, config: SessionConfig
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Session, item and time of what is learned from, session by session, oldest first; only
    visits with two items or more, and of those the last `largest`."""
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
    rows = np.flatnonzero(weights > 0)
    rows = rows[np.lexsort((rows, events.time[rows], events.session[rows]))]
    session, item = events.session[rows].astype(np.int64), events.item[rows].astype(np.int64)
    step = np.ones(len(rows), np.bool_)  # the same item again at once is one step
    step[1:] = (np.diff(session) != 0) | (np.diff(item) != 0)
    rows, session, item = rows[step], session[step], item[step]
    sizes = np.bincount(session)[session] if len(session) else session
    after = np.flatnonzero(np.concatenate((np.diff(session) != 0, [True])))
    end = np.repeat(after, np.diff(np.concatenate(([-1], after)))) if len(session) else session
    keep = (sizes > 1) & (end - np.arange(len(session)) < config.largest)
    return session[keep], item[keep], events.time[rows][keep]
