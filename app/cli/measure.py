"""`vitrine measure`: what the last seconds count, and what an objective brings and costs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from app.cli.evaluate import column_pairs, contender_of
from app.domain.errors import VitrineError
from app.domain.metrics import Estimate
from app.plugins.discovery import discover
from app.services.evaluate import Contender
from app.services.evaluate_formats import FORMATS, read
from app.services.evaluate_splits import PROTOCOLS, Split, split
from app.services.measure_objective import objectives
from app.services.measure_recency import recency


@click.group(epilog="Example: vitrine measure recency --help")
def measure() -> None:
    """Figures beside `vitrine evaluate`'s, by the same data sets and protocols."""


@dataclass(frozen=True)
class Measurement:
    """What is measured on what, as the options that both commands share say it."""

    split: Split
    strategy: str
    contender: Contender
    seed: int
    json_path: Path | None


def _measurement(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command its `Measurement`; what is wrong with the data is told, not raised."""

    @functools.wraps(command)
    def run(
        *,
        paths: Sequence[Path],
        format_: str,
        protocol: str,
        strategy: str,
        days: int,
        columns: Sequence[str],
        queries: int,
        seed: int,
        json_path: Path | None,
        **own: Any,
    ) -> None:
        try:
            made = split(read(format_, paths, column_pairs(columns)), protocol, "test", days)
            if len(made.queries) > queries:
                rows = np.random.default_rng(seed).permutation(len(made.queries))[:queries]
                made = replace(made, queries=made.queries.some(np.sort(rows)))
            contender = contender_of(strategy, discover())
            command(Measurement(made, strategy, contender, seed, json_path), **own)
        except VitrineError as error:
            raise click.ClickException(error.message) from None

    for option in reversed(
        (
            click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path)),
            click.option("--format", "format_", required=True, type=click.Choice(sorted(FORMATS))),
            click.option("--protocol", required=True, type=click.Choice(sorted(PROTOCOLS))),
            click.option("--strategy", required=True, help="As for `vitrine evaluate`."),
            click.option("--days", default=30, show_default=True, help="Length of the test."),
            click.option("--column", "columns", multiple=True, help="Ours=theirs, for tables."),
            click.option("--queries", default=5000, show_default=True, type=click.IntRange(1)),
            click.option("--seed", default=0),
            click.option("--json", "json_path", type=click.Path(path_type=Path)),
        )
    ):
        run = option(run)
    return run


@measure.command(
    "recency",
    epilog="Example: vitrine measure recency train.txt test.txt --format sessions "
    "--protocol next-click --strategy session",
)
@_measurement
@click.option("--metric", default="hr@20", show_default=True)
@click.option("--without", "events", multiple=True, type=click.IntRange(1), default=[1, 2, 5])
@click.option("--seconds", multiple=True, type=click.FloatRange(0), help="Repeatable.")
def recency_command(
    on: Measurement, metric: str, events: Sequence[int], seconds: Sequence[float]
) -> None:
    """How much worse the lists are when the shopper's newest events are not known yet."""
    whole, losses = recency(
        on.contender, on.split, metric, events=events, seconds=seconds, seed=on.seed
    )
    click.echo(f"{on.strategy}: {metric} {_interval(whole.estimates[metric])}, everything known")
    for loss in losses:
        click.echo(
            f"{loss.what}: {_interval(loss.measured.estimates[metric])}, "
            f"{_interval(loss.difference.difference)} lost ({loss.relative:.0%}); "
            f"{loss.queries} of {len(on.split.queries)} queries lose {loss.dropped:.1f} events "
            f"each, p = {loss.difference.p_value:.3f}"
        )
    if on.json_path is not None:
        rows = [
            {
                "what": loss.what,
                "value": asdict(loss.measured.estimates[metric]),
                "lost": asdict(loss.difference.difference),
                "relative": loss.relative,
                "queries": loss.queries,
            }
            for loss in losses
        ]
        _write(
            on.json_path, {"metric": metric, "all": asdict(whole.estimates[metric]), "rows": rows}
        )


@measure.command(
    "objective",
    epilog="Example: vitrine measure objective retail.parquet --format purchases "
    "--protocol next-basket --strategy 'personalized>popular'",
)
@_measurement
@click.option("--k", "cut", default=10, show_default=True, type=click.IntRange(1, 50))
@click.option("--shift", "shifts", multiple=True, type=click.FloatRange(0),
              default=[0.0, 0.25, float("inf")], help="Bound of the guard.")  # fmt: skip
@click.option("--calibration-days", default=30, show_default=True, type=click.IntRange(1))
def objective_command(
    on: Measurement, cut: int, shifts: Sequence[float], calibration_days: int
) -> None:
    """Order one chain's candidates by clicks, purchases and revenue, blended and guarded."""
    calibrations, outcomes = objectives(
        on.contender, on.split, cut, shifts, days=calibration_days, seed=on.seed
    )
    for (_, _), found in zip(on.contender.chain, calibrations, strict=True):
        assert found.purchases is not None  # noqa: S101  # else it is refused
        click.echo(
            f"calibrated by {found.purchases.of} on {found.shoppers} shoppers ({found.source}): "
            f"P(purchase) {found.purchases.probability[0]:.4f} to "
            f"{found.purchases.probability[-1]:.4f}"
        )
    for one in outcomes:
        click.echo(
            f"{one.name}: recall@{cut} {_interval(one.recall)}, revenue@{cut} "
            f"{_interval(one.revenue)} ({_interval(one.against_chain.difference)} of the chain's), "
            f"mean price {one.mean_price:.2f} ({one.price_shift:+.0%}), "
            f"dearest tenth {one.dearest:.0%} of places"
        )
    if on.json_path is not None:
        _write(on.json_path, {"k": cut, "rows": [asdict(one) for one in outcomes]})


def _interval(found: Estimate) -> str:
    return f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
