"""`vitrine import events`: a shop's own event history from a file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import msgspec

from app.cli.training import chosen_merchant, merchant_option
from app.cli.wiring import opened_settings, wire
from app.container import Container
from app.domain.errors import VitrineError
from app.domain.merchant import MerchantId
from app.embedded import EmbeddedError
from app.files.event_files import EventFile
from app.postgres.event_import import EventImport
from app.services.import_events import (
    FIELDS,
    ImportEvents,
    ImportReport,
    RejectedRow,
    parse_mapping,
)
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.output import Output

SHOWN_REJECTIONS = 10

EXAMPLES = """\b
Examples:
  vitrine import events orders.parquet --type purchase \\
      --map user_id=household_id,order_id=basket_id,item_id=product_id \\
      --map revenue=sales_value,time=transaction_timestamp
  vitrine import events clicks.csv.gz --map client_id=visitor --map-type addtocart=cart
"""


@click.command("events", epilog=EXAMPLES)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@merchant_option
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="FIELD=COLUMN",
    help=f"Which column holds a field, comma-separated or repeated. Fields: {', '.join(FIELDS)}. "
    "[default: columns of these names]",
)
@click.option("--type", "type_", help="Every row is of this type; else the column says it.")
@click.option(
    "--map-type", "types", multiple=True, metavar="NAME=TYPE", help="What the file calls a type."
)
@click.option(
    "--timezone", default="UTC", show_default=True, help="Of times that do not say theirs."
)
@click.option(
    "--rejected", type=click.Path(path_type=Path), help="Write all rejected rows here, as JSONL."
)
def events(
    file: Path,
    merchant: str | None,
    mapping: tuple[str, ...],
    type_: str | None,
    types: tuple[str, ...],
    timezone: str,
    rejected: Path | None,
) -> None:
    """Import events from FILE (.csv, .tsv, .jsonl, also .gz, or .parquet): one row an event and
    item.

    An event counts once: purchases by their order, rows with an id by it, others by all that they
    say. So a file can be imported again, and an import that was cut off continued. Rows that are no
    event are named and left out. Shoppers' histories are brought up to date afterwards.
    """

    async def import_all(container: Container, database_url: str) -> ImportReport:
        chosen = await chosen_merchant(container, merchant)
        source = EventFile(
            file,
            chosen,
            mapping=parse_mapping(mapping),
            type_=type_,
            types=_pairs(types),
            timezone=timezone,
        )
        progress = Progress()
        with Rejections(rejected) as rejections:
            report = await ImportEvents(EventImport(database_url)).run(
                chosen, source, progress=progress, on_rejected=rejections.add
            )
        progress.end()
        await _rebuild(container, chosen)
        return report

    report = _run(import_all)
    for row in report.rejected_rows[:SHOWN_REJECTIONS]:
        click.echo(f"row {row.row}: {row.reason}", err=True)
    if report.rejected > SHOWN_REJECTIONS:
        rest = report.rejected - SHOWN_REJECTIONS
        where = f"all are in {rejected}" if rejected else "--rejected FILE writes all"
        click.echo(f"... and {rest} more; {where}", err=True)
    click.echo(
        f"{report.read} rows: {report.accepted} accepted, {report.duplicate} there already, "
        f"{report.rejected} rejected; {report.seconds:.1f} s"
    )


def _run(call: Callable[[Container, str], Awaitable[ImportReport]]) -> ImportReport:
    """Call with everything wired and the database's URL."""

    async def wired(settings: Settings) -> ImportReport:
        container = wire(settings)
        try:
            return await call(container, settings.database_url or "")
        finally:
            await container.background_redis().close()
            await container.database().close()

    try:
        with opened_settings() as settings:
            logs.configure(settings.log_level, Output(descriptor=2))
            return asyncio.run(wired(settings))
    except VitrineError as error:
        raise click.ClickException(error.message) from None
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None


async def _rebuild(container: Container, merchant: MerchantId) -> None:
    try:
        built = await container.history_rebuild().run(merchant)
    except VitrineError as error:
        # Servers make the histories themselves, once Redis is back.
        click.echo(f"shoppers' histories are not up to date yet: {error.message}", err=True)
    else:
        click.echo(f"histories of {built.shoppers} shoppers, {built.seconds:.1f} s", err=True)


class Progress:
    """One line on a terminal that is written over; elsewhere one each ten seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._told = 0.0

    def __call__(self, stage: str, report: ImportReport) -> None:
        if not self._live and report.seconds - self._told < 10.0:
            return
        self._told = report.seconds
        done = report.accepted + report.duplicate
        text = f"{report.read} rows read" if stage == "read" else f"{done} of {report.read} stored"
        text += f", {report.rejected} rejected, {report.seconds:.0f} s"
        click.echo(f"\r\x1b[K{text}" if self._live else text, nl=not self._live, err=True)

    def end(self) -> None:
        if self._live:
            click.echo(err=True)


class Rejections:
    """Writes rejected rows to a file as they come; to nothing where there is no file."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("wb")

    def __enter__(self) -> Rejections:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: RejectedRow) -> None:
        if self._file is not None:
            self._file.write(msgspec.json.encode(row._asdict()) + b"\n")


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise click.BadParameter(f"{text!r} is no NAME=TYPE", param_hint="--map-type")
        pairs[name] = value
    return pairs
