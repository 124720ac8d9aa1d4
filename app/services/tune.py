"""Finds a configuration on the validation split: bounded, seeded, and resumable.

The test split is never looked at; what is learned from ends before the validation items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from app.domain.errors import InvalidInput, Unavailable
from app.services.evaluate import Contender, measure, run
from app.services.evaluate_splits import Split
from vitrine_sdk import Config, Strategy


@dataclass(frozen=True, slots=True)
class Range:
    """What one option may be: any of `choices`, or from `low` to `high`."""

    option: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    number: int
    value: float
    options: Mapping[str, Any]


def ranges(space: Sequence[str], kind: type[Config]) -> list[Range]:
    """`option=low:high` or `option=a|b|c` (JSON values), checked against the configuration.

    Raises:
        InvalidInput: an unknown option, or a range that does not parse or that the schema refuses.
    """
    made = []
    for text in space:
        option, equals, values = text.partition("=")
        if not equals or option not in kind.__struct_fields__:
            raise InvalidInput.field(
                "space", f"{text!r}: the options are {', '.join(kind.__struct_fields__)}"
            )
        try:
            low, colon, high = values.partition(":")
            if colon:
                bounds = [msgspec.json.decode(part) for part in (low, high)]
                whole = all(isinstance(bound, int) for bound in bounds)
                found = Range(option, float(bounds[0]), float(bounds[1]), whole)
            else:
                bounds = [msgspec.json.decode(part) for part in values.split("|")]
                found = Range(option, choices=tuple(bounds))
            for bound in bounds:
                msgspec.convert({option: bound}, kind)
        except (msgspec.DecodeError, msgspec.ValidationError, TypeError, ValueError) as error:
            raise InvalidInput.field("space", f"{text!r}: {error}") from None
        made.append(found)
    return made


def tune(
    strategy: Strategy[Any],
    fixed: Mapping[str, Any],
    space: Sequence[Range],
    made: Split,
    metric: str,
    *,
    trials: int,
    seed: int = 0,
    exclude_seen: bool = False,
    journal: Path | None = None,
    name: str = "tune",
    told: Callable[[Trial], None] = lambda _: None,
) -> Trial:
    """The best of `trials` configurations, the first of which is the defaults.

    Args:
        fixed: options that are not searched.
        made: a validation split.
        metric: such as "ndcg@10".
        journal: a file that keeps the trials; a tuning that was broken off goes on from there.
        told: called after each trial.

    Raises:
        Unavailable: optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise Unavailable("tuning needs optuna: pip install 'vitrine[evaluate]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    if journal is not None:
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(
        direction="maximize", storage=storage, study_name=name, load_if_exists=True
    )
    done = [trial for trial in study.trials if trial.state.is_finished()]
    # Seeded by how far it is: a resumed search draws what it would have drawn.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(done), n_startup_trials=8)
    cut = int(metric.partition("@")[2])
    if not done:
        study.enqueue_trial(_defaults(strategy, fixed, space))

    def objective(trial: Any) -> float:
        options = {one.option: _suggest(trial, one) for one in space}
        config = msgspec.convert({**fixed, **options}, strategy.config)
        contender = Contender(f"trial {trial.number}", [(strategy, config)])
        answered = run(contender, made, cut, exclude_seen=exclude_seen, seed=seed)
        value = measure(made, answered, [cut], seed).estimates[metric].value
        told(Trial(trial.number, value, options))
        return value

    study.optimize(objective, n_trials=max(trials - len(done), 0))
    best = study.best_trial
    return Trial(best.number, float(best.value), {**fixed, **best.params})


def _suggest(trial: Any, one: Range) -> Any:
    if one.choices:
        return trial.suggest_categorical(one.option, list(one.choices))
    if one.whole:
        return trial.suggest_int(one.option, int(one.low), int(one.high))
    return trial.suggest_float(one.option, one.low, one.high)


def _defaults(
    strategy: Strategy[Any], fixed: Mapping[str, Any], space: Sequence[Range]
) -> dict[str, Any]:
    """The defaults, as far as they lie in the space: what has to be beaten is tried first."""
    config = msgspec.convert(dict(fixed), strategy.config)
    found = {}
    for one in space:
        value = getattr(config, one.option)
        inside = value in one.choices if one.choices else isinstance(value, int | float)
        if inside and (one.choices or one.low <= value <= one.high):
            found[one.option] = value
    return found
