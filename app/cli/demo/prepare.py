"""The steps from nothing to a shop that can be served. Each is done once, and again where it was
cut off: what marks a step as done is written after it.

Runs in a process of its own, so that what it loads is gone when the shop is served.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from app.cli.demo.shop import (
    EVENTS,
    GROUPS,
    ITEMS,
    PODS,
    STRATEGIES,
    ShopError,
    ShopSource,
    ShopSummary,
)
from app.cli.import_items import import_file
from app.cli.wiring import wire
from app.container import Container
from app.domain.catalogue import DEFAULT_SECTION, Kind, Write
from app.domain.errors import Conflict, NotFound
from app.domain.merchant import MerchantId, Role
from app.domain.pod import Pod, StrategyConfiguration
from app.domain.task import CATALOGUE_IMPORT, TaskStatus
from app.files.event_files import EventFile
from app.postgres.event_import import EventImport
from app.postgres.migration import Migrations
from app.services.catalogue_import import Order
from app.services.catalogue_rows import Upload
from app.services.import_events import ImportEvents, ImportReport
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.output import Output

ACTOR: Final = "demo"  # in the audit log
FORMAT: Final = "3"  # changes when what is prepared changes


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
            steps,
            "events",
            "Events",
            lambda: _events(container, settings.database_url or "", merchant, folder, steps),
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
    """The whole catalogue is what the files say; each file becomes visible at once."""
    said = []
    for kind, name in ((Kind.ITEM_GROUPS, GROUPS), (Kind.ITEMS, ITEMS)):
        if not (folder / name).stat().st_size:
            continue
        order = Order(write=Write.FULL, files=(Upload("", name, kind),), force=True)
        task = await container.tasks().create(
            merchant,
            CATALOGUE_IMPORT,
            section=DEFAULT_SECTION,
            input=msgspec.to_builtins(order),
        )
        task = await import_file(
            container.catalogue_import(),
            task,
            order,
            folder / name,
            kind,
            {},
            lambda rows: steps.progress(f"{rows:,} rows"),
        )
        if task.status is TaskStatus.FAILED:
            wrong = await container.tasks().rejections(merchant, task.id, limit=3)
            raise ShopError("; ".join((str(task.error), *(row.reason for row in wrong))))
        said.append(f"{task.counts['rows']:,} {kind.replace('_', ' ')}")
    return ", ".join(said)


async def _events(
    container: Container, database_url: str, merchant: MerchantId, folder: Path, steps: Steps
) -> str:
    def progress(stage: str, report: ImportReport) -> None:
        done = report.read if stage == "read" else report.accepted + report.duplicate
        steps.progress(f"{done:,} rows {'read' if stage == 'read' else 'stored'}")

    report = await ImportEvents(EventImport(database_url)).run(
        merchant, EventFile(folder / EVENTS, merchant), progress=progress
    )
    await container.history_rebuild().run(merchant)
    known = f", {report.duplicate:,} there already" if report.duplicate else ""
    wrong = "".join(f"; row {row.row}: {row.reason}" for row in report.rejected_rows[:3])
    return f"{report.read:,} rows{known}" + (
        f", {report.rejected:,} rejected{wrong}" if report.rejected else ""
    )


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
