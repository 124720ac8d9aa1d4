"""Beyond capacity: who is let in, by a delay that is measured and not by a number that is guessed.

A process' queue is what waits while its event loop is busy. How long one round of the loop takes,
looked at wherever a timer is late, tells how long that is. Where nearly all of a window's delays
are over the target, a queue stands that does not empty by itself: then, each time the loop comes
round, as many of the storefronts' requests are let in as it answers in a part of the target, by
what those before took it; the others are refused with 503 and Retry-After, at a small part of the
cost of an answer. So there is always work, and never much of it: goodput stays, and those that are
let in are quick. It ends when nobody had to be refused for some seconds. Single delays (a pause of
the collector) and late timers (a neighbour on the machine) refuse nobody.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from typing import Final, Protocol

from app.telemetry.logs import get as get_log

TICK: Final = 0.005  # seconds between two measurements
NOT_LATE: Final = 0.002  # seconds by which a timer may be late without a further look
WINDOW: Final = 2  # measurements at least, and
WINDOW_SECONDS: Final = 1.0  # so long at least, after which it is looked again: a pause is over
SHORT: Final = 0.25  # of the delays, that are below the target where there is no queue
FEWEST: Final = 20  # requests a second, below which it is not they that keep the process busy
ROUND: Final = 0.2  # targets that what is let in may take: who waits does so for one or two rounds
KEPT: Final = 0.8  # of what is known of costs, from a measurement to the next
CALM: Final = 3  # windows in which nobody was refused, after which everybody is let in
TINY: Final = 0.001  # what `share` is at least while there is too much
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
        spent: seconds of processor time that the process has used. By it a request's cost is
            known: of the time that passes, more is spent than in the rounds that are measured, and
            less where neighbours are busy.
        count: how many were refused without being parsed.
    """

    def __init__(
        self,
        target: float = 0.02,
        *,
        key_rate: float = 0.0,
        clock: Callable[[], float],
        spent: Callable[[], float],
        count: Count | None = None,
    ) -> None:
        self.share = 0.0  # of the requests, that is refused; 0: nobody is, and nothing is counted
        self.connections = 0
        self.requests = 0  # of storefronts, that came to be looked at; counted by who asks
        self.key_rate = key_rate
        self._target = target
        self._clock = clock
        self._spent = spent
        self._spent_before = self._spent_at_start = (
            spent()
        )  # at the last measurement; of the window
        self._count = count
        self._measured = 0
        self._short = 0  # of them, delays that were below the target
        self._elapsed = 0.0
        self._most = 0.0  # requests that are let in until the next measurement
        self._let_in = 0  # since the last one
        self._took, self._answered = 0.0, 0.0  # spent at the last measurements, and who was let in
        self._asked = self._refused = 0  # in this window
        self._calm = 0
        self._unparsed = 0
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, when
        self._timer: asyncio.Handle | None = None

    # Measuring

    def start(self) -> None:
        """Measure in the running loop until `stop`."""
        if self._target > 0:
            self._tick(asyncio.get_running_loop(), math.inf)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        late = max(0.0, loop.time() - due)
        if late <= NOT_LATE:
            self._go_to_sleep(loop, late)
        else:
            self._timer = loop.call_soon(self._round, loop, self._clock(), 2)

    def _round(self, loop: asyncio.AbstractEventLoop, began: float, more: int) -> None:
        """A late timer is the system's fault, too: of neighbours that are busy. What the process
        itself has to do is how long one round of its loop takes: reading, and in the turn after
        that, what came of it."""
        if more:
            self._timer = loop.call_soon(self._round, loop, began, more - 1)
        else:
            self._go_to_sleep(loop, self._clock() - began)

    def _go_to_sleep(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        self.waited(delay)
        due = loop.time() + TICK
        self._timer = loop.call_at(due, self._tick, loop, due)

    def waited(self, seconds: float) -> None:
        """One measured delay: what a request waits that comes now."""
        self._measured += 1
        self._short += seconds <= self._target
        self._elapsed += seconds + TICK
        spent = self._spent()
        if self.share:
            self._learn(spent - self._spent_before, self._let_in)
        self._spent_before = spent
        if self._measured < WINDOW or self._elapsed < WINDOW_SECONDS:
            return
        if self.share:
            self._go_on()
        elif self._short < SHORT * self._measured and self.requests >= FEWEST * self._elapsed:
            self.share, self._calm = TINY, 0
            self._took = self._answered = 0.0
            self._learn(spent - self._spent_at_start, self.requests)
            _log.warning("overloaded", delay=self._elapsed / self._measured)
        self._measured, self._elapsed, self._short = 0, 0.0, 0
        self._spent_at_start = spent
        self._asked = self._refused = self.requests = 0
        if self._unparsed and self._count is not None:
            self._count(self._unparsed)
            self._unparsed = 0

    def _learn(self, seconds: float, let_in: int) -> None:
        """What requests take, and so how many are let in next."""
        self._let_in = 0
        self._took = KEPT * self._took + seconds
        self._answered = KEPT * self._answered + let_in
        round_ = max(ROUND * self._target, 1.5 * TICK)  # more than passes until the next look
        if self._took <= round_:  # there is time for all of them
            self._most = math.inf
        else:
            self._most = max(1.0, round_ * self._answered / self._took)

    def _go_on(self) -> None:
        self._calm = 0 if self._refused else self._calm + 1
        if self._calm >= CALM:
            self.share = 0.0
            _log.warning("overload_over")
        elif self._asked:
            self.share = max(TINY, self._refused / self._asked)

    # Deciding

    def refuses(self) -> bool:
        """Whether the next request is refused. Ask only where `share` is not 0."""
        self._asked += 1
        if self._let_in < self._most:
            self._let_in += 1
            return False
        self._refused += 1
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
