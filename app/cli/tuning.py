"""`vitrine tune`: search a strategy's configuration on the newest part of the data."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgspec

from app.cli.evaluate import column_pairs
from app.cli.training import ACTOR, chosen_merchant, merchant_option, run
from app.container import Container
from app.domain.errors import InvalidInput, VitrineError
from app.domain.pod import StrategyConfiguration
from app.domain.strategy import InstalledStrategy
from app.plugins.discovery import discover
from app.services.evaluate_formats import FORMATS, Log, read
from app.services.evaluate_report import comparison, table
from app.services.evaluate_splits import PROTOCOLS, split
from app.services.tuning import Bounds, Tuned, tune
from app.services.tuning_space import space, stated
from app.settings import from_environment


@click.command(
    "tune",
    epilog="Example: vitrine tune similar --seconds 300 --apply  ·  "
    "vitrine tune personalized Beauty.txt --format sequences --protocol leave-one-out",
)
@click.argument("name")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@merchant_option
@click.option("--format", "format_", type=click.Choice(sorted(FORMATS)))
@click.option("--protocol", default=None, type=click.Choice(sorted(PROTOCOLS)),
              help="[default: time, for the merchant's own events]")  # fmt: skip
@click.option("--days", default=7, show_default=True, help="Length of a period under test.")
@click.option("--column", "columns", multiple=True, help="Ours=theirs, for tables.")
@click.option("--config", "config", default=None, help="JSON: where the search starts.")
@click.option("--metric", default="ndcg@20", show_default=True)
@click.option("--trials", default=40, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--seconds", default=600.0, show_default=True, type=click.FloatRange(0))
@click.option("--queries", default=2000, show_default=True, type=click.IntRange(1),
              help="Asked a trial, at most.")  # fmt: skip
@click.option("--only", multiple=True, help="Search this field only. Repeatable.")
@click.option("--fix", "fixed", multiple=True, help="Leave this field as it is. Repeatable.")
@click.option("--space", "words", multiple=True,
              help="option=low:high or option=a|b: search these, and nothing else.")  # fmt: skip
@click.option("--exclude-seen", is_flag=True, help="Leave out what the shopper had before.")
@click.option("--seed", default=0, show_default=True, help="The same gives the same search.")
@click.option("--apply", "apply_", is_flag=True, help="Write the best into the configuration.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def command(
    name: str,
    paths: Sequence[Path],
    merchant: str | None,
    format_: str | None,
    protocol: str | None,
    days: int,
    columns: Sequence[str],
    config: str | None,
    metric: str,
    trials: int,
    seconds: float,
    queries: int,
    only: Sequence[str],
    fixed: Sequence[str],
    words: Sequence[str],
    exclude_seen: bool,
    seed: int,
    apply_: bool,
    json_path: Path | None,
) -> None:
    """Search a better configuration for NAME and compare it with what it has.

    NAME is a strategy configuration of the merchant's, tuned on the newest days of the merchant's
    own events; or, with PATHS, a strategy that is tuned on the validation split of a data set, as
    `vitrine evaluate` reads it. A search that was ended goes on where it was: called again with
    the same arguments, on the same data. The comparison is on shoppers that the search did not
    see.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - started:7.1f} s  {text}", err=True)

    def search(strategy: InstalledStrategy, values: Mapping[str, Any], log: Log) -> Tuned:
        start = strategy.configuration(values)
        made = split(log, protocol or "time", "validation" if paths else "test", days)
        say(f"{len(made.train.events):,} events to learn from, {len(made.queries):,} queries")
        found = tune(
            strategy,
            start,
            stated(words, type(start)) if words else space(start, only, fixed),
            made,
            metric,
            from_environment().home / "studies",
            bounds=Bounds(trials, seconds, queries),
            exclude_seen=exclude_seen,
            seed=seed,
            progress=say,
        )
        _show(found, metric)
        if json_path is not None:
            json_path.write_text(json.dumps(_plain(found, metric), indent=1) + "\n")
        return found

    async def own(container: Container) -> None:
        whose = await chosen_merchant(container, merchant)
        store = container.strategy_configurations()
        before = await store.get(whose, name)
        configured = before.value
        values = {**configured.config, **_given(config)}
        strategy = _strategy(configured.strategy)
        strategy.configuration(values)  # before the long part
        known = await container.training_data().read(whose, configured.section, time.time(), say)
        found = await asyncio.to_thread(search, strategy, values, Log(known.data))
        if not apply_:
            return
        if not found.changed or found.comparison.difference.value <= 0:
            click.echo("not applied: nothing better was found on shoppers not searched on")
            return
        better: StrategyConfiguration = msgspec.structs.replace(
            configured, config={**values, **found.changed}
        )
        # Whoever changed it meanwhile is not overwritten.
        await store.replace(whose, better, frozenset({before.version}), ACTOR)
        click.echo(f"applied to {name}; fit it by: vitrine train {name}")

    try:
        if not paths:
            if format_ is not None:
                raise InvalidInput.field("format", "is for files, and none is named")
            run(own)
            return
        if format_ is None or protocol is None:
            raise InvalidInput("files want --format and --protocol")
        if apply_:
            raise InvalidInput.field("apply", "files have no configuration to write to")
        search(_strategy(name), _given(config), read(format_, paths, column_pairs(columns)))
    except VitrineError as error:
        raise click.ClickException(error.message) from None


def _strategy(name: str) -> InstalledStrategy:
    installed = discover()
    found = installed.get(name)
    if found is None:
        names = ", ".join(one.name for one in installed)
        raise InvalidInput.field("name", f"{name!r} is no installed strategy; there are: {names}")
    return found


def _given(config: str | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        return msgspec.json.decode(config, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidInput.field("config", f"must be a JSON object: {error}") from None


def _show(found: Tuned, metric: str) -> None:
    best, start = found.measured
    click.echo(
        f"{found.trials} trials ({found.resumed} of an earlier run, {found.failed} failed) in "
        f"{found.seconds:.0f} s; on the shoppers searched on {metric} "
        f"{found.search['start']:.4f} → {found.search['best']:.4f}"
    )
    for error in found.errors:
        click.echo(f"failed: {error}")
    cut = metric.partition("@")[2]
    shown = [f"{one}@{cut}" for one in ("hr", "recall", "ndcg", "mrr", "map", "revenue")]
    click.echo(f"on {len(best.values[metric])} shoppers that the search did not see:")
    click.echo(table([start, best], shown))
    click.echo(comparison("best", "start", metric, found.comparison))
    click.echo("best: " + (json.dumps(found.changed) if found.changed else "as it was"))


def _plain(found: Tuned, metric: str) -> dict[str, Any]:
    best, start = found.measured
    return {
        "metric": metric,
        "trials": found.trials,
        "failed": found.failed,
        "resumed": found.resumed,
        "seconds": found.seconds,
        "search": dict(found.search),
        "best": msgspec.to_builtins(found.best),
        "changed": dict(found.changed),
        "held": {
            "best": asdict(best.estimates[metric]),
            "start": asdict(start.estimates[metric]),
            "difference": asdict(found.comparison.difference),
            "p_value": found.comparison.p_value,
        },
    }
