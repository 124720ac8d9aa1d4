"""The follower: keeps a process' ItemIndex at the catalogue version that Redis has.

It reads the stream of changes on from where it was; on a gap it asks PostgreSQL what changed since
its own version, and where that is away too, it loads the section anew from Redis. While Redis is
away it follows PostgreSQL. A change is prepared in parts between which requests run, and applied
at once: nobody sees half of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import structlog

from app.domain.catalogue import ItemFeatures, ItemId, Section
from app.domain.errors import Unavailable
from app.domain.item_change import PreparedChange, merged
from app.domain.item_index import ItemIndex, ItemIndexes
from app.domain.merchant import MerchantId
from app.services.catalogue_sync import (
    CHANGES_READ,
    CatalogueSource,
    Change,
    FeatureCache,
    Projected,
)
from app.services.stopping import stop

log = structlog.get_logger(module=__name__)

Place = tuple[MerchantId, Section]

_PART: Final = 64  # items that are prepared before requests run again: a millisecond
_AT_ONCE: Final = 16  # parts of a change that are prepared without pauses
_LONGEST_PAUSE: Final = 0.05  # seconds: most of what took longer was waiting for a store
_MERGED: Final = 16  # parts that become one before requests run again
_LOOKED_AT: Final = 2_000  # rows, likewise
_PATIENCE: Final = 20  # polls to wait for a projection that is half-way, before PostgreSQL is asked


class _Gap(Exception):
    """The stream does not lead from the version that the index has to the one that Redis has."""


@dataclass(slots=True)
class _Followed:
    """What is known of one section."""

    loaded: bool = False  # its index has been filled once
    epoch: str = ""
    mended: int = 0
    entry: str = "0"  # of the stream, the last one taken
    doubted: int = 0  # the version at which the number of items was wrong


@dataclass(slots=True)
class _Collected:
    """A change on its way into an index."""

    index: ItemIndex
    parts: list[PreparedChange] = field(default_factory=list)
    rendered: dict[int, bytes | None] = field(default_factory=dict)  # of all parts
    newest: int = 0  # the highest version among the items
    seen: set[ItemId] | None = None  # all ids, where everything is read
    _paced: bool = field(init=False)
    _resumed: float = field(init=False)  # monotonic

    def __post_init__(self) -> None:
        # Nobody waits for requests before the first load.
        self._paced = self.index.version > 0
        self._resumed = time.monotonic()

    async def add(self, features: Sequence[ItemFeatures], deleted: Sequence[ItemId] = ()) -> None:
        for start in range(0, len(features), _PART):
            part = features[start : start + _PART]
            self._append(self.index.prepare(part))
            self.newest = max(self.newest, max(item.version for item in part))
            if self.seen is not None:
                self.seen.update(item.id for item in part)
            await self._let_requests_run()
        if deleted:
            self._append(self.index.prepare((), deleted))

    async def _let_requests_run(self) -> None:
        """A small change is there at once; a large one takes a third of the process' time."""
        pause = 0.0
        if self._paced and len(self.parts) > _AT_ONCE:
            pause = min(2 * (time.monotonic() - self._resumed), _LONGEST_PAUSE)
        await asyncio.sleep(pause)
        self._resumed = time.monotonic()

    async def add_unseen_as_deleted(self) -> None:
        """What the index has and was not read is not in the catalogue any more."""
        assert self.seen is not None  # noqa: S101
        present = np.flatnonzero(self.index.present[: len(self.index)])
        ids = self.index.ids
        for start in range(0, len(present), _LOOKED_AT):
            some = [ids[row] for row in present[start : start + _LOOKED_AT].tolist()]
            gone = [item_id for item_id in some if item_id not in self.seen]
            if gone:
                self._append(self.index.prepare((), gone))
            await asyncio.sleep(0)

    async def whole(self) -> PreparedChange:
        """All parts as one, so that little is left to do at once."""
        parts = self.parts or [self.index.prepare(())]
        while len(parts) > 1:
            fewer = []
            for start in range(0, len(parts), _MERGED):
                fewer.append(merged(parts[start : start + _MERGED]))
                await asyncio.sleep(0)
            parts = fewer
        [change] = parts
        change.rendered = self.rendered
        for _ in self.index.compare(change):
            await asyncio.sleep(0)
        return change

    def _append(self, part: PreparedChange) -> None:
        self.rendered.update(part.rendered)
        part.rendered = {}
        self.parts.append(part)


class Follower:
    """One a process.

    Args:
        poll_seconds: how often `run` looks: the bound within which a change is seen, projecting
            aside.
        source_seconds: how often PostgreSQL is asked for sections that are new, and for versions
            while Redis is away.
    """

    def __init__(
        self,
        indexes: ItemIndexes,
        cache: FeatureCache,
        source: CatalogueSource,
        *,
        poll_seconds: float = 0.25,
        source_seconds: float = 1.0,
    ) -> None:
        self._indexes = indexes
        self._cache = cache
        self._source = source
        self._poll_seconds = poll_seconds
        self._source_seconds = source_seconds
        self._followed: dict[Place, _Followed] = {}
        self._wanted: dict[Place, int] = {}  # versions in PostgreSQL, when it was asked last
        # Versions that are not served yet, with the time at which each became known, oldest first.
        self._awaited: dict[Place, deque[tuple[int, float]]] = {}
        self._known = False  # it was asked once, and answered
        self._asked = -1e9
        self._asking: asyncio.Task[None] | None = None
        self._busy: dict[Place, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._cache_available = True

    async def run(self) -> None:
        """Follows all sections until it is cancelled. A section that takes long holds up no
        other."""
        try:
            while True:
                try:
                    await self._begin()
                except Exception:
                    log.exception("following_failed")
                self._woken.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), self._poll_seconds)
        finally:
            asking = () if self._asking is None else (self._asking,)
            await stop(*self._busy.values(), *asking)

    async def poll(self) -> None:
        """Brings every index to what Redis has, or while that is away, to what PostgreSQL has.
        While both are away the indexes stay as they are."""
        await self._begin(hear_source=True)
        await asyncio.gather(*self._busy.values())

    def wake(self) -> None:
        """Look now: a hint that there is something new."""
        self._woken.set()

    @property
    def ready(self) -> bool:
        """Whether all sections that there are have been loaded."""
        return self._known and all(self._state(place).loaded for place in self._wanted)

    def waits_for(self) -> Sequence[str]:
        """What readiness names: sections that were never loaded."""
        if not self._known:
            return ["the list of the catalogue's sections"]
        return [
            f"catalogue {merchant}/{section}"
            for merchant, section in self._wanted
            if not self._state((merchant, section)).loaded
        ]

    def lags(self) -> Mapping[Place, float]:
        """For how many seconds each section has known of a version that it does not serve yet."""
        now = time.monotonic()
        found = {}
        for place, awaited in self._awaited.items():
            version = self._indexes.get(*place).version
            while awaited and awaited[0][0] <= version:
                awaited.popleft()
            found[place] = now - awaited[0][1] if awaited else 0.0
        return found

    async def _begin(self, *, hear_source: bool = False) -> None:
        """Finds out what is new, and begins to follow it. It waits for PostgreSQL only where it
        has to: Redis is followed while that is slow."""
        if time.monotonic() - self._asked >= self._source_seconds and (
            self._asking is None or self._asking.done()
        ):
            self._asked = time.monotonic()
            self._asking = asyncio.create_task(self._ask_source())
        if (hear_source or not self._known) and self._asking is not None:
            await self._asking
        places = list(dict.fromkeys([*self._wanted, *self._indexes]))
        try:
            states = await self._cache.states(places)
            self._note_cache(available=True)
        except Unavailable:
            self._note_cache(available=False)
            states = [None] * len(places)
            if self._asking is not None:
                await self._asking
        for place, state in zip(places, states, strict=True):
            if place not in self._busy and self._is_due(place, state):
                task = self._busy[place] = asyncio.create_task(self._follow(place, state))
                task.add_done_callback(partial(self._ended, place))

    def _ended(self, place: Place, _: asyncio.Task[None]) -> None:
        del self._busy[place]

    async def _ask_source(self) -> None:
        try:
            versions = await self._source.versions()
        except Unavailable:
            log.debug("source_away")
        except Exception:
            log.exception("following_failed")
        else:
            self._wanted = {place: version for place, version in versions.items() if version}
            self._note_awaited()
            self._known = True

    def _note_awaited(self) -> None:
        now = time.monotonic()
        for place, version in self._wanted.items():
            awaited = self._awaited.setdefault(place, deque())
            served = self._indexes.get(*place).version
            while awaited and awaited[0][0] <= served:
                awaited.popleft()
            if awaited and awaited[-1][0] > version:
                awaited.clear()  # PostgreSQL was restored to an earlier time
            if version > max(served, awaited[-1][0] if awaited else 0):
                awaited.append((version, now))

    def _is_due(self, place: Place, state: Projected | None) -> bool:
        index, followed = self._indexes.get(*place), self._state(place)
        wanted = self._wanted.get(place, 0)
        if state is None:
            # Redis is away, was emptied, or holds nothing yet: what PostgreSQL has is true.
            return wanted > index.version
        return (
            not followed.loaded
            or (state.epoch, state.mended) != (followed.epoch, followed.mended)
            or state.version > index.version
            or (state.version < index.version and wanted < index.version)
        )

    async def _follow(self, place: Place, state: Projected | None) -> None:
        try:
            await self._bring(place, state)
        except Unavailable:
            log.info("following_put_off", merchant=place[0], section=place[1])
        except Exception:
            log.exception("following_failed", merchant=place[0], section=place[1])

    async def _bring(self, place: Place, state: Projected | None) -> None:
        index, followed = self._indexes.get(*place), self._state(place)
        if state is None:
            await self._from_source(place, index, followed)
            return
        same_epoch = state.epoch == followed.epoch
        if not followed.loaded or (same_epoch and state.mended != followed.mended):
            await self._load(place, index, followed, state)
        elif state.version > index.version:
            try:
                if not same_epoch:
                    raise _Gap
                await self._from_changes(place, index, followed, state)
            except _Gap:
                await self._over_gap(place, index, followed, state)
        elif state.version < index.version and self._wanted.get(place, 0) < index.version:
            # PostgreSQL was restored to an earlier time: begin anew, with its history.
            await self._load(place, index, followed, state)
        if (
            state.version == index.version
            and state.items != index.item_count
            and followed.doubted != index.version
        ):
            log.warning("index_differs", merchant=place[0], section=place[1], items=state.items)
            followed.doubted = index.version
            await self._load(place, index, followed, state)
        followed.epoch, followed.mended = state.epoch, state.mended

    async def _from_changes(
        self, place: Place, index: ItemIndex, followed: _Followed, state: Projected
    ) -> None:
        """Reads on in the stream."""
        collected = _Collected(index)
        reached = await self._catch_up(place, collected, followed, state, index.version)
        await self._apply(place, collected, reached, "changes")

    async def _over_gap(
        self, place: Place, index: ItemIndex, followed: _Followed, state: Projected
    ) -> None:
        """The stream was cut or belongs to another epoch."""
        try:
            await self._from_source(place, index, followed)
        except Unavailable:
            await self._load(place, index, followed, state)
        else:
            followed.entry = await self._cache.last_change(*place)

    async def _load(
        self, place: Place, index: ItemIndex, followed: _Followed, state: Projected
    ) -> None:
        """Reads everything: from Redis, or from PostgreSQL if Redis is not of one piece."""
        collected = _Collected(index, seen=set())
        try:
            followed.entry = await self._cache.last_change(*place)
            async for features in self._cache.scan(*place):
                await collected.add(features)
            reached = await self._catch_up(place, collected, followed, state, state.version)
            await collected.add_unseen_as_deleted()
        except (Unavailable, _Gap):
            followed.loaded = False
            await self._from_source(place, index, followed)
            return
        followed.loaded = True
        await self._apply(place, collected, reached, "cache")

    async def _from_source(self, place: Place, index: ItemIndex, followed: _Followed) -> None:
        """What PostgreSQL has: the changes since the index' version, or everything."""
        async with self._source.snapshot(*place) as snapshot:
            everything = not followed.loaded or index.version > snapshot.version
            collected = _Collected(index, seen=set() if everything else None)
            async for features, deleted in snapshot.changes(0 if everything else index.version):
                await collected.add(features, deleted)
            if everything:
                await collected.add_unseen_as_deleted()
            version = snapshot.version
        followed.loaded = True
        self._wanted[place] = version
        await self._apply(place, collected, version, "source")

    async def _catch_up(
        self,
        place: Place,
        collected: _Collected,
        followed: _Followed,
        state: Projected,
        reached: int,
    ) -> int:
        """Takes changes until what was collected is of one version, and returns that.

        An item that is newer than Redis' version tells of a projection that is under way: of it
        nothing may be shown before all of it is there.

        Raises:
            _Gap: the changes do not lead on, or that projection does not come to its end.
        """
        patience = _PATIENCE
        while patience:
            changes = await self._cache.changes(*place, followed.entry)
            ready = [change for change in changes if change.version <= state.version]
            reached = _lead(ready, reached)
            if ready:
                await self._take(place, collected, _ids(ready))
                followed.entry = ready[-1].entry
            if len(ready) == CHANGES_READ:
                continue  # there may be more of it
            patience -= 1
            if reached >= state.version and collected.newest <= reached:
                return reached
            if collected.newest > state.version:
                await asyncio.sleep(self._poll_seconds)
            found = await self._cache.state(*place)
            if found is None or found.epoch != state.epoch:
                raise _Gap
            if not ready and found.version == state.version and collected.newest <= reached:
                raise _Gap  # the version is there, and nothing leads to it
            state = found
        raise _Gap

    async def _take(self, place: Place, collected: _Collected, ids: Sequence[ItemId]) -> None:
        async for there, gone in self._cache.read(*place, ids):
            await collected.add(there, gone)
            if collected.seen is not None:
                collected.seen.difference_update(gone)

    async def _apply(self, place: Place, collected: _Collected, version: int, source: str) -> None:
        rows = collected.index.apply([await collected.whole()], version)
        log.info(
            "catalogue_followed",
            merchant=place[0],
            section=place[1],
            version=version,
            rows=rows,
            source=source,
        )

    def _state(self, place: Place) -> _Followed:
        followed = self._followed.get(place)
        if followed is None:
            followed = self._followed[place] = _Followed()
        return followed

    def _note_cache(self, *, available: bool) -> None:
        if available != self._cache_available:
            self._cache_available = available
            if available:
                log.info("following_cache")
            else:
                log.warning("following_source", reason="the cache is away")


def _lead(changes: Iterable[Change], reached: int) -> int:
    """The version that the changes lead to from `reached`.

    Raises:
        _Gap: they do not begin there, or do not say what changed.
    """
    for change in changes:
        if change.version > reached:
            if change.base > reached or change.part or change.ids is None:
                raise _Gap
            reached = change.version
    return reached


def _ids(changes: Iterable[Change]) -> list[ItemId]:
    return list(dict.fromkeys(ItemId(i) for change in changes for i in change.ids or ()))
