"""`vitrine import items`: a shop's own catalogue from a file."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

import click
import msgspec

from app.cli.training import chosen_merchant, merchant_option
from app.cli.wiring import opened_settings, wire
from app.container import Container
from app.domain.catalogue import DEFAULT_SECTION, Kind, OnMissing, Section, Write
from app.domain.errors import VitrineError
from app.domain.task import CATALOGUE_IMPORT, Task, TaskStatus
from app.embedded import EmbeddedError
from app.files.catalogue_files import CatalogueFiles
from app.files.catalogue_parquet import is_parquet, parquet_rows
from app.services.catalogue_import import CatalogueImport, Order
from app.services.catalogue_rows import Row, Source, Upload, read_rows
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.output import Output

SHOWN_REJECTIONS: Final = 10

EXAMPLES = """\b
Examples:
  vitrine import items items.csv --full
  vitrine import items products.parquet --map id=sku,name=title,image_url=picture
  vitrine import items categories.csv --kind item_groups
"""


@click.command("items", epilog=EXAMPLES)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@merchant_option
@click.option("--section", default=DEFAULT_SECTION, show_default=True, help="Of the catalogue.")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in Kind]),
    default=Kind.ITEMS.value,
    show_default=True,
    help="What the rows are.",
)
@click.option(
    "--full/--delta",
    default=False,
    help="Whether what FILE does not have is deleted. [default: delta]",
)
@click.option("--patch", is_flag=True, help="Change only the fields that FILE has.")
@click.option(
    "--on-missing",
    type=click.Choice([choice.value for choice in OnMissing], case_sensitive=False),
    default=OnMissing.FAIL.value,
    show_default=True,
    help="With --patch: what to do with a row whose id is not there.",
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Which column holds a field, comma-separated or repeated. Fields: id, name, item_id,"
    " parent_id, url, image_url, price, group_ids, facet:NAME, metadata:NAME ..."
    " [default: columns of these names]",
)
@click.option("--force", is_flag=True, help="Delete more than half, if it comes to that.")
@click.option(
    "--skip-rejected", is_flag=True, help="Take the good rows where some are wrong; else none is."
)
def items(
    file: Path,
    merchant: str | None,
    section: str,
    kind: str,
    full: bool,
    patch: bool,
    on_missing: str,
    mapping: tuple[str, ...],
    force: bool,
    skip_rejected: bool,
) -> None:
    """Import items, variations or item groups from FILE: CSV or JSONL (plain or gzipped), or
    Parquet.

    All or nothing: where a row is wrong, it is named, nothing is changed, and the exit code is 1.
    What is imported becomes visible at once.
    """
    if full and patch:
        raise click.UsageError("--full and --patch exclude each other")
    write = Write.FULL if full else Write.PATCH if patch else Write.REPLACE
    order = Order(
        write=write,
        files=(Upload("", file.name, Kind(kind)),),
        on_missing=OnMissing(on_missing.upper()),
        force=force,
        skip_rejected=skip_rejected,
    )
    columns = _mapping(mapping)
    began = time.monotonic()

    async def work(container: Container) -> Task:
        chosen = await chosen_merchant(container, merchant)
        progress = Progress()
        task = await import_file(
            container.catalogue_import(),
            await container.tasks().create(
                chosen,
                CATALOGUE_IMPORT,
                section=Section(section),
                input=msgspec.to_builtins(order),
            ),
            order,
            file,
            Kind(kind),
            columns,
            progress,
        )
        progress.end()
        for row in await container.tasks().rejections(chosen, task.id, limit=SHOWN_REJECTIONS):
            where = "" if row.line is None else f"row {row.line:,}"
            named = "" if row.subject is None else f" (id {row.subject})"
            click.echo(f"{where}{named}: {row.reason}".lstrip(": "), err=True)
        return task

    task = _run(work)
    rejected = task.counts.get("rejected", 0)
    if rejected > SHOWN_REJECTIONS:
        click.echo(f"... and {rejected - SHOWN_REJECTIONS:,} more", err=True)
    if task.status is TaskStatus.FAILED:
        raise click.ClickException(f"{task.error} (task {task.id})")
    changes = ", ".join(
        f"{task.counts.get(f'{kind}_{change}', 0):,} {change}"
        for change in ("created", "updated", "unchanged", "deleted")
    )
    seconds = time.monotonic() - began
    click.echo(f"{task.counts['rows']:,} rows: {changes}, {rejected:,} rejected; {seconds:.1f} s")


async def import_file(
    importer: CatalogueImport,
    task: Task,
    order: Order,
    file: Path,
    kind: Kind,
    mapping: dict[str, str],
    progress: Callable[[int], None] | None = None,
) -> Task:
    """Does an import from a file of this machine.

    Args:
        task: that was made for it.
        mapping: field -> column, where the file calls a field otherwise.
        progress: called with the number of rows read, now and then.

    Returns:
        The task at its end, DONE or FAILED.

    Raises:
        Unavailable: a store is away; nothing was changed.
    """
    partial = order.write is Write.PATCH
    if is_parquet(file):
        sources: Iterator[Source] = iter([Source(file.name, kind, "csv", BytesIO())])
    else:
        opened = CatalogueFiles(file.parent, max_bytes=sys.maxsize)
        sources = opened.open([Upload(file.name, file.name, kind)])

    def read(source: Source) -> Iterator[Row]:
        if is_parquet(file):
            return parquet_rows(file, kind, partial=partial, mapping=mapping)
        return read_rows(source, partial=partial, mapping=mapping)

    ended = await importer.run(task, order, sources, read=read, progress=progress)
    assert ended is not None  # noqa: S101  # nobody else knows of the task
    return ended


class Progress:
    """One line on a terminal that is written over; elsewhere one each ten seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._began = self._told = time.monotonic()

    def __call__(self, rows: int) -> None:
        now = time.monotonic()
        if not self._live and now - self._told < 10.0:
            return
        self._told = now
        text = f"{rows:,} rows read, {now - self._began:.0f} s"
        click.echo(f"\r\x1b[K{text}" if self._live else text, nl=not self._live, err=True)

    def end(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)


def _run(work: Callable[[Container], Awaitable[Task]]) -> Task:
    async def wired(settings: Settings) -> Task:
        container = wire(settings)
        try:
            return await work(container)
        finally:
            await container.background_redis().close()
            await container.database().close()

    try:
        with opened_settings() as settings:
            logs.configure("warning", Output(descriptor=2))
            return asyncio.run(wired(settings))
    except VitrineError as error:
        raise click.ClickException(error.message) from None
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None


def _mapping(texts: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in ",".join(texts).split(","):
        if not text:
            continue
        field, separator, column = text.partition("=")
        if not separator or not field or not column:
            raise click.BadParameter(f"{text!r} is no FIELD=COLUMN", param_hint="--map")
        pairs[field] = column
    return pairs
