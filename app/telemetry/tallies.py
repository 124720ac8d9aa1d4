"""Plain numbers in a request's way, brought to Prometheus' values now and then.

A value that several processes share takes a lock and writes to a mapped file: 1.5 µs each, five of
them a request. A tally only grows, by one thread; `fold` adds what is new since it was last called,
so that nothing is counted twice or lost. Who is killed takes the counts since then along.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from prometheus_client import Metric
from prometheus_client.registry import Collector

FOLD_SECONDS: Final = 0.1


class Folded(Protocol):
    def fold(self) -> None:
        """Bring what is new to where it is read. Of two at once, one waits: see `Tallies`."""
        ...


class Tally:
    """One counter with its labels bound. Counted up by one thread."""

    __slots__ = ("_add", "_folded", "count")

    def __init__(self, add: Callable[[float], object]) -> None:
        self.count: float = 0
        self._folded: float = 0
        self._add = add

    def inc(self, amount: float = 1) -> None:
        self.count += amount

    def fold(self) -> None:
        count = self.count
        if count != self._folded:
            self._add(count - self._folded)
            self._folded = count


class Timings:
    """One histogram with its labels bound. Observed by one thread.

    Args:
        child: of prometheus_client's; its buckets are added to as its own `observe` does.
        bounds: of the histogram, ascending, without infinity.
    """

    __slots__ = ("_bounds", "_child", "_counts", "_folded", "_folded_total", "_new", "_total")

    def __init__(self, child: Any, bounds: Sequence[float]) -> None:
        self._child = child
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._folded = [0] * (len(bounds) + 1)
        self._total = self._folded_total = 0.0
        self._new = False  # something was observed

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds
        self._new = True

    def fold(self) -> None:
        if not self._new:
            return
        self._new = False  # first: what is observed meanwhile is folded next time
        counts, total = self._counts.copy(), self._total
        for bucket, count, before in zip(self._child._buckets, counts, self._folded, strict=True):  # noqa: SLF001  # there is no other way to add many
            if count != before:
                bucket.inc(count - before)
        self._child._sum.inc(total - self._folded_total)  # noqa: SLF001
        self._folded, self._folded_total = counts, total


class Tallies(Collector):
    """All of a process. A registry that has this as its first collector shows them as they are."""

    def __init__(self) -> None:
        self._all: list[Folded] = []
        self._folding = threading.Lock()

    def add(self, one: Folded) -> None:
        self._all.append(one)

    def fold(self) -> None:
        """May be called by any thread."""
        with self._folding:
            for one in tuple(self._all):
                one.fold()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        self.fold()
        return ()
