"""How much the last moments count: the same queries with and without the newest events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from app.domain.metrics import Comparison
from app.services.evaluate import Contender, Measured, compare, measure, run
from app.services.evaluate_splits import Queries, Split
from vitrine_sdk import Arrays, Config, Model, Needs, Strategy, TrainingData


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """What goes when the newest events are not known yet."""

    what: str
    dropped: float  # events a query, mean
    queries: int  # that lose any
    measured: Measured
    difference: Comparison  # all known - these not, on all queries
    relative: float  # of the figure with all known


def without_latest(queries: Queries, events: int) -> Queries:
    """The same requests by shoppers whose newest `events` have not arrived yet."""
    place = np.arange(len(queries.items)) - np.repeat(
        queries.offsets[:-1], np.diff(queries.offsets)
    )
    return _kept(queries, place >= events)


def without_last_seconds(queries: Queries, seconds: float) -> Queries:
    """The same requests where what happened in the last `seconds` has not arrived yet."""
    age = np.repeat(queries.at, np.diff(queries.offsets)) - queries.times
    return _kept(queries, age >= seconds)


def _kept(queries: Queries, keep: npt.NDArray[np.bool_]) -> Queries:
    counted = np.concatenate(([0], np.cumsum(keep)))
    return replace(
        queries,
        offsets=counted[queries.offsets].astype(np.int64),
        items=queries.items[keep],
        types=queries.types[keep],
        times=queries.times[keep],
    )


def recency(
    contender: Contender,
    made: Split,
    metric: str,
    *,
    events: Sequence[int] = (1, 2, 5),
    seconds: Sequence[float] = (),
    exclude_seen: bool = False,
    seed: int = 0,
) -> tuple[Measured, Sequence[Loss]]:
    """The figure with everything known, and what is lost without the newest events. Fitted once:
    what is learned from is the same throughout.

    Args:
        metric: `name@k` of a metric that `app.services.evaluate.measure` gives.
    """
    cut = int(metric.partition("@")[2])
    chain = [
        (cast("Strategy[Any]", _Once(strategy)), config) for strategy, config in contender.chain
    ]
    once = Contender(contender.name, chain)

    def measured(queries: Queries, name: str) -> Measured:
        part = replace(made, queries=queries)
        done = run(replace(once, name=name), part, cut, exclude_seen=exclude_seen, seed=seed)
        return measure(part, done, [cut], seed)

    whole = measured(made.queries, contender.name)
    losses = []
    asked = [(f"without the last {n}", without_latest(made.queries, n)) for n in events]
    asked += [(f"without the last {s:g} s", without_last_seconds(made.queries, s)) for s in seconds]
    for what, queries in asked:
        found = measured(queries, what)
        lost = np.diff(made.queries.offsets) - np.diff(queries.offsets)
        difference = compare(whole, found, metric, seed)
        all_known = whole.estimates[metric].value
        losses.append(
            Loss(
                what=what,
                dropped=float(lost.mean()),
                queries=int((lost > 0).sum()),
                measured=found,
                difference=difference,
                relative=difference.difference.value / all_known if all_known else 0.0,
            )
        )
    return whole, losses


class _Once:
    """A strategy that is fitted once, whoever asks again."""

    def __init__(self, strategy: Strategy[Any]) -> None:
        self._strategy = strategy
        self._arrays: Arrays | None = None
        self.contract = strategy.contract
        self.format = strategy.format
        self.reasons = strategy.reasons

    @property
    def config(self) -> type[Config]:
        kind: type[Config] = self._strategy.config
        return kind

    def needs(self, config: Config) -> Needs:
        return self._strategy.needs(config)

    def fit(self, data: TrainingData, config: Config, seed: int) -> Arrays:
        if self._arrays is None:
            self._arrays = self._strategy.fit(data, config, seed)
        return self._arrays

    def load(self, arrays: Arrays, config: Config, items: int) -> Model:
        return self._strategy.load(arrays, config, items)
