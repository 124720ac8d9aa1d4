"""`vitrine train`: fit strategies here and now, with progress."""

from __future__ import annotations

import time
from typing import Any

import click

from app.cli.training import ACTOR, chosen_merchant, merchant_option, run
from app.container import Container
from app.files.parquet_training import ParquetTrainingData
from app.services.train import SEED


@click.command(epilog="Example: vitrine train popular similar")
@click.argument("configurations", nargs=-1)
@merchant_option
@click.option(
    "--publish/--no-publish", default=True, help="Whether the new versions serve at once."
)
@click.option("--seed", default=SEED, show_default=True, help="The same gives the same model.")
@click.option(
    "--until", type=float, help="Learn from no later event (Unix seconds). [default: now]"
)
@click.option(
    "--incremental",
    is_flag=True,
    help="Count only what is new since the last such fit, where a strategy can: similar does.",
)
@click.option(
    "--events-url",
    help="Learn from <URL>/<merchant>/*.parquet, a folder or an object store, and not from "
    "PostgreSQL: what retention archived, or an export with the same columns.",
)
def train(
    configurations: tuple[str, ...],
    merchant: str | None,
    publish: bool,
    seed: int,
    until: float | None,
    events_url: str | None,
    incremental: bool,
) -> None:
    """Fit CONFIGURATIONS (all of them, where none is named) on the merchant's catalogue and events.

    Each fit runs in a process of its own. The new versions are published, and every server process
    uses them within a second. Where a fit fails, the version before serves on, and the exit code
    is 1.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - started:7.1f} s  {text}", err=True)

    async def train_all(container: Container) -> bool:
        source: dict[str, Any] = {}
        if events_url is not None:
            source["source"] = ParquetTrainingData(events_url, container.training_data())
        results = await container.training(**source).train(
            await chosen_merchant(container, merchant),
            configurations,
            actor=ACTOR,
            publish=publish,
            seed=seed,
            until=until,
            incremental=incremental,
            progress=say,
        )
        if not results:
            click.echo("there is no strategy configuration to train yet", err=True)
        for one in results:
            if one.version is not None:
                held = "" if one.kept_back is None else f"\tkept back: {one.kept_back}"
                click.echo(
                    f"{one.configuration_id}\t{one.version.number}\t{one.version.state}{held}"
                )
            else:
                click.echo(f"{one.configuration_id}\tfailed\t{one.error}")
        return all(one.error is None for one in results)

    if not run(train_all):
        raise SystemExit(1)
