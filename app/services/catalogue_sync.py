"""From PostgreSQL to Redis, and from Redis into the process: the two steps that a catalogue takes
after it was written. Both go by versions, so that each may fail, stop or come twice.

- The *projector* brings Redis to PostgreSQL's version. Any process may run it; a lock lets one
  work at a time. It rebuilds a section by itself where Redis has lost it, and compares the two
  every `verify_seconds`, for what no version tells (an evicted key, a write of a process that was
  stopped while it held the lock).
- The *follower* (app.services.catalogue_follow) brings a process' ItemIndex to Redis' version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from app.domain.catalogue import ItemFeatures, ItemId, Section
from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId

log = structlog.get_logger(module=__name__)

_MAX_LISTED: Final = 50_000  # changed ids that are kept to be told


@dataclass(frozen=True, slots=True)
class Projected:
    """What Redis holds of a section, complete up to `version`."""

    version: int
    epoch: str  # another one since Redis was filled anew
    items: int  # in the catalogue at that version
    verified_at: float  # Unix seconds
    mended: int  # how often something in it was not as in PostgreSQL, and was put right


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of a section's stream of changes."""

    entry: str
    base: int  # the version before
    version: int
    ids: Sequence[str] | None  # None: too many to name


class Snapshot(Protocol):
    """A section in PostgreSQL at one moment."""

    version: int

    def changes(self, since: int) -> AsyncIterator[tuple[list[ItemFeatures], list[ItemId]]]:
        """What changed after a version, in parts: features, and ids of deleted items. From 0: all
        items that there are, and no deleted ones."""
        ...

    async def count(self) -> int:
        """Number of items."""
        ...

    def versions(self) -> AsyncIterator[list[tuple[ItemId, int]]]:
        """Every item and the version that brought it, in parts."""
        ...

    async def features(self, ids: Sequence[str]) -> list[ItemFeatures]:
        """Of those of the items that there are."""
        ...


class CatalogueSource(Protocol):
    """PostgreSQL. Raises (every method): Unavailable."""

    async def versions(self) -> Mapping[tuple[MerchantId, Section], int]:
        """The catalogue version of every section of every merchant."""
        ...

    def snapshot(
        self, merchant: MerchantId, section: Section
    ) -> AbstractAsyncContextManager[Snapshot]: ...


class FeatureCache(Protocol):
    """Redis: see app.redis.item_features. Raises (every method): Unavailable."""

    async def states(
        self, sections: Sequence[tuple[MerchantId, Section]]
    ) -> list[Projected | None]: ...

    async def state(self, merchant: MerchantId, section: Section) -> Projected | None: ...

    async def features(
        self, merchant: MerchantId, section: Section, ids: Sequence[str]
    ) -> list[ItemFeatures | None]: ...

    async def versions(
        self, merchant: MerchantId, section: Section, ids: Sequence[str]
    ) -> list[int | None]: ...

    def scan(self, merchant: MerchantId, section: Section) -> AsyncIterator[list[ItemFeatures]]: ...

    def ids(self, merchant: MerchantId, section: Section) -> AsyncIterator[list[ItemId]]: ...

    async def count(self, merchant: MerchantId, section: Section) -> int: ...

    async def write(
        self,
        merchant: MerchantId,
        section: Section,
        features: Sequence[ItemFeatures],
        deleted: Iterable[ItemId] = (),
    ) -> None: ...

    async def publish(
        self,
        merchant: MerchantId,
        section: Section,
        *,
        base: int,
        version: int,
        items: int,
        ids: Sequence[ItemId] | None,
    ) -> None: ...

    async def begin_epoch(self, merchant: MerchantId, section: Section) -> None: ...

    async def changes(self, merchant: MerchantId, section: Section, after: str) -> list[Change]: ...

    async def last_change(self, merchant: MerchantId, section: Section) -> str: ...

    async def lock(self, merchant: MerchantId, section: Section) -> str | None: ...

    async def renew(self, merchant: MerchantId, section: Section, holder: str) -> bool: ...

    async def unlock(self, merchant: MerchantId, section: Section, holder: str) -> None: ...

    async def note_verified(self, merchant: MerchantId, section: Section, at: float) -> None: ...

    async def note_mended(self, merchant: MerchantId, section: Section) -> None: ...


class Observer(Protocol):
    """Counts. `app.telemetry` has no part in what happens here."""

    def projected(self, merchant: str, section: str, version: int, items: int) -> None:
        """So many items were written to bring Redis to this version."""
        ...

    def mended(self, merchant: str, section: str, items: int) -> None:
        """So many items of Redis were not as PostgreSQL has them, and are now."""
        ...


class _Unobserved:
    def projected(self, merchant: str, section: str, version: int, items: int) -> None: ...

    def mended(self, merchant: str, section: str, items: int) -> None: ...


UNOBSERVED: Final[Observer] = _Unobserved()


class _LockLost(Exception):
    """Somebody else projects now: this process was stopped for too long."""


class Projector:
    """Brings Redis to PostgreSQL's version.

    Args:
        poll_seconds: how often `run` looks, at most.
        verify_seconds: how often each section is compared item by item; with this bound, whatever
            happened to Redis, it is true again.
    """

    def __init__(
        self,
        source: CatalogueSource,
        cache: FeatureCache,
        *,
        poll_seconds: float = 1.0,
        verify_seconds: float = 600.0,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._source = source
        self._cache = cache
        self._poll_seconds = poll_seconds
        self._verify_seconds = verify_seconds
        self._observer = observer
        self._available = True

    async def run(self) -> None:
        """Looks after all sections until it is cancelled."""
        while True:
            try:
                await self.round()
                self._note(available=True)
            except Unavailable:
                self._note(available=False)
            except Exception:
                log.exception("projection_failed")
            await asyncio.sleep(self._poll_seconds)

    async def round(self) -> None:
        """Brings every section up to date, and compares those whose time has come.

        Raises:
            Unavailable: PostgreSQL or Redis is away.
        """
        wanted = await self._source.versions()
        states = await self._cache.states(list(wanted))
        for ((merchant, section), version), state in zip(wanted.items(), states, strict=True):
            if version and (state is None or state.version != version):
                await self.project(merchant, section)
            elif state and time.time() - state.verified_at > self._verify_seconds:
                await self.verify(merchant, section)

    async def project(self, merchant: MerchantId, section: Section) -> bool:
        """Brings one section to PostgreSQL's version; False: another process is at it.

        Raises:
            Unavailable: PostgreSQL or Redis is away.
        """
        return await self._locked(merchant, section, rebuild=False)

    async def rebuild(self, merchant: MerchantId, section: Section) -> bool:
        """Writes a section anew, whatever Redis says it has; False: another process is at it."""
        return await self._locked(merchant, section, rebuild=True)

    async def verify(self, merchant: MerchantId, section: Section) -> int | None:
        """Compares a section in Redis with PostgreSQL and mends what differs.

        Returns:
            How many items were mended; None: another process is at it.
        """
        holder = await self._cache.lock(merchant, section)
        if holder is None:
            return None
        try:
            mended = await self._verify(merchant, section, holder)
        except _LockLost:
            return None
        finally:
            await self._leave(merchant, section, holder)
        if mended:
            self._observer.mended(merchant, section, mended)
            log.warning("cache_mended", merchant=merchant, section=section, items=mended)
        return mended

    async def _locked(self, merchant: MerchantId, section: Section, *, rebuild: bool) -> bool:
        holder = await self._cache.lock(merchant, section)
        if holder is None:
            return False
        try:
            # Until nothing is left: who wrote meanwhile found the lock taken and went on.
            while await self._project(merchant, section, holder, rebuild=rebuild):
                rebuild = False
        except _LockLost:
            log.warning("projection_overtaken", merchant=merchant, section=section)
            return False
        finally:
            await self._leave(merchant, section, holder)
        return True

    async def _project(
        self, merchant: MerchantId, section: Section, holder: str, *, rebuild: bool
    ) -> bool:
        """One step to what PostgreSQL has at this moment; False: there was nothing to do."""
        state = await self._cache.state(merchant, section)
        began = time.monotonic()
        async with self._source.snapshot(merchant, section) as snapshot:
            base = state.version if state else 0
            # A higher version in Redis comes from another history: PostgreSQL was restored.
            anew = rebuild or state is None or base > snapshot.version
            if not snapshot.version or (base == snapshot.version and not anew):
                return False
            if anew:
                base = 0
                await self._cache.begin_epoch(merchant, section)
            changed: list[ItemId] = []
            written = 0
            async for features, deleted in snapshot.changes(base):
                await self._keep(merchant, section, holder)
                await self._cache.write(merchant, section, features, deleted)
                written += len(features) + len(deleted)
                if written <= _MAX_LISTED and not anew:
                    changed.extend(item.id for item in features)
                    changed.extend(deleted)
            items = await snapshot.count()
            if anew:
                await self._remove_unknown(merchant, section, holder, snapshot, items)
            await self._keep(merchant, section, holder)
            await self._cache.publish(
                merchant,
                section,
                base=base,
                version=snapshot.version,
                items=items,
                ids=None if anew or written > _MAX_LISTED else changed,
            )
            if anew:
                await self._cache.note_verified(merchant, section, time.time())
        self._observer.projected(merchant, section, snapshot.version, written)
        log.info(
            "catalogue_projected",
            merchant=merchant,
            section=section,
            version=snapshot.version,
            items=written,
            anew=anew,
            seconds=round(time.monotonic() - began, 3),
        )
        return True

    async def _verify(self, merchant: MerchantId, section: Section, holder: str) -> int:
        mended = 0
        async with self._source.snapshot(merchant, section) as snapshot:
            state = await self._cache.state(merchant, section)
            if state is None or state.version != snapshot.version:
                return 0  # a projection is due, and comes first
            wrong: list[ItemId] = []
            async for part in snapshot.versions():
                await self._keep(merchant, section, holder)
                found = await self._cache.versions(merchant, section, [i for i, _ in part])
                wrong.extend(
                    item_id
                    for (item_id, version), there in zip(part, found, strict=True)
                    if there != version
                )
            for start in range(0, len(wrong), 1000):
                await self._keep(merchant, section, holder)
                features = await snapshot.features(wrong[start : start + 1000])
                await self._cache.write(merchant, section, features)
                mended += len(features)
            items = await snapshot.count()
            mended += await self._remove_unknown(merchant, section, holder, snapshot, items)
            if mended:
                # Readers may have taken what was wrong: they load anew.
                await self._cache.note_mended(merchant, section)
            await self._cache.note_verified(merchant, section, time.time())
        return mended

    async def _remove_unknown(
        self,
        merchant: MerchantId,
        section: Section,
        holder: str,
        snapshot: Snapshot,
        items: int,
    ) -> int:
        """Takes out what PostgreSQL does not have; looks for it only where the numbers differ."""
        if await self._cache.count(merchant, section) == items:
            return 0
        removed = 0
        async for ids in self._cache.ids(merchant, section):
            await self._keep(merchant, section, holder)
            known = {item.id for item in await snapshot.features(ids)}
            unknown = [item_id for item_id in ids if item_id not in known]
            await self._cache.write(merchant, section, (), unknown)
            removed += len(unknown)
        return removed

    async def _keep(self, merchant: MerchantId, section: Section, holder: str) -> None:
        if not await self._cache.renew(merchant, section, holder):
            raise _LockLost

    async def _leave(self, merchant: MerchantId, section: Section, holder: str) -> None:
        try:
            await self._cache.unlock(merchant, section, holder)
        except Unavailable:
            log.info("projection_lock_left", merchant=merchant, section=section)

    def _note(self, *, available: bool) -> None:
        if available != self._available:
            self._available = available
            if available:
                log.info("projection_resumed")
            else:
                log.warning("projection_waits", reason="a store is away")
