"""Makes events durable, then known: commits in groups, spools while PostgreSQL is away.

An event that is answered as accepted is committed in PostgreSQL, or fsynced in the spool. Groups
form by themselves: while one is being committed, the next gathers.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from app.domain.errors import Unavailable, VitrineError
from app.domain.event import Event
from app.domain.merchant import Merchant, MerchantId
from app.services.stopping import stop

_log = structlog.get_logger(module=__name__)

HISTORY_SECONDS: Final = 0.25  # how long an answer waits for the shopper's history to be written
GIVE_UP_SECONDS: Final = 5.0  # after which it is held not to be
REPLAY_PAUSE: Final = 0.5  # seconds between tries to empty the spool
HANDOVER_BYTES: Final = 256 * 1024  # of a spool that is emptied while new events are held back
LOOK_SECONDS: Final = 10.0  # how often the spool is looked into without a reason


class Outcome(enum.StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # it was accepted before
    REJECTED = "rejected"


class Receipt(msgspec.Struct, frozen=True):
    outcome: Outcome
    reason: str | None = None  # why it was rejected, for its sender


ACCEPTED: Final = Receipt(Outcome.ACCEPTED)
DUPLICATE: Final = Receipt(Outcome.DUPLICATE)


class Identity(NamedTuple):
    """The first user that was seen on a client: its anonymous history is theirs."""

    merchant: MerchantId
    client_id: str
    user_id: str


class Appended(NamedTuple):
    receipts: Sequence[Receipt]  # one an event, in order
    identities: Sequence[Identity]  # those that became known with these events


class Directory(Protocol):
    def merchant_of_key(self, key: str) -> Merchant:
        """The merchant of a storefront key.

        Raises:
            Unauthenticated: there is no such key, or it was revoked.
        """
        ...

    def merchant(self, merchant: MerchantId) -> Merchant:
        """Raises NotFound."""
        ...


class EventLog(Protocol):
    async def append(self, events: Sequence[Event]) -> Appended:
        """Commits the events, each once, in one transaction. One that cannot be kept is set aside
        with its reason and answered as rejected; the others are kept.

        Raises:
            Unavailable: nothing was kept, or it is not known whether it was.
        """
        ...

    async def erased(self, events: Sequence[Event]) -> frozenset[int]:
        """Positions of the events whose shopper was forgotten after they were received."""
        ...


class History(Protocol):
    async def add(self, events: Sequence[Event]) -> None:
        """Puts the events' items into their shoppers' recent history. Raises Unavailable."""
        ...

    async def join(self, identities: Sequence[Identity]) -> None:
        """Moves clients' anonymous histories to their users. Raises Unavailable."""
        ...


class Spool(Protocol):
    """Events on a disk, in order. Its methods block; they are called in threads."""

    def append(self, events: Sequence[Event]) -> None:
        """Returns when they are on the disk. Raises Unavailable: full, or the disk failed."""
        ...

    def read(self) -> Sequence[Event]:
        """The oldest events not yet `taken`; none: it is empty."""
        ...

    def taken(self) -> None:
        """What `read` returned last is in the event log now."""
        ...

    @property
    def bytes(self) -> int: ...


class Observer(Protocol):
    """Counts: see `services.tracking_metrics`."""

    def committed(self, events: int, seconds: float) -> None: ...

    def received(self, event: Event, outcome: str) -> None: ...


class _Waiting(NamedTuple):
    events: Sequence[Event]
    done: asyncio.Future[Sequence[Receipt]]


class Tracker:
    """One a process. `start` before the first `track`, `close` after the last.

    Args:
        max_batch: events of one commit at most (one call's events are never divided).
        max_pending: events that may wait; more are refused with Unavailable.
        committers: commits at the same time.
        on_history_gap: told when events were kept but could not be put into Redis.
    """

    def __init__(
        self,
        log: EventLog,
        history: History,
        spool: Spool | None = None,
        *,
        observer: Observer | None = None,
        on_history_gap: Callable[[Iterable[MerchantId], float], None] | None = None,
        max_batch: int = 1000,
        max_pending: int = 20_000,
        committers: int = 2,
    ) -> None:
        self._event_log = log
        self._history = history
        self._spool = spool
        self._observer = observer
        self._on_history_gap = on_history_gap
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._committers = committers
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._acknowledging: set[asyncio.Task[None]] = set()
        self._closing = False
        # While events wait in the spool, new ones go behind them: the log gets them in order.
        self._spooling = False
        self._spool_writing = 0  # appends to the spool that are under way
        self._spool_writes = 0  # appends that began
        self._replay = asyncio.Event()
        self._replayed = 0  # events, since the spool was last empty
        # Closed while the last of the spool goes to the log: under load, events would for ever go
        # behind the last that wait.
        self._gate = asyncio.Event()
        self._gate.set()
        self._history_warned = False

    @property
    def spooling(self) -> bool:
        """Whether events go to the spool now: the event log is away, or is catching up."""
        return self._spooling

    @property
    def queued(self) -> int:
        """Events that wait for a commit."""
        return self._queued

    async def start(self) -> None:
        for number in range(self._committers):
            self._tasks.append(asyncio.create_task(self._commit_groups(), name=f"commit-{number}"))
        if self._spool is not None:
            self._spooling = self._spool.bytes > 0
            if self._spooling:
                self._replay.set()
            self._tasks.append(
                asyncio.create_task(self._replay_spool(self._spool), name="replay-spool")
            )

    async def close(self) -> None:
        """Commits what waits, and stops. What is in the spool stays there for the next process."""
        self._closing = True
        self._wake.set()
        committers, others = self._tasks[: self._committers], self._tasks[self._committers :]
        await asyncio.gather(*committers)
        await stop(*others)
        while self._acknowledging:  # those that acknowledge write histories
            await asyncio.wait(self._acknowledging)
        self._tasks.clear()

    async def track(self, events: Sequence[Event]) -> Sequence[Receipt]:
        """A receipt an event, in order, once all that are accepted are durable.

        Raises:
            Unavailable: too many wait already, or they can be kept nowhere. Send them again.
        """
        if not events:
            return ()
        if self._closing:
            raise Unavailable("the server stops: send the event again")
        if self._queued + len(events) > self._max_pending and self._queued:
            raise Unavailable("too many events wait to be stored: send the event again")
        waiting = _Waiting(events, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queued += len(events)
        self._wake.set()
        return await waiting.done

    # Commit

    async def _commit_groups(self) -> None:
        while True:
            group = self._next_group()
            if not group:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._commit(group)

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._queue and (not group or size + len(self._queue[0].events) <= self._max_batch):
            waiting = self._queue.popleft()
            group.append(waiting)
            size += len(waiting.events)
        self._queued -= size
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        events = [event for waiting in group for event in waiting.events]
        started = time.perf_counter()
        try:
            appended = await self._keep(events)
        except VitrineError as error:
            _fail(group, error)
            return
        except Exception as error:  # noqa: BLE001  # a defect: those who wait must hear of it
            _log.error("event_commit_failed", events=len(events), exc_info=error)
            _fail(group, error)
            return
        if self._observer is not None:
            self._observer.committed(len(events), time.perf_counter() - started)
        # The next group need not wait until Redis knows of this one.
        task = asyncio.create_task(self._acknowledge(group, events, appended))
        self._acknowledging.add(task)
        task.add_done_callback(self._acknowledging.discard)

    async def _keep(self, events: Sequence[Event]) -> Appended:
        await self._gate.wait()
        if not self._spooling:
            try:
                return await self._event_log.append(events)
            except Unavailable:
                if self._spool is None:
                    raise
                _log.warning("events_spooled", reason="the event log is away")
                self._spooling = True
                self._replay.set()
        return await self._to_spool(events)

    async def _to_spool(self, events: Sequence[Event]) -> Appended:
        if self._spool is None:
            raise Unavailable("events cannot be stored now: send the event again")
        self._spool_writes += 1
        self._spool_writing += 1
        try:
            await asyncio.to_thread(self._spool.append, events)
        finally:
            self._spool_writing -= 1
        return Appended([ACCEPTED] * len(events), ())

    async def _acknowledge(
        self, group: list[_Waiting], events: Sequence[Event], appended: Appended
    ) -> None:
        receipts = appended.receipts
        await self._remember(
            [e for e, r in zip(events, receipts, strict=True) if r.outcome is Outcome.ACCEPTED],
            appended.identities,
        )
        start = 0
        for waiting in group:
            end = start + len(waiting.events)
            if not waiting.done.done():  # its client may be gone
                waiting.done.set_result(receipts[start:end])
            start = end
        if self._observer is not None:
            for event, receipt in zip(events, receipts, strict=True):
                outcome = receipt.outcome.value
                apart = outcome == "accepted" and not event.learn
                self._observer.received(event, "apart" if apart else outcome)

    async def _remember(self, events: Sequence[Event], identities: Sequence[Identity]) -> None:
        """Redis may be away: events are kept all the same, and their shoppers' histories are made
        again from the event log when it is back. Where it is slow, who waits is answered before."""
        writing = asyncio.create_task(self._write_history(events, identities))
        self._acknowledging.add(writing)
        writing.add_done_callback(self._acknowledging.discard)
        await asyncio.wait((writing,), timeout=HISTORY_SECONDS)

    async def _write_history(self, events: Sequence[Event], identities: Sequence[Identity]) -> None:
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await self._history.add(events)
                if identities:  # after it: what a client did just before is its user's too
                    await self._history.join(identities)
            self._history_warned = False
        except (Unavailable, TimeoutError):
            if not self._history_warned:
                _log.warning("history_not_written", events=len(events))
                self._history_warned = True
            self._note_gap(events)
        except Exception as error:  # noqa: BLE001  # a defect: who waits must hear of it
            _log.error("history_failed", events=len(events), exc_info=error)
            self._note_gap(events)

    def _note_gap(self, events: Sequence[Event]) -> None:
        if self._on_history_gap is not None and events:
            oldest = min(event.received for event in events)
            self._on_history_gap({event.merchant for event in events}, oldest)

    # Spool

    async def _replay_spool(self, spool: Spool) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                # Also looks unasked: another process may have died and left its events.
                await asyncio.wait_for(self._replay.wait(), LOOK_SECONDS)
            try:
                await self._replay_some(spool)
            except Unavailable:
                self._gate.set()
                await asyncio.sleep(REPLAY_PAUSE)
            except Exception as error:  # noqa: BLE001  # must go on: acknowledged events wait
                self._gate.set()
                _log.error("spool_replay_failed", exc_info=error)
                await asyncio.sleep(REPLAY_PAUSE)

    async def _replay_some(self, spool: Spool) -> None:
        writes = self._spool_writes
        events = await asyncio.to_thread(spool.read)
        if events:
            await self._replay_group(spool, events)
            if self._spooling and spool.bytes <= HANDOVER_BYTES:
                self._gate.clear()
        elif not self._spool_writing and writes == self._spool_writes:
            # Nothing went to the spool since it was found empty.
            self._replay.clear()
            self._spooling = False
            self._gate.set()
            if self._replayed:
                _log.info("spool_emptied", events=self._replayed)
                self._replayed = 0

    async def _replay_group(self, spool: Spool, events: Sequence[Event]) -> None:
        erased = await self._event_log.erased(events)
        kept = [event for index, event in enumerate(events) if index not in erased]
        if kept:
            appended = await self._event_log.append(kept)
            await self._remember((), appended.identities)  # the events are in Redis already
            rejected = sum(r.outcome is Outcome.REJECTED for r in appended.receipts)
            if rejected:
                _log.error("spooled_events_rejected", events=rejected)
        if erased:
            _log.info("spooled_events_erased", events=len(erased))
        await asyncio.to_thread(spool.taken)
        self._replayed += len(events)


def _fail(group: Iterable[_Waiting], error: BaseException) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(error)
