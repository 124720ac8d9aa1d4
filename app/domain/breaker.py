"""A circuit breaker: what fails again and again is not asked for a while."""

from __future__ import annotations

import enum


class BreakerState(enum.StrEnum):
    CLOSED = "closed"  # asked as usual
    OPEN = "open"  # not asked
    HALF_OPEN = "half_open"  # asked once, to see whether it works again


class Breaker:
    """Opens after `failures` failures in a row, for `seconds`; then lets one attempt through, whose
    outcome closes it or opens it again. Times are those of one monotonic clock, in seconds."""

    __slots__ = ("_failures", "_limit", "_opened", "_probing", "_seconds")

    def __init__(self, failures: int, seconds: float) -> None:
        self._limit = failures
        self._seconds = seconds
        self._failures = 0
        self._opened = 0.0
        self._probing = False

    @property
    def closed(self) -> bool:
        return self._failures < self._limit

    def state(self, now: float) -> BreakerState:
        if self._failures < self._limit:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._waits(now) else BreakerState.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether to ask now. Who was allowed reports `succeeded`, `failed` or `undecided`."""
        if self._failures < self._limit:
            return True
        if self._probing or self._waits(now):
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._probing = False

    def failed(self, now: float) -> None:
        self._failures += 1
        self._probing = False
        if self._failures >= self._limit:
            self._opened = now

    def undecided(self) -> None:
        """The attempt ended without saying anything of what was asked."""
        self._probing = False

    def _waits(self, now: float) -> bool:
        return now - self._opened < self._seconds
