"""`vitrine strategies`: what is installed, and a start for one's own."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from app.domain.strategy import InstalledStrategy


@click.group(epilog="Example: vitrine strategies list")
def strategies() -> None:
    """Strategies that are installed beside the server, and a new one's beginning."""


@strategies.command("list", epilog="Example: vitrine strategies list --json")
@click.option("--json", "as_json", is_flag=True, help="With configuration schemas, as JSON.")
def list_(as_json: bool) -> None:
    """List the strategies that are installed: name, version, distribution, state, and why a
    broken one was left out."""
    from app.plugins.discovery import discover

    found = list(discover())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([_plain(one) for one in found])))
        return
    rows = [("NAME", "VERSION", "DISTRIBUTION", "STATE", "")]
    rows += [
        (one.name, one.version, one.distribution, one.state.value, one.reason or "")
        for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        click.echo("  ".join([*cells, row[4]]).rstrip())


def _plain(one: InstalledStrategy) -> dict[str, object]:
    return {
        "name": one.name,
        "version": one.version,
        "distribution": one.distribution,
        "state": one.state.value,
        "reason": one.reason,
        "contract": one.contract,
        "format": one.format,
        "reasons": [] if one.strategy is None else list(one.strategy.reasons),
        "config_schema": one.schema,
    }


@strategies.command(epilog="Example: vitrine strategies new seasonal --directory ~/shops")
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where the distribution's directory is made. [default: here]",
)
def new(name: str, directory: Path) -> None:
    """Write a distribution with a strategy called NAME that passes the conformance kit at once."""
    from app.cli.strategy_template import TemplateError, write

    try:
        made = write(name, directory)
    except TemplateError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"made {made}; next:")
    click.echo(f"  pip install -e {made}  &&  pytest {made}  &&  vitrine strategies list")
