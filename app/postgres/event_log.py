"""The event log: events committed in groups, each once.

A group is one transaction, whatever merchants its events belong to; row-level security is satisfied
by naming each merchant before its rows. Claims and rows go in by one statement a merchant, as
arrays.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec
import sqlalchemy as sa
import structlog

from app.domain.errors import Unavailable
from app.domain.event import Event, Line, Shopper
from app.domain.merchant import MerchantId
from app.postgres import event_log_sql as sql
from app.postgres.database import Database, raw
from app.services.track import ACCEPTED, DUPLICATE, Appended, Identity, Outcome, Receipt
from vitrine_sdk import EventType

_log = structlog.get_logger(module=__name__)

MAX_KNOWN: Final = 200_000  # clients whose user is known to be stored already
STATEMENT_SECONDS: Final = 5.0
LEAN_ROWS: Final = 200  # from here on, columns that hold nothing are left out
# SQLSTATE classes that are the fault of a value: 22 data, 23 integrity, 54 too large for an index.
_POISON: Final = frozenset({"22", "23", "54"})
_NO_PARTITION: Final = "23514"

_encode = msgspec.json.Encoder().encode


class _Recommendation(NamedTuple):
    """What a click came from."""

    result_id: str | None
    pod_id: str | None
    strategy: str | None


class EventLog:
    """Implements `services.track.EventLog`.

    Args:
        attribution_days: how long after a click on a recommendation a purchase of the item is
            ascribed to it. The click is looked up in the log itself, in the purchase's own
            transaction, by an index of clicks on recommendations alone: exact when Redis is empty
            and for shoppers whose history is longer than Redis keeps.
    """

    def __init__(self, database: Database, *, attribution_days: float = 7.0) -> None:
        self._database = database
        self._window = attribution_days * 86400.0
        self._days: set[dt.date] = set()  # those that have a partition
        self._known: dict[tuple[MerchantId, str], None] = {}

    async def append(self, events: Sequence[Event]) -> Appended:
        """See `services.track.EventLog`."""
        try:
            # The statements' own limit does not help where the network is silent.
            async with asyncio.timeout(STATEMENT_SECONDS + 1.0):
                await self.ensure_days(event.time for event in events)
                return await self._transaction(events)
        except Exception as error:
            code = _sqlstate(error)
            if code == _NO_PARTITION and self._days:
                self._days.clear()  # a partition is gone: retention took it
                return await self.append(events)
            if not _is_poison(error, code):
                raise _not_kept(error, code) from error
            if len(events) == 1:
                await self._set_aside(events[0], error)
                reason = "the event holds a value that cannot be stored"
                return Appended([Receipt(Outcome.REJECTED, reason)], ())
        # One of several is bad: halve until it is alone. The others are committed all the same.
        middle = len(events) // 2
        first = await self.append(events[:middle])
        second = await self.append(events[middle:])
        return Appended(
            (*first.receipts, *second.receipts), (*first.identities, *second.identities)
        )

    async def ensure_days(self, times: Iterable[float]) -> None:
        """Makes the partitions of the UTC days of `times`, where this process knows of none."""
        missing = {_EPOCH + dt.timedelta(days=day) for day in {int(t // 86400) for t in times}}
        missing -= self._days
        for days in _chunks(sorted(missing), 100):  # each new partition takes locks
            async with self._database.system() as connection:
                await (await raw(connection)).execute(
                    "SELECT ensure_event_partitions($1::date[])", days
                )
            self._days.update(days)

    async def erased(self, events: Sequence[Event]) -> frozenset[int]:
        """See `services.track.EventLog`."""
        found: set[int] = set()
        for merchant, indices in _by_merchant(events).items():
            ids: dict[int, tuple[bytes, ...]] = {
                i: tuple(erasure_key(name) for name in erasure_names(events[i].shopper))
                for i in indices
            }
            async with self._database.merchant(merchant) as connection:
                rows = await (await raw(connection)).fetch(
                    sql.ERASED, list({key for keys in ids.values() for key in keys})
                )
            erased = {row["shopper"]: row["erased_at"].timestamp() for row in rows}
            found.update(
                i
                for i, keys in ids.items()
                if any(events[i].received <= erased.get(key, -1.0) for key in keys)
            )
        return frozenset(found)

    async def _transaction(self, events: Sequence[Event]) -> Appended:
        claimed: set[tuple[MerchantId, bytes]] = set()
        identities: list[Identity] = []
        seen: list[tuple[MerchantId, str]] = []
        groups = sorted(_by_merchant(events).items())  # the same order in every process
        async with self._database.driver(
            groups[0][0], statement_timeout=STATEMENT_SECONDS
        ) as connection:
            for number, (merchant, indices) in enumerate(groups):
                if number:
                    await connection.execute(sql.SCOPE, merchant)
                unique: dict[bytes, Event] = {}
                for i in indices:  # of those that are the same, the first counts
                    unique.setdefault(events[i].fingerprint, events[i])
                own = sorted(unique.values(), key=lambda e: e.type is EventType.PURCHASE)
                new = self._new_clients(merchant, own)
                if new:
                    identities += await self._identify(connection, merchant, new)
                    seen += [(merchant, client_id) for client_id in new]
                for fingerprint in await self._store(connection, merchant, own):
                    claimed.add((merchant, fingerprint))
        for client in seen:
            self._remember(client)
        receipts = []
        for event in events:
            claim = (event.merchant, event.fingerprint)
            receipts.append(ACCEPTED if claim in claimed else DUPLICATE)
            claimed.discard(claim)
        return Appended(receipts, identities)

    async def _store(
        self, connection: asyncpg.Connection, merchant: MerchantId, events: Sequence[Event]
    ) -> list[bytes]:
        """Claims and stores; `events` has its purchases last, so that they find the clicks that
        come with them. Returns the fingerprints that were new."""
        first_purchase = next(
            (i for i, e in enumerate(events) if e.type is EventType.PURCHASE), len(events)
        )
        stored: list[bytes] = []
        for part in (events[:first_purchase], events[first_purchase:]):
            if not part:
                continue
            causes = (
                await self._attribute(connection, merchant, part)
                if part[0].type is EventType.PURCHASE
                else {}
            )
            owners, columns = _columns(part, causes)
            absent = _absent(columns) if len(owners) >= LEAN_ROWS else frozenset()
            rows = await connection.fetch(
                sql.append(absent),
                merchant,
                [event.fingerprint for event in part],
                [event.type is EventType.PURCHASE and event.order_id is not None for event in part],
                owners,
                *(values for name, values in columns.items() if name not in absent),
            )
            stored += [row[0] for row in rows]
        return stored

    async def _attribute(
        self, connection: asyncpg.Connection, merchant: MerchantId, purchases: Sequence[Event]
    ) -> Mapping[tuple[int, int], _Recommendation]:
        """What led to purchases: (event, line) → the recommendation that was clicked."""
        places = [
            (i, j)
            for i, event in enumerate(purchases)
            if event.result_id is None and event.shopper.id is not None
            for j in range(len(event.lines))
        ]
        if not places:
            return {}
        times = [purchases[i].time for i, _ in places]
        rows = await connection.fetch(
            sql.ATTRIBUTE,
            merchant,
            list(range(len(places))),
            [purchases[i].shopper.client_id for i, _ in places],
            [purchases[i].shopper.user_id for i, _ in places],
            [purchases[i].lines[j].item_id for i, j in places],
            times,
            min(times) - self._window,
            max(times),
            self._window,
        )
        return {places[n]: _Recommendation(*found) for n, *found in rows}

    def _new_clients(self, merchant: MerchantId, events: Sequence[Event]) -> dict[str, Event]:
        """The first event with a user of each client whose user may not be stored yet."""
        new: dict[str, Event] = {}
        for event in events:
            client_id = event.shopper.client_id
            if (
                client_id is not None
                and event.shopper.user_id is not None
                and event.learn
                and (merchant, client_id) not in self._known
            ):
                new.setdefault(client_id, event)
        return new

    async def _identify(
        self, connection: asyncpg.Connection, merchant: MerchantId, new: Mapping[str, Event]
    ) -> list[Identity]:
        rows = await connection.fetch(
            sql.IDENTIFY,
            merchant,
            list(new),
            [event.shopper.user_id for event in new.values()],
            [event.received for event in new.values()],
        )
        return [Identity(merchant, *row) for row in rows]

    def _remember(self, client: tuple[MerchantId, str]) -> None:
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[client] = None

    async def _set_aside(self, event: Event, error: BaseException) -> None:
        reason = str(getattr(error, "orig", error)).replace("\x00", "")[:2000]
        _log.error("event_rejected", merchant=event.merchant, action=event.action, reason=reason)
        async with self._database.merchant(event.merchant) as connection:
            # JSON escapes what text could not hold.
            await (await raw(connection)).execute(
                sql.SET_ASIDE, event.merchant, reason, _encode(event).decode()
            )


def erasure_names(shopper: Shopper) -> tuple[str, ...]:
    """Names by which a shopper's event may have been forgotten: its own, and its client's where all
    that was done on the client is."""
    names = () if shopper.id is None else (shopper.id,)
    return names if shopper.client_id is None else (*names, whole_client(shopper.client_id))


def whole_client(client_id: str) -> str:
    """The name of all that was done on a client, by whatever user."""
    return f"any:{client_id}"


def erasure_key(name: str) -> bytes:
    """What is kept of a shopper who was forgotten. `name` as of `erasure_names`."""
    return hashlib.sha256(name.encode()).digest()


_EPOCH: Final = dt.date(1970, 1, 1)


def _columns(
    events: Sequence[Event], causes: Mapping[tuple[int, int], _Recommendation]
) -> tuple[list[bytes], dict[str, list[Any]]]:
    """The arrays of `sql.append` from $4 on: a row an event and line, at least one an event."""
    owners: Sequence[Event] = events  # of each row
    lines: Sequence[Line | None]
    own = [(e.result_id, e.pod_id, e.strategy) for e in events]
    payloads = [_encode(e.payload).decode() if e.payload else "{}" for e in events]
    if all(len(event.lines) == 1 for event in events):  # as most do
        lines = [event.lines[0] for event in events]
        revenues = [event.revenues()[0] for event in events]
        if causes:
            own = [causes.get((i, 0), one) for i, one in enumerate(own)]
    else:
        rows: list[tuple[Event, Line | None, float, tuple[Any, ...], str]] = []
        for i, event in enumerate(events):
            if not event.lines:
                rows.append((event, None, event.revenue or 0.0, own[i], payloads[i]))
            for j, (line, revenue) in enumerate(zip(event.lines, event.revenues(), strict=True)):
                cause = causes.get((i, j), own[i])
                rows.append((event, line, revenue, cause, "{}" if j else payloads[i]))
        owners, lines, revenues, own, payloads = (list(one) for one in zip(*rows, strict=True))
    shoppers = [event.shopper for event in owners]
    columns: tuple[list[Any], ...] = (
        [event.time for event in owners],
        [event.received for event in owners],
        [int(event.type) for event in owners],
        [event.action for event in owners],
        [event.section for event in owners],
        [shopper.client_id for shopper in shoppers],
        [shopper.user_id for shopper in shoppers],
        [shopper.session for shopper in shoppers],
        [None if line is None else line.item_id for line in lines],
        [None if line is None else line.variation_id for line in lines],
        [1.0 if line is None else line.quantity for line in lines],
        revenues,
        [event.order_id for event in owners],
        *map(list, zip(*own, strict=True)),
        [event.term for event in owners],
        [event.conversion_type for event in owners],
        [event.learn for event in owners],
        payloads,
    )
    fingerprints = [event.fingerprint for event in owners]
    return fingerprints, dict(zip(sql.COLUMNS, columns, strict=True))


def _absent(columns: Mapping[str, list[Any]]) -> frozenset[str]:
    """Columns in which no row says anything: to send and to unpack them is a quarter of the work of
    a batch. Of few rows, it would not be worth a statement of their own."""
    return frozenset(
        name
        for name, value in sql.DEFAULTS.items()
        if columns[name].count(value) == len(columns[name])
    )


def _by_merchant(events: Sequence[Event]) -> dict[MerchantId, list[int]]:
    groups: dict[MerchantId, list[int]] = {}
    for index, event in enumerate(events):
        groups.setdefault(event.merchant, []).append(index)
    return groups


def _chunks(days: Sequence[dt.date], size: int) -> Iterable[Sequence[dt.date]]:
    return (days[start : start + size] for start in range(0, len(days), size))


def _sqlstate(error: BaseException) -> str | None:
    found = getattr(getattr(error, "orig", None) or error, "sqlstate", None)
    return found if isinstance(found, str) else None


def _is_poison(error: BaseException, code: str | None) -> bool:
    """Whether the fault lies in a value. asyncpg refuses some itself, without asking."""
    if code is not None:
        return code[:2] in _POISON
    return isinstance(error, asyncpg.DataError | UnicodeEncodeError)


def _not_kept(error: Exception, code: str | None) -> Exception:
    """A schema that lags, or a broken connection, is no fault of the events: they must wait."""
    if isinstance(error, Unavailable):
        return error
    if isinstance(error, TimeoutError):
        return Unavailable("the event log does not answer now: send the event again")
    if code is not None or isinstance(error, asyncpg.InterfaceError | sa.exc.DBAPIError):
        _log.error("event_log_unusable", sqlstate=code, exc_info=error)
        return Unavailable("events cannot be stored now: send the event again")
    return error
