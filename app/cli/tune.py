"""`vitrine tune`: a strategy's configuration, found on a data set's validation split."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from app.cli.evaluate import column_pairs
from app.domain.errors import InvalidInput, VitrineError
from app.plugins.discovery import Strategies
from app.services.evaluate_formats import FORMATS, read
from app.services.evaluate_splits import PROTOCOLS, split
from app.services.tune import Trial, ranges, tune


def tune_command(strategies: Callable[[], Strategies]) -> click.Command:
    """The command; `strategies` finds those installed, when it is asked."""

    @click.command("tune")
    @click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
    @click.option("--format", "format_", required=True, type=click.Choice(sorted(FORMATS)))
    @click.option("--protocol", required=True, type=click.Choice(sorted(PROTOCOLS)))
    @click.option("--strategy", required=True)
    @click.option("--config", default="{}", help="Options that are not searched, as JSON.")
    @click.option("--space", multiple=True, required=True, help="option=low:high or option=a|b")
    @click.option("--metric", default="ndcg@10", show_default=True)
    @click.option("--trials", default=30, type=click.IntRange(1, 10_000), show_default=True)
    @click.option("--days", default=30, show_default=True)
    @click.option("--column", "columns", multiple=True)
    @click.option("--exclude-seen", is_flag=True)
    @click.option("--seed", default=0)
    @click.option("--journal", type=click.Path(path_type=Path), help="Keeps trials; resumes.")
    def command(
        paths: Sequence[Path],
        format_: str,
        protocol: str,
        strategy: str,
        config: str,
        space: Sequence[str],
        metric: str,
        trials: int,
        days: int,
        columns: Sequence[str],
        exclude_seen: bool,
        seed: int,
        journal: Path | None,
    ) -> None:
        """Search a strategy's options on the validation split and print the best as JSON."""
        try:
            found = strategies().get(strategy)
            if found is None:
                raise InvalidInput.field("strategy", f"{strategy!r} is not installed")
            usable = found.usable()
            fixed = json.loads(config)
            found.configuration(fixed)
            searched = ranges(space, usable.config)
            made = split(read(format_, paths, column_pairs(columns)), protocol, "validation", days)

            def told(trial: Trial) -> None:
                click.echo(f"{trial.number}: {metric} {trial.value:.4f} {dict(trial.options)}")

            best = tune(
                usable,
                fixed,
                searched,
                made,
                metric,
                trials=trials,
                seed=seed,
                exclude_seen=exclude_seen,
                journal=journal,
                name=f"{strategy} {metric} {' '.join(path.name for path in paths)}",
                told=told,
            )
            click.echo(json.dumps({"value": best.value, "config": best.options}))
        except json.JSONDecodeError as error:
            raise click.ClickException(f"config: no JSON: {error}") from None
        except VitrineError as error:
            raise click.ClickException(error.message) from None

    return command
