"""Judges a new configuration against the model that serves, on days that neither has seen.

What serves was fitted up to its watermark. The strategy is fitted once more up to there, as it and
the data are now, and both are asked what shoppers did from then on. So a worse configuration is
found out, and so is a worse catalogue or event log.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from app.domain.errors import InvalidInput
from app.domain.gate import Figure, Verdict, decide, unjudged
from app.domain.metrics import Estimate
from app.plugins.artefact_files import ITEMS_OFFSETS, ITEMS_UTF8, array_names, open_arrays
from app.plugins.fit_job import Against
from app.plugins.packed_strings import unpack_strings
from app.services.evaluate import Contender, compare, measure, run
from app.services.evaluate_formats import DAY, Log
from app.services.evaluate_splits import Split, split
from vitrine_sdk import (
    Arrays,
    Candidates,
    Config,
    Context,
    IntArray,
    Model,
    Needs,
    Strategy,
    TrainingData,
)

_PROTOCOL: Final = "time"


def judge(
    strategy: Strategy[Any],
    config: Config,
    published_config: Config,
    data: TrainingData,
    against: Against,
    seed: int,
) -> Verdict:
    """
    Args:
        data: all of it, up to now.
        published_config: what the version that serves was fitted with.

    Raises:
        Exception: whatever the strategy raises.
    """
    rule, watermark = against.rule, against.manifest.watermark
    known = {"against": against.number, "metric": rule.metric, "margin": rule.margin}
    if against.manifest.format != strategy.format:
        return unjudged("the version that serves has arrays of another format", **known)
    days = min((data.now - watermark) // DAY, rule.days)
    if days < 1:
        return unjudged("the version that serves is less than a day old", **known)
    try:
        made = split(Log(data), _PROTOCOL, "test", days)
    except InvalidInput:
        return unjudged("no known shopper did anything since", days=days, **known)
    shoppers = len(made.queries)
    if shoppers < rule.least:
        return unjudged(
            f"only {shoppers} known shoppers did anything since, and {rule.least} are needed",
            days=days,
            shoppers=shoppers,
            **known,
        )
    if shoppers > rule.most:
        rows = np.linspace(0, shoppers - 1, rule.most).astype(np.int64)
        made = dataclasses.replace(made, queries=made.queries.some(rows))
    return _compare(strategy, config, published_config, made, against, days, seed)


def _compare(
    strategy: Strategy[Any],
    config: Config,
    published_config: Config,
    made: Split,
    against: Against,
    days: int,
    seed: int,
) -> Verdict:
    rule = against.rule
    cut = int(rule.metric.partition("@")[2])
    serving = _Serving(strategy, against)
    candidate, published = (
        measure(made, run(contender, made, cut, seed=seed), [cut], seed)
        for contender in (
            Contender("candidate", [(strategy, config)]),
            Contender("published", [(cast("Strategy[Any]", serving), published_config)]),
        )
    )
    return decide(
        rule,
        _figure(candidate.estimates[rule.metric]),
        _figure(published.estimates[rule.metric]),
        _figure(compare(candidate, published, rule.metric, seed).difference),
        against=against.number,
        days=days,
        shoppers=len(made.queries),
    )


class _Serving:
    """The strategy with the arrays that serve in place of a fit."""

    def __init__(self, strategy: Strategy[Any], against: Against) -> None:
        self._strategy = strategy
        self._items = against.manifest.items
        arrays = open_arrays(Path(against.directory), array_names(against.manifest))
        self._ids = unpack_strings(arrays.pop(ITEMS_UTF8), arrays.pop(ITEMS_OFFSETS))
        self._arrays = arrays
        self._to_new = np.empty(0, np.int32)
        self._to_old = np.empty(0, np.int32)
        self.contract = strategy.contract
        self.format = strategy.format
        self.reasons = strategy.reasons

    @property
    def config(self) -> type[Config]:
        kind: type[Config] = self._strategy.config
        return kind

    def needs(self, config: Config) -> Needs:
        return self._strategy.needs(config)

    def fit(self, data: TrainingData, config: Config, seed: int) -> Arrays:  # noqa: ARG002
        positions = {item_id: position for position, item_id in enumerate(data.items.ids)}
        self._to_new = np.array([positions.get(item_id, -1) for item_id in self._ids], np.int32)
        self._to_old = np.full(len(data.items), -1, np.int32)
        still = np.flatnonzero(self._to_new >= 0)
        self._to_old[self._to_new[still]] = still
        return self._arrays

    def load(self, arrays: Arrays, config: Config, items: int) -> Model:  # noqa: ARG002
        model = self._strategy.load(arrays, config, self._items)
        return _Translated(model, self._to_new, self._to_old)


class _Translated:
    """A model asked by the positions of another catalogue than its own."""

    def __init__(self, model: Model, to_new: IntArray, to_old: IntArray) -> None:
        self._model = model
        self._to_new = to_new
        self._to_old = to_old

    def recommend(self, context: Context, limit: int) -> Candidates:
        seeds = self._to_old[context.seeds]
        items = self._to_old[context.history.items]
        known = items >= 0
        history = dataclasses.replace(
            context.history,
            items=items[known],
            types=context.history.types[known],
            ages=context.history.ages[known],
        )
        found = self._model.recommend(
            dataclasses.replace(context, seeds=seeds[seeds >= 0], history=history), limit
        )
        new = self._to_new[found.items]
        still = new >= 0
        return Candidates(new[still], found.scores[still], found.reasons[still])


def _figure(estimate: Estimate) -> Figure:
    mean, low, high = (
        round(float(value), 6) for value in (estimate.value, estimate.low, estimate.high)
    )
    return Figure(mean, low, high)
