"""Tuning: a strategy's configuration is searched for on the newest part of what may be learned
from, never on a test split.

The queries of the validation split are dealt into two halves. The search sees one; what is
reported of the best configuration, paired with the start, is measured on the other, for the best
of many trials looks better than it is on the queries that chose it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from app.domain.errors import InvalidInput, Unavailable
from app.domain.metrics import Comparison
from app.domain.strategy import InstalledStrategy
from app.services.evaluate import Contender, Measured, compare, measure, run
from app.services.evaluate_splits import Split
from app.services.tuning_space import Dimension
from vitrine_sdk import Config

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a search ends, whichever comes first."""

    trials: int = 40  # in the study, those of earlier runs included
    seconds: float = 600.0  # of this run; the trial that is going on is ended in peace
    queries: int = 2000  # asked a trial, at most; as many decide


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What a search found."""

    best: Config
    changed: Mapping[str, Any]  # fields of `best` that differ from the start
    trials: int  # in the study, all that were done
    failed: int  # those of them that raised
    resumed: int  # those that an earlier run had done
    seconds: float
    search: Mapping[str, float]  # best and start, on the half that was searched
    measured: tuple[Measured, Measured]  # best and start, on the half that was not
    comparison: Comparison  # best - start, on the half that was not
    errors: Sequence[str] = ()  # why trials of this run failed, each reason once


def halves(made: Split, most: int, seed: int) -> tuple[Split, Split]:
    """The same training data, with the queries dealt in two, `most` in each at the most."""
    rows = np.random.default_rng(seed).permutation(len(made.queries))
    middle = len(rows) // 2
    if not middle:
        raise InvalidInput("there are too few shoppers to tune on: two are needed, at least")
    one, other = (
        replace(made, queries=made.queries.some(np.sort(part[:most])))
        for part in (rows[:middle], rows[middle:])
    )
    return one, other


def tune(
    strategy: InstalledStrategy,
    start: Config,
    dimensions: Sequence[Dimension],
    made: Split,
    metric: str,
    studies: Path,
    *,
    bounds: Bounds,
    exclude_seen: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Search by Optuna's TPE sampler (Bergstra et al., 2011).

    Every finished trial is in a file below `studies`: the same call goes on where an earlier one
    ended, and comes to what one that was never interrupted comes to.

    Args:
        made: a validation split; what it asks is dealt in two.
        metric: `name@k` of `app.services.evaluate`, to be raised.

    Raises:
        InvalidInput: there is no such metric for these data.
        Unavailable: optuna is not installed.
    """
    cut = _cut(metric)
    searched, held = halves(made, bounds.queries, seed)
    usable = strategy.usable()

    def measured(config: Config, part: Split, name: str) -> Measured:
        contender = Contender(name, [(usable, config)])
        done = run(contender, part, cut, exclude_seen=exclude_seen, seed=seed)
        found = measure(part, done, [cut], seed)
        if metric not in found.values:
            known = ", ".join(sorted(found.values))
            raise InvalidInput.field("metric", f"must be one of {known} for these data")
        return found

    began = time.monotonic()
    at_start = measured(start, searched, "start").estimates[metric].value
    progress(f"start: {metric} {at_start:.4f}")
    question = {
        "strategy": [strategy.name, strategy.version],
        "start": msgspec.to_builtins(start),
        "space": [repr(one) for one in dimensions],
        "data": _fingerprint(searched),
        "metric": metric,
        "seed": seed,
        "exclude_seen": exclude_seen,
    }
    study = _study(studies, strategy.name, question)
    resumed = _done(study)
    if not resumed:
        _begin_with(study, dimensions, start, at_start)
    errors: dict[str, None] = {}
    while (number := _done(study)) < bounds.trials and time.monotonic() - began < bounds.seconds:
        _sampled_for(study, seed, number)
        trial = study.ask()
        values = {one.name: one.suggest(trial) for one in dimensions}
        try:
            config = strategy.configuration({**msgspec.to_builtins(start), **values})
            value = measured(config, searched, "trial").estimates[metric].value
        except Exception as error:  # noqa: BLE001  # a strategy's own trouble with these values
            first = next(iter(str(error).splitlines()), "")
            errors[f"{type(error).__name__}: {first}"[:200]] = None
            _tell_failed(study, trial)
            progress(f"trial {number + 1}: failed, {type(error).__name__}")
        else:
            study.tell(trial, value)
            progress(f"trial {number + 1}: {metric} {value:.4f}, best {study.best_value:.4f}")
    chosen, value = start, at_start
    succeeded = _succeeded(study)
    if succeeded and study.best_value > at_start:
        chosen = strategy.configuration({**msgspec.to_builtins(start), **study.best_params})
        value = study.best_value
    seconds = time.monotonic() - began
    best, before = measured(chosen, held, "best"), measured(start, held, "start")
    return Tuned(
        best=chosen,
        changed=changes(start, chosen),
        trials=_done(study),
        failed=_done(study) - succeeded,
        resumed=resumed,
        seconds=seconds,
        search={"best": value, "start": at_start},
        measured=(best, before),
        comparison=compare(best, before, metric, seed),
        errors=tuple(errors),
    )


def changes(start: Config, other: Config) -> dict[str, Any]:
    """The fields of `other` that differ, with its values."""
    before, after = msgspec.to_builtins(start), msgspec.to_builtins(other)
    return {name: value for name, value in after.items() if before[name] != value}


def _cut(metric: str) -> int:
    _, at, cut = metric.partition("@")
    if not at or not cut.isdigit() or not 1 <= int(cut) <= 1000:
        raise InvalidInput.field("metric", f"{metric!r} must be a name and a length, as ndcg@20")
    return int(cut)


def _study(studies: Path, strategy: str, question: Mapping[str, Any]) -> Study:
    """The study of exactly this question: anything else about it, and it is another study."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise Unavailable("tuning needs optuna: pip install 'vitrine[evaluate]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    text = json.dumps(question, sort_keys=True, default=str)
    name = f"{strategy}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    studies.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(studies / f"{name}.journal")))
    return optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True
    )


def _fingerprint(made: Split) -> str:
    digest = hashlib.sha256()
    events, queries = made.train.events, made.queries
    learned = (events.shopper, events.item, events.type, events.time, events.revenue)
    truth = queries.truth
    for column in (*learned, queries.at, queries.offsets, truth.offsets, truth.items):
        digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    return digest.hexdigest()


def _sampled_for(study: Study, seed: int, number: int) -> None:
    """A sampler a trial: what it draws depends on the trials before and its number alone, not on
    which run of the command it is in."""
    from optuna.samplers import TPESampler

    study.sampler = TPESampler(seed=seed * 100_003 + number, n_startup_trials=8)


def _done(study: Study) -> int:
    """Trials that came to an end. One that a killed run left open is none."""
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _succeeded(study: Study) -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _tell_failed(study: Study, trial: Trial) -> None:
    from optuna.trial import TrialState

    study.tell(trial, state=TrialState.FAIL)


def _begin_with(study: Study, dimensions: Sequence[Dimension], start: Config, value: float) -> None:
    """The start is the first trial, where the search space holds it."""
    from optuna.trial import create_trial

    params = {one.name: getattr(start, one.name) for one in dimensions}
    if all(one.holds(params[one.name]) for one in dimensions):
        study.add_trial(
            create_trial(
                params=params,
                distributions={one.name: one.distribution() for one in dimensions},
                value=value,
            )
        )
