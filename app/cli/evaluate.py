"""`vitrine evaluate`: any strategy or chain on any data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import click

from app.domain.errors import InvalidInput, VitrineError
from app.plugins.discovery import Strategies, discover
from app.services.evaluate import (
    ACCURACY,
    BEYOND,
    Contender,
    compare,
    measure,
    run,
    shuffled,
)
from app.services.evaluate_formats import FORMATS, read
from app.services.evaluate_report import as_json, comparison, plot, table
from app.services.evaluate_splits import PROTOCOLS, Part, split


def evaluate_command(strategies: Callable[[], Strategies]) -> click.Command:
    """The command; `strategies` finds those installed, when it is asked."""

    @click.command("evaluate")
    @click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
    @click.option("--format", "format_", required=True, type=click.Choice(sorted(FORMATS)))
    @click.option("--protocol", required=True, type=click.Choice(sorted(PROTOCOLS)))
    @click.option(
        "--strategy",
        "wanted",
        multiple=True,
        required=True,
        help='Repeatable: name, name={"option": value}, or a chain a>b that fills up with b.',
    )
    @click.option("--split", "part", default="test", type=click.Choice(["test", "validation"]))
    @click.option("--k", "cuts", multiple=True, type=click.IntRange(1, 1000), default=[10, 20])
    @click.option("--days", default=30, show_default=True, help="Length of a period under test.")
    @click.option("--column", "columns", multiple=True, help="Ours=theirs, for tables.")
    @click.option("--exclude-seen", is_flag=True, help="Leave out what the shopper had before.")
    @click.option("--shuffle", is_flag=True, help="Deal the training items anew: all should fail.")
    @click.option("--compare", "metric", help="Paired comparison of the first run with each other.")
    @click.option("--all-metrics", is_flag=True)
    @click.option("--seed", default=0)
    @click.option("--json", "json_path", type=click.Path(path_type=Path))
    @click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="A PNG.")
    def evaluate(
        paths: Sequence[Path],
        format_: str,
        protocol: str,
        wanted: Sequence[str],
        part: str,
        cuts: Sequence[int],
        days: int,
        columns: Sequence[str],
        exclude_seen: bool,
        shuffle: bool,
        metric: str | None,
        all_metrics: bool,
        seed: int,
        json_path: Path | None,
        plot_path: Path | None,
    ) -> None:
        """Measure strategies on a data set, through the contract, as they are served.

        \b
        vitrine evaluate Beauty.txt --format sequences --protocol leave-one-out \\
            --strategy 'personalized>popular' --strategy popular --exclude-seen
        """
        try:
            installed = strategies()
            contenders = [contender_of(text, installed) for text in wanted]
            log = read(format_, paths, column_pairs(columns))
            made = split(log, protocol, cast("Part", part), days)
            if shuffle:
                made = shuffled(made, seed)
            click.echo(
                f"{len(made.train.items)} items, {len(made.train.events)} training events, "
                f"{len(made.queries)} queries ({part})",
                err=True,
            )
            measured = []
            for contender in contenders:
                done = run(contender, made, max(cuts), exclude_seen=exclude_seen, seed=seed)
                measured.append(measure(made, done, sorted(cuts), seed))
                click.echo(f"{contender.name}: fitted in {done.fit_seconds:.1f} s", err=True)
            names = (*ACCURACY, *BEYOND) if all_metrics else ACCURACY
            shown = [f"{name}@{k}" for k in sorted(cuts) for name in names]
            click.echo(table(measured, shown))
            if metric is not None:
                _known_metric(metric, shown)
                for other in measured[1:]:
                    found = compare(measured[0], other, metric, seed)
                    click.echo(comparison(measured[0].run.name, other.run.name, metric, found))
            about = {
                "data": [path.name for path in paths],
                "format": format_,
                "protocol": protocol,
                "split": part,
                "exclude_seen": exclude_seen,
                "shuffled": shuffle,
                "seed": seed,
                "queries": len(made.queries),
            }
            if json_path is not None:
                json_path.write_text(json.dumps(as_json(measured, about), indent=1) + "\n")
            if plot_path is not None:
                plot(measured, shown, plot_path)
        except VitrineError as error:
            raise click.ClickException(error.message) from None

    return evaluate


def contender_of(text: str, installed: Strategies) -> Contender:
    """`name`, `name={"json": 1}` or a chain of them, joined by ">"."""
    chain = []
    for link in text.split(">"):
        name, has_config, config = link.strip().partition("=")
        found = installed.get(name)
        if found is None:
            names = ", ".join(one.name for one in installed)
            raise InvalidInput.field("strategy", f"{name!r} is not installed; there are: {names}")
        values: Any = {}
        if has_config:
            try:
                values = json.loads(config)
            except json.JSONDecodeError as error:
                raise InvalidInput.field("strategy", f"{config!r} is no JSON: {error}") from None
        chain.append((found.usable(), found.configuration(values)))
    return Contender(text, chain)


def column_pairs(columns: Sequence[str]) -> dict[str, str]:
    """`ours=theirs`, as many as there are.

    Raises:
        InvalidInput: one without "=".
    """
    pairs = {}
    for column in columns:
        ours, equals, theirs = column.partition("=")
        if not equals:
            raise InvalidInput.field("column", f"{column!r} must be ours=theirs")
        pairs[ours] = theirs
    return pairs


def _known_metric(metric: str, shown: Sequence[str]) -> None:
    if metric not in shown:
        raise InvalidInput.field("compare", f"must be one of {', '.join(shown)}")


evaluate: Final = evaluate_command(discover)
