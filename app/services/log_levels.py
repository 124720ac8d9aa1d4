"""Levels of loggers, changed for a while in every process that runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from app.domain.errors import Unavailable
from app.domain.log_levels import LogLevels
from app.telemetry import logs

SECONDS: Final = 2.0  # between two looks


class Store(Protocol):
    """Raises (every method): Unavailable."""

    async def get(self) -> LogLevels | None: ...


class LogLevelFollower:
    """Follows what operators set. A process that starts later than it was set does not heed it:
    it has what it is configured to have.

    Each change is told in the log, whatever its levels: who, why, until when.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._started = clock()
        self._heeded: LogLevels | None = None

    async def run(self) -> None:
        """Follows until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(SECONDS)

    async def look(self) -> None:
        try:
            found = await self._store.get()
        except Unavailable:
            found = self._heeded  # it ends at its time all the same
        if found is not None and (
            found.set_at < self._started or found.until <= self._clock() or _wrong(found.levels)
        ):
            found = None
        if found == self._heeded:
            return
        self._heeded = found
        logs.set_levels({} if found is None else found.levels)
        if found is None:
            logs.tell("log_levels_as_configured")
        else:
            logs.tell(
                "log_levels_changed",
                levels=dict(found.levels),
                actor=found.actor,
                reason=found.reason,
                until=found.until,
            )


def _wrong(levels: Mapping[str, str]) -> bool:
    return not logs.LEVELS.keys() >= set(levels.values())
