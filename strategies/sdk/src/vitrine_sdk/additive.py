"""Fits that are sums over shoppers: counted in parts, on several machines, or only what is new.

Optional. A strategy that learns from each shopper's events by themselves, and adds up, says so by
three methods beside `fit`: see `Additive`. Then a host may count the parts wherever it likes, keep
the counts, and bring them up to date by counting again only the shoppers who did something.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from vitrine_sdk.contract import Arrays, Config, Events, IntArray, Items, TrainingData

ConfigT_contra = TypeVar("ConfigT_contra", bound=Config, contravariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """Some shoppers' counts."""

    counts: Arrays
    positions: IntArray | None = None
    """For each item at counting time, its position now, -1 where it is gone; None: as they are."""
    sign: int = 1
    """1: to be added; -1: to be taken away."""


@runtime_checkable
class Additive(Protocol[ConfigT_contra]):
    """What a strategy offers beside `Strategy`, where its fit is a sum over shoppers.

    ``fit(data, config, seed)`` equals ``finish(count(data, config), items, now, config, seed)``;
    and for a split of the shoppers, ``combine`` of the parts' counts equals, but for rounding, the
    count of all.
    """

    def count(self, data: TrainingData, config: ConfigT_contra) -> Arrays:
        """The sums over the data's shoppers. Positions and `now` are those of all the data."""
        ...

    def combine(self, parts: Sequence[Counted], items: int, config: ConfigT_contra) -> Arrays:
        """The sum of the parts, for a catalogue of so many items now."""
        ...

    def finish(
        self, counts: Arrays, items: Items, now: int, config: ConfigT_contra, seed: int
    ) -> Arrays:
        """The artefact, as `fit` makes it."""
        ...


def by_shopper(data: TrainingData, parts: int) -> list[TrainingData]:
    """The same data in `parts` with about as many events each, no shopper in two of them."""
    shopper = data.events.shopper
    cuts = [len(shopper) * part // parts for part in range(1, parts)]
    # A cut moves to where its shopper begins.
    edges = [
        0,
        *(int(np.searchsorted(shopper, shopper[cut])) for cut in cuts if cut < len(shopper)),
    ]
    edges.append(len(shopper))
    return [_rows(data, np.arange(start, end)) for start, end in itertools.pairwise(edges)]


def of_shoppers(data: TrainingData, which: npt.NDArray[np.bool_]) -> TrainingData:
    """Only these shoppers' events, one flag a shopper code."""
    return _rows(data, np.flatnonzero(which[data.events.shopper]))


def fit_in_parts(
    strategy: Additive[Any],
    data: TrainingData,
    config: Config,
    seed: int,
    parts: int,
    run: Callable[
        [Callable[[TrainingData], Arrays], Sequence[TrainingData]], Iterable[Arrays]
    ] = map,
) -> Arrays:
    """What `fit` gives, counted in parts.

    Args:
        run: maps a function over the parts: `map`, a pool's or a cluster's.
    """
    counted = run(_Count(strategy, config), by_shopper(data, parts))
    n = len(data.items)
    total = strategy.combine([Counted(counts) for counts in counted], n, config)
    return strategy.finish(total, data.items, data.now, config, seed)


def caught_up(
    strategy: Additive[Any],
    before: Arrays,
    positions: IntArray,
    watermark: int,
    data: TrainingData,
    config: Config,
) -> Arrays:
    """Counts up to a watermark, brought up to `data.now`.

    Only shoppers with an event after the watermark are counted anew: what they had counted before
    is taken away, and all that they did is added. What lies outside of the configuration's window
    by now stays in the counts of the others until all is counted again.

    Args:
        before: what `count` or `combine` gave for all events up to the watermark.
        positions: for each item then, its position in `data.items`; -1: gone.
        data: whole histories of at least those shoppers who did something since.
    """
    events = data.events
    late = events.time > watermark
    active = np.zeros(events.shoppers, np.bool_)
    active[events.shopper[late]] = True
    theirs = of_shoppers(data, active)
    old = _rows(theirs, np.flatnonzero(theirs.events.time <= watermark))
    parts = [
        Counted(before, positions),
        Counted(strategy.count(replace(old, now=watermark), config), sign=-1),
        Counted(strategy.count(theirs, config)),
    ]
    return strategy.combine(parts, len(data.items), config)


@dataclass(frozen=True, slots=True)
class _Count:
    """A function that can be sent to another process."""

    strategy: Additive[Any]
    config: Config

    def __call__(self, data: TrainingData) -> Arrays:
        return self.strategy.count(data, self.config)


def _rows(data: TrainingData, rows: npt.NDArray[np.int64]) -> TrainingData:
    events = data.events
    columns = ("shopper", "item", "type", "time", "quantity", "revenue", "session", "term")
    taken: Events = replace(events, **{name: getattr(events, name)[rows] for name in columns})
    return replace(data, events=taken)
