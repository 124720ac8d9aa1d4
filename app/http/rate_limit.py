"""A bound on admin calls a token, and the headers that tell of it.

Counted in each process for itself, so that no call waits for a store: with several workers a token
may call so often in each of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from aiohttp import web

from app.domain.errors import TooMany
from app.http.caller import caller
from app.http.middleware import TOLD
from app.http.operation import Handler, Operation

MAX_TOKENS: Final = 10_000
"""Tokens that are remembered; beyond, all start anew."""


class RateLimit:
    """A bucket a token: `limit` calls at once, filled again within `seconds`.

    Args:
        clock: seconds that only grow.
    """

    def __init__(
        self,
        limit: int = 600,
        seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, when

    def limited(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """The operations, each within the bound. All must ask for a token."""
        return tuple(
            replace(operation, handler=self._wrap(operation.handler)) for operation in operations
        )

    def _wrap(self, handler: Handler) -> Handler:
        async def limited(request: web.Request) -> web.StreamResponse:
            left, reset = self._take(caller(request).token_id)
            request[TOLD] = {
                "RateLimit-Limit": str(self._limit),
                "RateLimit-Remaining": str(max(left, 0)),
                "RateLimit-Reset": str(math.ceil(reset)),
            }
            if left < 0:
                raise TooMany(
                    f"this token may make {self._limit} calls in {self._seconds:g} seconds",
                    max(1, math.ceil(reset)),
                )
            return await handler(request)

        return limited

    def _take(self, token_id: str) -> tuple[int, float]:
        """Calls that are left, -1: not even this one; seconds until all are there again, or, at -1,
        until one is."""
        now = self._clock()
        if len(self._buckets) >= MAX_TOKENS and token_id not in self._buckets:
            self._buckets.clear()
        level, at = self._buckets.get(token_id, (float(self._limit), now))
        rate = self._limit / self._seconds
        level = min(self._limit, level + (now - at) * rate)
        if level < 1:
            self._buckets[token_id] = (level, now)
            return -1, (1 - level) / rate
        self._buckets[token_id] = (level - 1, now)
        return int(level - 1), (self._limit - level + 1) / rate
