"""Beyond capacity: who is let in, by a delay that is measured and not by a number that is guessed.

A process' queue is what waits while its event loop is busy. How late a timer fires tells how long
that is. Where even the shortest of a window's delays is over the target, a queue stands that does
not empty by itself: then a growing share of the storefronts' requests is refused with 503 and
Retry-After, at a small part of the cost of an answer, so that those that are let in are quick.
Single delays (a pause of the collector, a neighbour on the machine) refuse nobody.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from typing import Final, Protocol

from app.telemetry.logs import get as get_log

TICK: Final = 0.005  # seconds between two measurements
WINDOW: Final = 2  # measurements at least, and
WINDOW_SECONDS: Final = 0.05  # so long at least, after which the share is set anew
FIRST_SECONDS: Final = 1.0  # the same, where nobody is refused yet: a pause is caught up with
FEWEST: Final = 20  # requests a second, below which it is not they that keep the process busy
LEAST: Final = 0.02  # of the requests, that is always let in: it shows when it is over
LONGEST: Final = 10  # targets that one round of the loop may take; who comes later in it is refused
MORE: Final = 0.015  # that is let in again a window whose shortest delay was none at all
HOLD: Final = 0.0002
"""Seconds, a connection of this process, for which one that was refused is not read from. So
however many there are and however soon they come back, refusing takes a small share of the time."""
LONGEST_HOLD: Final = 1.0
MAX_KEYS: Final = 10_000
RETRY_SECONDS: Final = 1

_BODY: Final = (
    b'{"type":"about:blank","title":"Unavailable","status":503,'
    b'"detail":"the server is busy: try again","message":"the server is busy: try again"}'
)
REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    b"Retry-After: %d\r\nAccess-Control-Allow-Origin: *\r\nCache-Control: no-store\r\n"
    b"Server: vitrine\r\nContent-Length: %d\r\n\r\n%b" % (RETRY_SECONDS, len(_BODY), _BODY)
)
"""A whole answer, for requests that are refused before they are parsed."""

_key_of = re.compile(r"[?&]key=([^&#]*)").search
_log = get_log(__name__)


class Count(Protocol):
    def __call__(self, amount: float = 1) -> object: ...


class Admission:
    """
    Args:
        target: seconds that requests may wait for the process; 0: as long as they do.
        key_rate: storefront requests a second and key, in this process; 0: any number. A second's
            worth may come at once.
        clock: seconds that only grow.
        count: how many were refused without being parsed.
    """

    def __init__(
        self,
        target: float = 0.02,
        *,
        key_rate: float = 0.0,
        clock: Callable[[], float],
        count: Count | None = None,
    ) -> None:
        self.share = 0.0  # of the requests, that is refused
        self.connections = 0
        self.requests = 0  # of storefronts, that came to be looked at; counted by who asks
        self.key_rate = key_rate
        self._target = target
        self._clock = clock
        self._count = count
        self._shortest = math.inf
        self._measured = 0
        self._measured_at = 0.0
        self._elapsed = 0.0
        self._debt = 0.0
        self._unparsed = 0
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, when
        self._timer: asyncio.TimerHandle | None = None

    # Measuring

    def start(self) -> None:
        """Measure in the running loop until `stop`."""
        if self._target > 0:
            self._tick(asyncio.get_running_loop(), math.inf)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self.waited(max(0.0, now - due))
        self._timer = loop.call_at(now + TICK, self._tick, loop, now + TICK)

    def waited(self, seconds: float) -> None:
        """One measured delay."""
        self._measured_at = self._clock()
        self._shortest = min(self._shortest, seconds)
        self._measured += 1
        self._elapsed += seconds + TICK
        enough = WINDOW_SECONDS if self.share else FIRST_SECONDS
        if self._measured < WINDOW or self._elapsed < enough:
            return
        before, ratio = self.share, self._shortest / self._target
        if ratio > 1 and (before or self.requests >= FEWEST * self._elapsed):
            self.share = 1 - max(LEAST, (1 - before) * max(0.3, ratio**-0.7))
        elif before:
            self.share = max(0.0, before - MORE * (1 - ratio))
        if (self.share > 0) != (before > 0):
            _log.warning("overloaded" if self.share else "overload_over", delay=self._shortest)
        self._measured, self._elapsed, self._shortest = 0, 0.0, math.inf
        self.requests = 0
        if self._unparsed and self._count is not None:
            self._count(self._unparsed)
            self._unparsed = 0

    # Deciding

    def refuses(self) -> bool:
        """Whether the next request is refused. Ask only where `share` is not 0."""
        if 0 < LONGEST * self._target < self._clock() - self._measured_at:
            return True
        self._debt += self.share
        if self._debt < 1:
            return False
        self._debt -= 1
        return True

    def refused_unparsed(self) -> float:
        """Counts a refusal; seconds for which its connection is not read from."""
        self._unparsed += 1
        return min(LONGEST_HOLD, HOLD * self.connections)

    def key_waits(self, path: str) -> float:
        """Seconds until the key of `path` may call again; 0: it may now. Ask only where `key_rate`
        is not 0."""
        found = _key_of(path)
        if found is None:
            return 0.0
        key, now = found[1], self._clock()
        most = max(1.0, self.key_rate)
        if len(self._buckets) >= MAX_KEYS and key not in self._buckets:
            self._buckets.clear()
        level, at = self._buckets.get(key, (most, now))
        level = min(most, level + (now - at) * self.key_rate)
        if level < 1:
            self._buckets[key] = (level, now)
            return (1 - level) / self.key_rate
        self._buckets[key] = (level - 1, now)
        return 0.0

    def overloaded(self) -> str | None:
        """For readiness: what is wrong, in words."""
        if not self.share:
            return None
        return f"more requests come than can be answered: {self.share:.0%} are refused"
