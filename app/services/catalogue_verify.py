"""What no version tells of a catalogue in Redis: an evicted key, a write of a process that was
stopped while it held the lock. Now and then every item is compared with PostgreSQL, a part at a
time and beside everything else; only what differs is mended under the lock of the projector.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from app.domain.catalogue import ItemFeatures, ItemId, Section
from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId
from app.services.catalogue_sync import (
    UNOBSERVED,
    CatalogueSource,
    FeatureCache,
    LockLost,
    Observer,
    Snapshot,
    remove_unknown,
)

log = structlog.get_logger(module=__name__)

_PART: Final = 500  # items that are compared or mended before others have their turn


class Verifier:
    """
    Args:
        every_seconds: how often each section is compared; with this bound, whatever happened to
            Redis, it is true again.
        poll_seconds: how often `run` looks whether a section's time has come.
        share: of its time that `run` spends comparing once it is at it; the rest is requests'.
    """

    def __init__(
        self,
        source: CatalogueSource,
        cache: FeatureCache,
        *,
        every_seconds: float = 600.0,
        poll_seconds: float = 5.0,
        share: float = 0.1,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._source = source
        self._cache = cache
        self._every_seconds = every_seconds
        self._poll_seconds = poll_seconds
        self._share = share
        self._observer = observer

    async def run(self) -> None:
        """Looks after all sections until it is cancelled."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.round(share=self._share)
            except Unavailable:
                continue  # the projector tells of it
            except Exception:
                log.exception("verification_failed")

    async def round(self, *, share: float = 1.0) -> None:
        """Compares the sections whose time has come.

        Raises:
            Unavailable: PostgreSQL or Redis is away.
        """
        wanted = await self._source.versions()
        states = await self._cache.states(list(wanted))
        for ((merchant, section), version), state in zip(wanted.items(), states, strict=True):
            if (
                state is not None
                and state.version == version
                and time.time() - state.verified_at > self._every_seconds
            ):
                await self.verify(merchant, section, share=share)

    async def verify(
        self, merchant: MerchantId, section: Section, *, share: float = 1.0
    ) -> int | None:
        """Compares a section in Redis with PostgreSQL and mends what differs.

        Args:
            share: of its time that is spent at it.

        Returns:
            How many items were mended; None: another process is at it.

        Raises:
            Unavailable: PostgreSQL or Redis is away.
        """
        holder = await self._cache.lock(merchant, section, "verify")
        if holder is None:
            return None
        try:
            differing = await self._compare(merchant, section, holder, share)
            mended = 0 if differing is None else await self._mend(merchant, section, differing)
        except LockLost:
            return None
        finally:
            await self._leave(merchant, section, holder)
        if mended:
            self._observer.mended(merchant, section, mended)
            log.warning("cache_mended", merchant=merchant, section=section, items=mended)
        return mended

    async def _compare(
        self, merchant: MerchantId, section: Section, holder: str, share: float
    ) -> list[ItemId] | None:
        """Items that seem to differ: of some the projector was ahead. None: a projection is due,
        and comes first."""
        differing: list[ItemId] = []
        async with self._source.snapshot(merchant, section) as snapshot:
            state = await self._cache.state(merchant, section)
            if state is None or state.version != snapshot.version:
                return None
            began = time.monotonic()
            async for part in snapshot.versions():
                for start in range(0, len(part), _PART):
                    some = part[start : start + _PART]
                    if not await self._cache.renew(merchant, section, holder, "verify"):
                        raise LockLost
                    found = await self._cache.versions(merchant, section, [i for i, _ in some])
                    differing.extend(
                        item_id
                        for (item_id, version), there in zip(some, found, strict=True)
                        if there != version
                    )
                    await asyncio.sleep((time.monotonic() - began) * (1 / share - 1))
                    began = time.monotonic()
        return differing

    async def _mend(
        self, merchant: MerchantId, section: Section, differing: list[ItemId]
    ) -> int | None:
        holder = await self._cache.lock(merchant, section)
        if holder is None:
            return None

        async def keep() -> None:
            if not await self._cache.renew(merchant, section, holder):
                raise LockLost

        try:
            async with self._source.snapshot(merchant, section) as snapshot:
                state = await self._cache.state(merchant, section)
                if state is None or state.version != snapshot.version:
                    return 0  # what differs will be projected, or be seen the next time
                mended = 0
                for start in range(0, len(differing), _PART):
                    await keep()
                    some = await self._stale(
                        merchant, section, snapshot, differing[start : start + _PART]
                    )
                    await self._cache.write(merchant, section, some)
                    mended += len(some)
                mended += await remove_unknown(
                    self._cache, merchant, section, snapshot, await snapshot.count(), keep=keep
                )
                if mended:
                    # Readers may have taken what was wrong: they load anew.
                    await self._cache.note_mended(merchant, section)
                await self._cache.note_verified(merchant, section, time.time())
                return mended
        finally:
            await self._leave(merchant, section, holder, mending=True)

    async def _stale(
        self, merchant: MerchantId, section: Section, snapshot: Snapshot, ids: list[ItemId]
    ) -> list[ItemFeatures]:
        """Those of the items, as PostgreSQL has them, that Redis has otherwise."""
        features = await snapshot.features(ids)
        found = await self._cache.versions(merchant, section, [item.id for item in features])
        return [item for item, there in zip(features, found, strict=True) if there != item.version]

    async def _leave(
        self, merchant: MerchantId, section: Section, holder: str, *, mending: bool = False
    ) -> None:
        try:
            await self._cache.unlock(merchant, section, holder, "project" if mending else "verify")
        except Unavailable:  # it ends by itself
            log.info("verification_lock_left", merchant=merchant, section=section)
