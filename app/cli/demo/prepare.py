"""The steps from nothing to a shop that can be served. Each is done once, and again where it was
cut off: what marks a step as done is written after it.

Runs in a process of its own, so that what it loads is gone when the shop is served.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from app.cli.demo.shop import EVENTS, GROUPS, ITEMS, PODS, STRATEGIES, ShopSource, ShopSummary
from app.cli.wiring import wire
from app.container import Container
from app.domain import fingerprint
from app.domain.catalogue import DEFAULT_SECTION, ItemId, Kind, Write
from app.domain.errors import Conflict, NotFound
from app.domain.event import Event, Line, Shopper
from app.domain.merchant import MerchantId, Role
from app.domain.pod import Pod, StrategyConfiguration
from app.postgres.migration import Migrations
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.output import Output
from vitrine_sdk import EventType

T = TypeVar("T")

ACTOR: Final = "demo"  # in the audit log
ITEMS_AT_ONCE: Final = 5_000
EVENTS_AT_ONCE: Final = 2_000
FORMAT: Final = "1"  # changes when what is prepared changes


class State(msgspec.Struct, kw_only=True):
    """What is done, in state.json beside the shop's files."""

    source: str = ""  # the data's fingerprint
    key: str = ""
    token: str = ""
    token_id: str = ""
    summary: ShopSummary | None = None
    done: dict[str, str] = {}  # step: the fingerprint for which it was done


class Steps:
    """Says what is done, and keeps it in mind."""

    def __init__(self, folder: Path, total: int) -> None:
        self._path = folder / "state.json"
        self._total = total
        self._number = 0
        self._began = time.monotonic()
        self._line = False
        try:
            self.state = msgspec.json.decode(self._path.read_bytes(), type=State)
        except (FileNotFoundError, msgspec.MsgspecError):
            self.state = State()

    def save(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.touch(mode=0o600)
        temporary.write_bytes(msgspec.json.encode(self.state))
        temporary.replace(self._path)

    def forget(self) -> None:
        self.state = State()
        self.save()

    def begin(self, text: str) -> None:
        self._number += 1
        self._began = time.monotonic()
        self._text = f"[{self._number}/{self._total}] {text}"
        self._say(self._text)

    def progress(self, text: str) -> None:
        if sys.stderr.isatty():
            self._say(f"{self._text}: {text}")

    def end(self, text: str = "") -> None:
        seconds = time.monotonic() - self._began
        self._say(f"{self._text}: {text or 'done'} ({seconds:.1f} s)", last=True)

    def is_done(self, name: str) -> bool:
        return self.state.done.get(name) == self.state.source

    def mark(self, name: str) -> None:
        self.state.done[name] = self.state.source
        self.save()

    def _say(self, text: str, *, last: bool = False) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text[:160]}" + ("\n" if last else ""))
        elif last:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def prepare(settings: Settings, source: ShopSource, folder: Path) -> State:
    """Everything up to the fitted models.

    Args:
        settings: with the stores' URLs filled in.
        folder: of this shop's files and state.

    Raises:
        ShopError: the data cannot be read.
        VitrineError, MigrationError: a store refuses.
    """
    logs.configure("warning", Output(descriptor=2))
    folder.mkdir(parents=True, exist_ok=True)
    steps = Steps(folder, total=6)
    steps.begin("Database schema")
    assert settings.database_owner_url is not None  # noqa: S101  # checked by the command
    Migrations(settings.database_owner_url, report=steps.progress).up()
    steps.end()
    asyncio.run(_prepare(settings, source, folder, steps))
    return steps.state


async def _prepare(settings: Settings, source: ShopSource, folder: Path, steps: Steps) -> None:
    container = wire(settings)
    merchant = MerchantId(source.merchant)
    try:
        await _merchant(container, merchant, steps)
        fingerprint_now = f"{FORMAT}-{source.fingerprint()}"
        if steps.state.source != fingerprint_now:
            steps.state.source = fingerprint_now
            steps.save()
        await _step(steps, "data", "Reading the data", lambda: _data(source, folder, steps))
        await _step(steps, "items", "Catalogue", lambda: _items(container, merchant, folder, steps))
        await _step(
            steps, "events", "Purchases", lambda: _events(container, merchant, folder, steps)
        )
        await _step(
            steps, "models", "Fitting the strategies", lambda: _models(container, merchant, steps)
        )
    finally:
        await container.background_redis().close()
        await container.database().close()


async def _step(steps: Steps, name: str, text: str, work: Callable[[], Awaitable[str]]) -> None:
    steps.begin(text)
    if steps.is_done(name):
        steps.end("done before")
        return
    said = await work()
    steps.mark(name)
    steps.end(said)


async def _merchant(container: Container, merchant: MerchantId, steps: Steps) -> None:
    steps.begin("Merchant, key and token")
    merchants = container.merchants()
    state = steps.state
    try:
        await merchants.get(merchant)
    except NotFound:
        steps.forget()  # another database than the one that the state speaks of
        state = steps.state
        await merchants.create(merchant, merchant, actor=ACTOR)
    keys = [key.key for key in await merchants.keys(merchant) if key.revoked_at is None]
    tokens = {token.id for token in await merchants.tokens(merchant) if token.revoked_at is None}
    if state.key not in keys:
        state.key = keys[0] if keys else (await merchants.create_key(merchant, actor=ACTOR)).key
    if state.token_id not in tokens:  # a secret is shown once; where it was lost, there is another
        issued = await merchants.create_token(
            merchant, Role.ADMINISTRATOR, label="demo", actor=ACTOR
        )
        state.token, state.token_id = issued.secret, issued.token.id
    steps.save()
    steps.end()


async def _data(source: ShopSource, folder: Path, steps: Steps) -> str:
    summary = await asyncio.to_thread(source.prepare, folder)
    steps.state.summary = summary
    return "; ".join((f"{summary.items:,} products", *summary.notes))


async def _items(container: Container, merchant: MerchantId, folder: Path, steps: Steps) -> str:
    ingest = container.ingest()
    written = 0
    for kind, name in ((Kind.ITEM_GROUPS, GROUPS), (Kind.ITEMS, ITEMS)):
        with (folder / name).open("rb") as file:
            for raws in _batches(file, ITEMS_AT_ONCE):
                await ingest.write(merchant, DEFAULT_SECTION, kind, Write.REPLACE, raws)
                written += len(raws)
                steps.progress(f"{written:,} records")
    return f"{written:,} records"


async def _events(container: Container, merchant: MerchantId, folder: Path, steps: Steps) -> str:
    log = container.event_log()
    table = await asyncio.to_thread(pq.read_table, folder / EVENTS)
    accepted = seen = 0
    for events in _batches(read_events(table, merchant, time.time()), EVENTS_AT_ONCE):
        appended = await log.append(events)
        accepted += sum(receipt.outcome == "accepted" for receipt in appended.receipts)
        seen += len(events)
        steps.progress(f"{seen:,} events of {table.num_rows:,} lines")
    known = f", {seen - accepted:,} known before" if seen > accepted else ""
    return f"{seen:,} events, {table.num_rows:,} lines{known}"


async def _models(container: Container, merchant: MerchantId, steps: Steps) -> str:
    configurations = container.strategy_configurations()
    for id_, given in STRATEGIES.items():
        await _unless_there(
            configurations.create(
                merchant,
                StrategyConfiguration(id=id_, strategy=given.strategy, config=dict(given.config)),
                ACTOR,
            )
        )
    pods = container.pods()
    for id_, (name, chain) in PODS.items():
        await _unless_there(
            pods.create(merchant, Pod(id=id_, display_name=name, chain=chain), ACTOR)
        )
    trained = await container.training().train(
        merchant, tuple(STRATEGIES), actor=ACTOR, progress=steps.progress
    )
    failed = [f"{one.configuration_id}: {one.error}" for one in trained if one.error is not None]
    if failed:
        raise RuntimeError("; ".join(failed))
    return ", ".join(one.configuration_id for one in trained)


async def _unless_there(create: Awaitable[object]) -> None:
    try:
        await create
    except Conflict:
        return  # by an earlier start, or changed since: it is the merchant's now


def read_events(table: pa.Table, merchant: MerchantId, now: float) -> Iterator[Event]:
    """Events of a table with `EVENT_COLUMNS`; the lines of an order, one after the other, are one
    purchase."""
    columns = {name: table[name].to_pylist() for name in table.column_names}
    rows = table.num_rows

    def column(name: str, default: Any = None) -> list[Any]:
        return columns.get(name) or [default] * rows

    types = column("type", "purchase")
    times, orders = column("time"), column("order_id")
    users, clients = column("user_id"), column("client_id")
    items, quantities, prices = column("item_id"), column("quantity"), column("price")
    start = 0
    while start < rows:
        end = start + 1
        if orders[start] is not None:
            while end < rows and orders[end] == orders[start]:
                end += 1
        lines = tuple(
            Line(
                item_id=ItemId(items[row]),
                quantity=1.0 if quantities[row] is None else quantities[row],
                price=prices[row],
            )
            for row in range(start, end)
        )
        claim = (
            fingerprint.of_order(merchant, orders[start])
            if orders[start] is not None
            else fingerprint.of_id(merchant, f"demo-{start}")
        )
        yield Event(
            merchant=merchant,
            type=EventType[types[start].upper()],
            action=types[start],
            time=float(times[start]),
            received=now,
            shopper=Shopper(clients[start], users[start]),
            fingerprint=claim,
            lines=lines,
            revenue=round(sum(line.quantity * (line.price or 0.0) for line in lines), 2),
            order_id=orders[start],
        )
        start = end


def _batches(rows: Any, size: int) -> Iterator[list[Any]]:
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch
