"""Keeps shoppers' histories in Redis true: made again from the event log when Redis was found
empty, was away for a while, or on command."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from app.domain.errors import Unavailable
from app.domain.event import HistoryEntry
from app.domain.merchant import MerchantId
from app.services.stopping import stop

_log = structlog.get_logger(module=__name__)

LOCK_SECONDS: Final = 600
_SHOPPERS_AT_ONCE: Final = 32  # that are merged before requests run again,
_ENTRIES_AT_ONCE: Final = 400  # or so many entries: some 2 ms
_LONGEST_PAUSE: Final = 0.05  # seconds: most of what took longer was waiting for Redis


class RecentEvents(Protocol):
    def histories(
        self, merchant: MerchantId, *, days: int, received_since: float | None = None
    ) -> AsyncGenerator[Mapping[str, Sequence[HistoryEntry]], None]:
        """Pages of what shoppers did, by `Shopper.id`, each newest first and none newer than those
        of a page before. Clients whose user is known are under the user.

        Args:
            days: how many of the newest days on which the merchant has events.
            received_since: Unix seconds; only events that came in since.

        Raises:
            Unavailable: the event log does not answer.
        """
        ...


class HistoryCache(Protocol):
    """Raises Unavailable, every method."""

    async def merge(
        self, merchant: MerchantId, histories: Mapping[str, Sequence[HistoryEntry]]
    ) -> int: ...

    async def forget(self, merchant: MerchantId, shopper_ids: Iterable[str]) -> int: ...

    async def is_built(self, merchant: MerchantId) -> bool: ...

    async def mark_built(self, merchant: MerchantId) -> None: ...

    async def lock(self, merchant: MerchantId, seconds: int) -> bool: ...

    async def unlock(self, merchant: MerchantId) -> None: ...


class Rebuilt(msgspec.Struct, frozen=True):
    shoppers: int
    entries: int  # that were missing
    seconds: float


class HistoryRebuild:
    """Makes a merchant's histories again.

    Args:
        length: entries a shopper.
        days: how far back, in days on which the merchant has events: a shop that was closed for a
            year, and a demo with last decade's purchases, have a history too.
    """

    def __init__(
        self, events: RecentEvents, cache: HistoryCache, *, length: int = 100, days: int = 90
    ) -> None:
        self._events = events
        self._cache = cache
        self._length = length
        self._days = days

    async def run(
        self,
        merchant: MerchantId,
        *,
        received_since: float | None = None,
        replace: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rebuilt:
        """Adds what is missing. Does no harm beside live events, and when it is done twice.

        Args:
            received_since: only events that came in since (Unix seconds).
            replace: forget what Redis holds of each shopper first.
            progress: called with (shoppers, entries) so far.

        Raises:
            Unavailable: a store is away; call it again.
        """
        started = time.perf_counter()
        counts: dict[str, int] = {}
        missing = 0
        pages = self._events.histories(merchant, days=self._days, received_since=received_since)
        async with contextlib.aclosing(pages):  # at once, for it may be within a transaction
            async for page in pages:
                missing += await self._merge(merchant, page, counts, replace=replace)
                if progress is not None:
                    progress(len(counts), missing)
        if received_since is None:
            await self._cache.mark_built(merchant)
        return Rebuilt(len(counts), missing, time.perf_counter() - started)

    async def _merge(
        self,
        merchant: MerchantId,
        page: Mapping[str, Sequence[HistoryEntry]],
        counts: dict[str, int],
        *,
        replace: bool,
    ) -> int:
        """Adds what is missing of a page; `counts` has what each shopper got before. It takes half
        of the process' time: a server's requests run meanwhile."""
        missing = 0
        for part in _parts(page, self._length):
            began = time.monotonic()
            if replace and (new := [shopper for shopper in part if shopper not in counts]):
                await self._cache.forget(merchant, new)
            wanted: dict[str, Sequence[HistoryEntry]] = {}
            for shopper in part:
                had = counts.get(shopper, 0)
                if had < self._length:
                    wanted[shopper] = page[shopper][: self._length - had]
                    counts[shopper] = had + len(wanted[shopper])
            missing += await self._cache.merge(merchant, wanted)
            await asyncio.sleep(min(time.monotonic() - began, _LONGEST_PAUSE))
        return missing


def _parts(page: Mapping[str, Sequence[HistoryEntry]], length: int) -> Iterator[Sequence[str]]:
    """The shoppers of a page, some at a time."""
    part: list[str] = []
    entries = 0
    for shopper, found in page.items():
        part.append(shopper)
        entries += min(len(found), length)
        if len(part) == _SHOPPERS_AT_ONCE or entries >= _ENTRIES_AT_ONCE:
            yield part
            part, entries = [], 0
    if part:
        yield part


class HistoryKeeper:
    """Runs in each server process: finds out that histories are missing, and makes them again.

    Args:
        merchants: all merchants, now.
        interval: seconds between two looks.
    """

    def __init__(
        self,
        rebuild: HistoryRebuild,
        cache: HistoryCache,
        merchants: Callable[[], Iterable[MerchantId]],
        *,
        interval: float = 1.0,
    ) -> None:
        self._rebuild = rebuild
        self._cache = cache
        self._merchants = merchants
        self._interval = interval
        self._gaps: dict[MerchantId, float] = {}
        self._task: asyncio.Task[None] | None = None

    def note_gap(self, merchants: Iterable[MerchantId], received: float) -> None:
        """Events received from then on are kept, but Redis has not heard of them."""
        for merchant in merchants:
            self._gaps[merchant] = min(received, self._gaps.get(merchant, received))

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="keep-history")

    async def close(self) -> None:
        if self._task is not None:
            await stop(self._task)
            self._task = None

    async def check(self) -> None:
        """Makes what is missing now.

        Raises:
            Unavailable: a store is away; what is missing stays noted.
        """
        for merchant in list(self._merchants()):
            if not await self._cache.is_built(merchant):
                await self._make(merchant)
        for merchant, since in list(self._gaps.items()):
            # A second of margin; what is already there is not added again.
            done = await self._rebuild.run(merchant, received_since=since - 1.0)
            if self._gaps.get(merchant) == since:  # else it grew meanwhile
                del self._gaps[merchant]
            _log.info("history_gap_closed", merchant=merchant, entries=done.entries)

    async def _make(self, merchant: MerchantId) -> None:
        if not await self._cache.lock(merchant, LOCK_SECONDS):
            return  # another process does it
        try:
            done = await self._rebuild.run(merchant)
            _log.info(
                "history_rebuilt", merchant=merchant, shoppers=done.shoppers, entries=done.entries
            )
        finally:
            await self._cache.unlock(merchant)

    async def _keep(self) -> None:
        while True:
            try:
                await self.check()
            except Unavailable:
                pass  # said where it was noticed; the next look tries again
            except Exception as error:  # noqa: BLE001  # a defect must not end the keeping
                _log.error("history_check_failed", exc_info=error)
            await asyncio.sleep(self._interval)
