"""From PostgreSQL to Redis, and from Redis into the process: the two steps that a catalogue takes
after it was written. Both go by versions, so that each may fail, stop or come twice.

- The *projector* brings Redis to PostgreSQL's version. Any process may run it; a lock lets one
  work at a time. It rebuilds a section by itself where Redis has lost it. What no version tells is
  the verifier's (app.services.catalogue_verify).
- The *follower* (app.services.catalogue_follow) brings a process' ItemIndex to Redis' version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog

from app.domain.catalogue import ItemFeatures, ItemId, Section
from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId

log = structlog.get_logger(module=__name__)

MAX_NAMED: Final = 500_000
"""Changed ids that are told. What changes more items is read from PostgreSQL by each process."""

CHANGES_READ: Final = 4
"""Entries of the stream that are read at once: some thousand ids."""

Work = Literal["project", "verify"]
"""What a lock is for."""


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
    """One entry of a section's stream of changes. A step from one version to the next may take
    several."""

    entry: str
    base: int  # the version before
    version: int
    part: int  # of the step, from 0
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

    def read(
        self, merchant: MerchantId, section: Section, ids: Sequence[ItemId]
    ) -> AsyncIterator[tuple[list[ItemFeatures], list[ItemId]]]: ...

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

    async def lock(
        self, merchant: MerchantId, section: Section, to: Work = "project"
    ) -> str | None: ...

    async def renew(
        self, merchant: MerchantId, section: Section, holder: str, to: Work = "project"
    ) -> bool: ...

    async def unlock(
        self, merchant: MerchantId, section: Section, holder: str, to: Work = "project"
    ) -> None: ...

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


class LockLost(Exception):
    """Somebody else projects now: this process was stopped for too long."""


class Projector:
    """Brings Redis to PostgreSQL's version.

    Args:
        poll_seconds: how often `run` looks, at most.
    """

    def __init__(
        self,
        source: CatalogueSource,
        cache: FeatureCache,
        *,
        poll_seconds: float = 1.0,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._source = source
        self._cache = cache
        self._poll_seconds = poll_seconds
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
        """Brings every section up to date.

        Raises:
            Unavailable: PostgreSQL or Redis is away.
        """
        wanted = await self._source.versions()
        states = await self._cache.states(list(wanted))
        for ((merchant, section), version), state in zip(wanted.items(), states, strict=True):
            if version and (state is None or state.version != version):
                await self.project(merchant, section)

    async def project(self, merchant: MerchantId, section: Section) -> bool:
        """Brings one section to PostgreSQL's version; False: another process is at it.

        Raises:
            Unavailable: PostgreSQL or Redis is away.
        """
        return await self._locked(merchant, section, rebuild=False)

    async def rebuild(self, merchant: MerchantId, section: Section) -> bool:
        """Writes a section anew, whatever Redis says it has; False: another process is at it."""
        return await self._locked(merchant, section, rebuild=True)

    async def _locked(self, merchant: MerchantId, section: Section, *, rebuild: bool) -> bool:
        holder = await self._cache.lock(merchant, section)
        if holder is None:
            return False
        try:
            # Until nothing is left: who wrote meanwhile found the lock taken and went on.
            while await self._project(merchant, section, holder, rebuild=rebuild):
                rebuild = False
        except LockLost:
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
                if written <= MAX_NAMED and not anew:
                    changed.extend(item.id for item in features)
                    changed.extend(deleted)
            items = await snapshot.count()
            if anew:
                await remove_unknown(
                    self._cache,
                    merchant,
                    section,
                    snapshot,
                    items,
                    keep=lambda: self._keep(merchant, section, holder),
                )
            await self._keep(merchant, section, holder)
            await self._cache.publish(
                merchant,
                section,
                base=base,
                version=snapshot.version,
                items=items,
                ids=None if anew or written > MAX_NAMED else changed,
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

    async def _keep(self, merchant: MerchantId, section: Section, holder: str) -> None:
        if not await self._cache.renew(merchant, section, holder):
            raise LockLost

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


async def remove_unknown(
    cache: FeatureCache,
    merchant: MerchantId,
    section: Section,
    snapshot: Snapshot,
    items: int,
    *,
    keep: Callable[[], Awaitable[None]],
) -> int:
    """Takes out of Redis what PostgreSQL does not have; looks for it only where the numbers differ.

    Args:
        items: how many PostgreSQL has.
        keep: called before each part, to keep the lock.

    Returns:
        How many were taken out.
    """
    if await cache.count(merchant, section) == items:
        return 0
    removed = 0
    async for ids in cache.ids(merchant, section):
        await keep()
        known = {item.id for item in await snapshot.features(ids)}
        unknown = [item_id for item_id in ids if item_id not in known]
        await cache.write(merchant, section, (), unknown)
        removed += len(unknown)
    return removed
