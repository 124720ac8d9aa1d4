"""Protocols: how a log is cut into what a strategy may learn from and what it is asked.

Each has a test split and a validation split. Validation lies wholly before the test split: whoever
tunes looks at validation only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from app.domain.errors import InvalidInput
from app.domain.metrics import Truth
from app.services.evaluate_formats import DAY, SECONDS_BETWEEN, Log
from vitrine_sdk import Events, EventType, TrainingData

IntArray = npt.NDArray[np.int32]
Part = Literal["test", "validation"]


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """What is asked, one row a query, and what was chosen then."""

    offsets: npt.NDArray[np.int64]  # q + 1, into the histories
    items: IntArray  # newest first
    types: npt.NDArray[np.int8]
    times: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]  # q, the time of the request
    shopper: IntArray  # q, a code of the training events; -1: nobody they know
    truth: Truth

    def __len__(self) -> int:
        return len(self.at)

    def some(self, rows: npt.NDArray[np.int64]) -> Queries:
        """Only those queries."""
        past = _ranges(self.offsets, rows)
        future = _ranges(self.truth.offsets, rows)
        return Queries(
            _offsets(np.diff(self.offsets)[rows]),
            self.items[past],
            self.types[past],
            self.times[past],
            self.at[rows],
            self.shopper[rows],
            Truth(
                _offsets(self.truth.sizes[rows]),
                self.truth.items[future],
                self.truth.revenue[future],
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    train: TrainingData
    queries: Queries
    boundary: int  # no training event is this late, whoever did it
    asked: npt.NDArray[np.int64]
    """A shopper of the training events: when they are first asked; no event of theirs may be from
    then on. The boundary where they are not asked."""


def split(log: Log, protocol: str, part: Part, days: int = 30) -> Split:
    """Cut a log.

    Args:
        days: length of the test period, where the protocol has one.

    Raises:
        InvalidInput: an unknown protocol, or one that this log cannot serve.
    """
    if protocol not in PROTOCOLS:
        raise InvalidInput.field("protocol", f"must be one of {', '.join(sorted(PROTOCOLS))}")
    made = PROTOCOLS[protocol](log, part, days)
    if not len(made.queries):
        raise InvalidInput.field("protocol", f"{protocol} leaves nobody to ask in this data set")
    return made


def _leave_one_out(log: Log, part: Part, days: int) -> Split:  # noqa: ARG001
    """The last item of each shopper is the test, the one before it the validation; neither is
    learned from, and the validation item is history when the test is asked (SASRec's protocol)."""
    events = log.data.events
    starts, ends = _spans(events)
    long = ends - starts >= 3
    starts, ends = starts[long], ends[long]
    target = ends - (1 if part == "test" else 2)
    used = np.ones(len(events), np.bool_)
    used[ends - 1] = False
    used[ends - 2] = False
    return _asked_for(log.data, used, starts, target, target, target + 1)


def _last_purchase(log: Log, part: Part, days: int) -> Split:
    """The data set's own held-out purchase a shopper; for validation, the last purchase before it
    of an item that is new to the shopper then, which is learned from in neither."""
    if part == "test":
        return _given(log, part, days)
    events = log.data.events
    target = []
    for start, end in zip(*_spans(events), strict=True):
        bought = np.flatnonzero(events.type[start:end] == EventType.PURCHASE)[::-1] + start
        if len(bought):
            target.append((start, end, int(bought[0])))
    starts, ends, chosen = (np.array(column, np.int64) for column in zip(*target, strict=True))
    # The held-out item leaves no other trace: views of it before the purchase go as well, as in
    # the data set's own test split.
    held = np.full(events.shoppers, -1, np.int64)
    held[events.shopper[chosen]] = events.item[chosen]
    used = events.item != held[events.shopper]
    data = replace(log.data, events=_take(events, np.flatnonzero(used)))
    starts, ends = _spans(data.events)
    asked = np.flatnonzero(held[data.events.shopper[starts]] >= 0)
    starts, ends = starts[asked], ends[asked]
    item = held[data.events.shopper[starts]].astype(np.int32)
    truth = Truth(np.arange(len(item) + 1), item, np.zeros(len(item), np.float32))
    return Split(
        data,
        _queries(data.events, starts, ends, np.full(len(item), data.now), truth),
        data.now,
        np.full(events.shoppers, data.now),
    )


def _given(log: Log, part: Part, days: int) -> Split:
    """The data set's own test split. Validation: a fifth of each shopper's items, drawn at random
    (files such as Gowalla's have no time), or the last session days where nobody is known."""
    if part == "test":
        return _held_out(log.data, log.held_out, log.shoppers)
    if not log.shoppers:
        return _next_click(log, part, days)
    events = log.data.events
    starts, ends = _spans(events)
    place = np.random.default_rng(1).random(len(events))
    order = np.lexsort((place, events.shopper))
    rank = np.empty(len(events), np.int64)
    rank[order] = np.arange(len(events)) - np.repeat(starts, ends - starts)
    hidden = rank < ((ends - starts) // 5)[np.repeat(np.arange(len(starts)), ends - starts)]
    data = replace(log.data, events=_take(events, np.flatnonzero(~hidden)))
    later = [
        (events.item[s:e][~hidden[s:e]].tolist(), events.item[s:e][hidden[s:e]].tolist())
        for s, e in zip(starts, ends, strict=True)
    ]
    shoppers = events.shopper[starts].tolist()
    asked = [i for i, (_, chosen) in enumerate(later) if chosen]
    return _held_out(data, [later[i] for i in asked], [shoppers[i] for i in asked])


def _next_click(log: Log, part: Part, days: int) -> Split:
    """Sessions: every prefix is asked for the click that comes next. Test: the data set's own, or
    the last `days`; validation: the sessions of as many days before."""
    if part == "test" and log.held_out:
        return _held_out(log.data, log.held_out, ())
    events = log.data.events
    end = log.data.now if log.held_out or part == "test" else log.data.now - days * DAY
    boundary = end - days * DAY
    opened = np.full(int(events.session.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(opened, events.session, events.time)
    late = opened[events.session] >= boundary
    data = replace(
        log.data, events=_take(events, np.flatnonzero(events.time < boundary)), now=boundary
    )
    asked = _take(events, np.flatnonzero(late & (opened[events.session] < end)))
    order = np.lexsort((asked.time, asked.session))
    session = asked.session[order]
    first = np.flatnonzero(np.concatenate(([True], np.diff(session) != 0)))
    start = np.repeat(first, np.diff(np.append(first, len(session))))
    later = np.flatnonzero(np.arange(len(session)) > start)
    item, kind, time = asked.item[order], asked.type[order], asked.time[order]
    rows, offsets = _backwards(start[later], later)
    truth = Truth(np.arange(len(later) + 1), item[later], np.zeros(len(later), np.float32))
    return Split(
        data,
        Queries(
            offsets,
            item[rows],
            kind[rows],
            # Of two events of one second, the log's order says which was first.
            np.minimum(time[rows], np.repeat(time[later] - 1, np.diff(offsets))),
            time[later],
            np.full(len(later), -1, np.int32),
            truth,
        ),
        boundary,
        np.full(events.shoppers, boundary),
    )


def _next_basket(log: Log, part: Part, days: int) -> Split:
    """Each shopper's first visit with a purchase in the last `days` (validation: the days before
    those), asked when it begins; learned from is what was before the period."""
    return _period(log, part, days, whole=False)


def _time(log: Log, part: Part, days: int) -> Split:
    """What each shopper chose in the last `days` (validation: the days before those); learned from
    is what was before."""
    return _period(log, part, days, whole=True)


def _period(log: Log, part: Part, days: int, *, whole: bool) -> Split:
    events = log.data.events
    end = log.data.now - (0 if part == "test" else days * DAY)
    boundary = end - days * DAY
    past = events.time < boundary
    future = (events.time >= boundary) & (events.time < end) & (events.item >= 0)
    if not whole:
        future &= events.type == EventType.PURCHASE
    rows = np.flatnonzero(future)
    if not whole:
        # The first visit of the period, a shopper.
        begun = np.full(events.shoppers, -1, np.int64)
        begun[events.shopper[rows[::-1]]] = events.session[rows[::-1]]
        rows = rows[events.session[rows] == begun[events.shopper[rows]]]
    data = replace(log.data, events=_take(events, np.flatnonzero(past)), now=boundary)
    starts, ends = _spans(data.events)
    span = np.full((events.shoppers, 2), 0, np.int64)
    span[data.events.shopper[starts]] = np.stack((starts, ends), axis=1)
    # Somebody without a past is a new shopper: no matter for a model of histories.
    rows = rows[span[events.shopper[rows], 1] > 0]
    shopper, place = np.unique(events.shopper[rows], return_inverse=True)
    key = place * (len(log.data.items) + 1) + events.item[rows]
    distinct, inverse = np.unique(key, return_inverse=True)
    revenue = np.bincount(inverse, events.revenue[rows], minlength=len(distinct))
    owner = distinct // (len(log.data.items) + 1)
    truth = Truth(
        _offsets(np.bincount(owner, minlength=len(shopper))),
        (distinct % (len(log.data.items) + 1)).astype(np.int32),
        revenue.astype(np.float32),
    )
    at = np.full(len(shopper), np.iinfo(np.int64).max)
    np.minimum.at(at, place, events.time[rows])
    begin = span[shopper]
    return Split(
        data,
        _queries(data.events, begin[:, 0], begin[:, 1], at, truth),
        boundary,
        np.full(events.shoppers, boundary),
    )


PROTOCOLS: Final[Mapping[str, Callable[[Log, Part, int], Split]]] = {
    "leave-one-out": _leave_one_out,
    "last-purchase": _last_purchase,
    "given": _given,
    "next-click": _next_click,
    "next-basket": _next_basket,
    "time": _time,
}


def _asked_for(
    data: TrainingData,
    used: npt.NDArray[np.bool_],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
) -> Split:
    """Histories are rows ``starts:ends``, truths rows ``first:last`` of all events."""
    events = data.events
    rows = _ranges_of(first, last)
    truth = Truth(_offsets(last - first), events.item[rows], events.revenue[rows])
    at = events.time[first]
    asked = np.full(events.shoppers, data.now)
    asked[events.shopper[first]] = at
    return Split(
        replace(data, events=_take(events, np.flatnonzero(used))),
        _queries(events, starts, ends, at, truth),
        data.now,
        asked,
    )


def _queries(
    events: Events,
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    at: npt.NDArray[np.int64],
    truth: Truth,
) -> Queries:
    rows, offsets = _backwards(starts, ends)
    known = events.item[rows] >= 0
    sizes = (
        np.add.reduceat(np.append(known, False), offsets[:-1]) if len(rows) else np.diff(offsets)
    )
    sizes = np.where(np.diff(offsets) > 0, sizes, 0)
    rows = rows[known]
    return Queries(
        _offsets(sizes),
        events.item[rows],
        events.type[rows],
        events.time[rows],
        at,
        events.shopper[starts],
        truth,
    )


def _held_out(
    data: TrainingData,
    later: Sequence[tuple[Sequence[int], Sequence[int]]],
    shoppers: Sequence[int],
) -> Split:
    """Queries that a file states. A shopper whom the data knows brings their events as history;
    nobody's prefix is a session of views that ends now."""
    events = data.events
    truth = Truth(
        _offsets(np.array([len(chosen) for _, chosen in later])),
        np.array([i for _, chosen in later for i in chosen], np.int32),
        np.zeros(sum(len(chosen) for _, chosen in later), np.float32),
    )
    at = np.full(len(later), data.now)
    bounds = np.full(events.shoppers, data.now)
    if len(shoppers):
        starts, ends = _spans(events)
        span = np.zeros((events.shoppers, 2), np.int64)
        span[events.shopper[starts]] = np.stack((starts, ends), axis=1)
        begin = span[np.asarray(shoppers)]
        return Split(data, _queries(events, begin[:, 0], begin[:, 1], at, truth), data.now, bounds)
    sizes = np.array([len(prefix) for prefix, _ in later])
    items = np.array([i for prefix, _ in later for i in reversed(prefix)], np.int32)
    offsets = _offsets(sizes)
    age = (np.arange(len(items)) - np.repeat(offsets[:-1], sizes) + 1) * SECONDS_BETWEEN
    return Split(
        data,
        Queries(
            offsets,
            items,
            np.full(len(items), int(EventType.VIEW), np.int8),
            data.now - age,
            at,
            np.full(len(later), -1, np.int32),
            truth,
        ),
        data.now,
        bounds,
    )


def _spans(events: Events) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First row, and row after the last, of each shopper who has any."""
    if not len(events):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    starts = np.flatnonzero(np.concatenate(([True], np.diff(events.shopper) != 0)))
    return starts, np.append(starts[1:], len(events))


def _take(events: Events, rows: npt.NDArray[np.int64]) -> Events:
    return replace(
        events,
        shopper=events.shopper[rows],
        item=events.item[rows],
        type=events.type[rows],
        time=events.time[rows],
        quantity=events.quantity[rows],
        revenue=events.revenue[rows],
        session=events.session[rows],
        term=events.term[rows],
    )


def _offsets(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def _ranges_of(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All rows of all spans, one span after another."""
    sizes = ends - starts
    offsets = _offsets(sizes)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)


def _ranges(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return _ranges_of(offsets[:-1][rows], offsets[1:][rows])


def _backwards(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows of each span, the last one first; and the spans' offsets."""
    sizes = ends - starts
    offsets = _offsets(sizes)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    return np.repeat(ends - 1, sizes) - within, offsets
