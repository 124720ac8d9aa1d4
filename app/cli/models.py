"""`vitrine models`: which versions there are, and which of them serves."""

from __future__ import annotations

import datetime

import click
import msgspec

from app.cli.training import ACTOR, chosen_merchant, merchant_option, run
from app.container import Container
from app.domain.model import ModelVersion


@click.group(epilog="Example: vitrine models rollback popular")
def models() -> None:
    """List, publish and roll back model versions. Running servers follow within a second."""


@models.command("list", epilog="Example: vitrine models list popular")
@click.argument("configuration", required=False)
@merchant_option
@click.option("--limit", default=50, show_default=True, help="How many, newest first.")
@click.option("--json", "as_json", is_flag=True, help="All that is known of them, as JSON.")
def list_(configuration: str | None, merchant: str | None, limit: int, as_json: bool) -> None:
    """List versions, of one CONFIGURATION or of all."""

    async def page(container: Container) -> list[ModelVersion]:
        found = await container.models().page(
            await chosen_merchant(container, merchant), configuration_id=configuration, limit=limit
        )
        return list(found)

    found = run(page)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    for version in found:
        metrics = version.manifest.metrics
        click.echo(
            f"{version.configuration_id}\t{version.number}\t{version.state}\t"
            f"{_moment(version.fitted_at)}\t{version.manifest.strategy} "
            f"{version.manifest.strategy_version}\t{metrics.get('events', 0):.0f} events\t"
            f"{metrics.get('seconds', 0):.1f} s\t{metrics.get('peak_mib', 0):.0f} MiB"
        )


@models.command(epilog="Example: vitrine models publish popular 3")
@click.argument("configuration")
@click.argument("number", type=click.IntRange(min=1))
@merchant_option
def publish(configuration: str, number: int, merchant: str | None) -> None:
    """Let version NUMBER of CONFIGURATION serve."""

    async def change(container: Container) -> ModelVersion:
        mine = await chosen_merchant(container, merchant)
        return await container.models().publish_number(mine, configuration, number, ACTOR)

    _say(run(change))


@models.command(epilog="Example: vitrine models rollback popular")
@click.argument("configuration")
@merchant_option
def rollback(configuration: str, merchant: str | None) -> None:
    """Let the version of CONFIGURATION serve that did before the present one."""

    async def change(container: Container) -> ModelVersion:
        mine = await chosen_merchant(container, merchant)
        return await container.models().roll_back(mine, configuration, ACTOR)

    _say(run(change))


def _say(version: ModelVersion) -> None:
    click.echo(f"{version.configuration_id}\t{version.number}\t{version.state}")


def _moment(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds")
