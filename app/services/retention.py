"""What is kept for a while only, and goes by the clock."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from app.domain.merchant import MerchantId

log = structlog.get_logger(module=__name__)


class ExpiringRows(Protocol):
    async def delete(self, merchant: MerchantId, days: Mapping[str, int]) -> Mapping[str, int]:
        """Delete what is older than its days; how many rows went, by kind."""
        ...


class ModelClearing(Protocol):
    async def clear_away(self, merchant: MerchantId) -> int: ...


class MerchantSource(Protocol):
    async def versions(self) -> Mapping[MerchantId, int]: ...


class EventDays(Protocol):
    """Raises Unavailable, every method."""

    async def before(self, day: dt.date) -> Sequence[dt.date]:
        """UTC days of the event log before one, oldest first."""
        ...

    def rows(
        self, merchant: MerchantId, day: dt.date
    ) -> AsyncGenerator[Sequence[Mapping[str, Any]], None]: ...

    async def drop(self, day: dt.date) -> bool:
        """Drop a day, of all merchants."""
        ...


class EventArchive(Protocol):
    async def store(
        self,
        merchant: MerchantId,
        day: dt.date,
        rows: AsyncIterator[Sequence[Mapping[str, Any]]],
    ) -> int:
        """Keep a day for ever. Raises Unavailable."""
        ...


class EventRetention:
    """Drops whole days of the event log, once they are archived where that is asked for.

    Args:
        days: that are kept.
        archive: None: what is dropped is gone.
        today: the UTC day.
    """

    def __init__(
        self,
        log: EventDays,
        merchants: MerchantSource,
        days: int,
        archive: EventArchive | None = None,
        *,
        today: Callable[[], dt.date] = lambda: dt.datetime.now(dt.UTC).date(),
    ) -> None:
        self._log = log
        self._merchants = merchants
        self._days = days
        self._archive = archive
        self._today = today

    async def run(self) -> None:
        """
        Raises:
            Unavailable: a store is away; the day that it happened at is still there.
        """
        for day in await self._log.before(self._today() - dt.timedelta(days=self._days)):
            archived = 0
            if self._archive is not None:
                for merchant in await self._merchants.versions():
                    # Closed at once where the archive fails: a transaction must not stay open.
                    async with contextlib.aclosing(self._log.rows(merchant, day)) as rows:
                        archived += await self._archive.store(merchant, day, rows)
            await self._log.drop(day)
            log.info("event_day_dropped", day=str(day), archived=archived)


class Retention:
    """
    Args:
        days: by kind, see `app.postgres.retention`: fingerprints of events, the sample of what
            was served, idempotency keys, tasks.
        events: None: the event log is kept for ever.
    """

    def __init__(
        self,
        rows: ExpiringRows,
        models: ModelClearing,
        merchants: MerchantSource,
        days: Mapping[str, int],
        events: EventRetention | None = None,
    ) -> None:
        self._events = events
        self._rows = rows
        self._models = models
        self._merchants = merchants
        self._days = days

    async def run(self) -> None:
        """
        Raises:
            Unavailable: a store is away; the next turn does the rest.
        """
        for merchant in await self._merchants.versions():
            deleted = await self._rows.delete(merchant, self._days)
            artefacts = await self._models.clear_away(merchant)
            log.info("retention", merchant=merchant, artefacts=artefacts, **deleted)
        if self._events is not None:
            await self._events.run()
