"""Measures any strategy, through the contract, as it is served: fit, arrays, load, recommend."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from app.domain import metrics
from app.domain.errors import VitrineError
from app.domain.metrics import Comparison, Estimate, Values
from app.services.evaluate_splits import Queries, Split
from vitrine_sdk import (
    EMPTY_HISTORY,
    Arrays,
    Config,
    Context,
    History,
    Model,
    Needs,
    Strategy,
    TrainingData,
)

IntArray = npt.NDArray[np.int32]

ACCURACY = ("hr", "recall", "ndcg", "mrr", "map", "revenue")
BEYOND = ("coverage", "novelty", "diversity", "intra_list_diversity", "popular_share")


class LeakError(VitrineError):
    """A strategy was about to learn from the future that it is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """A strategy and its configuration, or a chain of them: the next fills what is missing."""

    name: str
    chain: Sequence[tuple[Strategy[Any], Config]]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a contender answered."""

    name: str
    lists: IntArray  # q, K
    fit_seconds: float
    fit_cpu_seconds: float  # of all threads: what a busy machine does not stretch
    peak_mib: float  # of the process, up to the end of the fit
    recommend_microseconds: float  # mean a query, all of the chain
    recommend_cpu_microseconds: float
    artefact_mib: float


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A run's figures, by `metric@k`, and the values a query that they are the means of."""

    run: Run
    estimates: Mapping[str, Estimate]
    values: Mapping[str, Values] = field(repr=False)


def refuse_leak(made: Split) -> None:
    """No event that a strategy learns from may lie in the test period.

    Raises:
        LeakError: naming how many do, and the first.
    """
    events = made.train.events
    late = (events.time >= made.boundary) | (events.time >= made.asked[events.shopper])
    late |= events.time > made.train.now
    if late.any():
        row = int(np.flatnonzero(late)[0])
        raise LeakError(
            f"{int(late.sum())} training events are from the test period, the first at row {row} "
            f"(shopper {int(events.shopper[row])}, item {int(events.item[row])}): "
            "the figures would be worth nothing"
        )
    queries = made.queries
    future = queries.times >= np.repeat(queries.at, np.diff(queries.offsets))
    if future.any():
        raise LeakError(f"{int(future.sum())} events of histories are not before their request")


def run(
    contender: Contender, made: Split, k: int, *, exclude_seen: bool = False, seed: int = 0
) -> Run:
    """Fit on the split's training data and answer its queries.

    Args:
        k: length of the lists.
        exclude_seen: items of the shopper's history are left out, as a pod's setting does.

    Raises:
        LeakError: the training data hold events of the test period.
    """
    refuse_leak(made)
    began, began_cpu = time.perf_counter(), time.process_time()
    fitted = [
        (strategy, config, strategy.fit(made.train, config, seed))
        for strategy, config in contender.chain
    ]
    fit_seconds, fit_cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    items = len(made.train.items)
    models = [
        (strategy.load(_read_only(arrays), config, items), strategy.needs(config))
        for strategy, config, arrays in fitted
    ]
    lists = np.full((len(made.queries), k), -1, np.int32)
    began, began_cpu = time.perf_counter(), time.process_time()
    for query in range(len(made.queries)):
        _answer(models, made.queries, query, lists[query], exclude_seen=exclude_seen)
    mean = (time.perf_counter() - began) / max(len(made.queries), 1)
    mean_cpu = (time.process_time() - began_cpu) / max(len(made.queries), 1)
    size = sum(array.nbytes for _, _, arrays in fitted for array in arrays.values())
    return Run(
        name=contender.name,
        lists=lists,
        fit_seconds=fit_seconds,
        fit_cpu_seconds=fit_cpu,
        peak_mib=peak,
        recommend_microseconds=mean * 1e6,
        recommend_cpu_microseconds=mean_cpu * 1e6,
        artefact_mib=size / 2**20,
    )


def measure(made: Split, done: Run, cuts: Sequence[int], seed: int = 0) -> Measured:
    """All metrics of a run at each cut."""
    truth = made.queries.truth
    found = metrics.hits(done.lists, truth)
    sizes = truth.sizes
    values: dict[str, Values] = {}
    estimates: dict[str, Estimate] = {}
    items = made.train.items
    known = made.train.events.item
    popularity = np.bincount(known[known >= 0], minlength=len(items))
    kind = _kinds(made.train)
    for k in cuts:
        values[f"hr@{k}"] = metrics.hit_rate(found.found, k)
        values[f"recall@{k}"] = metrics.recall(found.found, sizes, k)
        values[f"ndcg@{k}"] = metrics.ndcg(found.found, sizes, k)
        values[f"mrr@{k}"] = metrics.mrr(found.found, k)
        values[f"map@{k}"] = metrics.average_precision(found.found, sizes, k)
        values[f"novelty@{k}"] = metrics.novelty(done.lists, popularity, k)
        if (kind >= 0).any():
            values[f"intra_list_diversity@{k}"] = metrics.intra_list_diversity(done.lists, kind, k)
        for name in list(values):
            if name.endswith(f"@{k}"):
                estimates[name] = metrics.bootstrap(values[name], seed)
        captured, total = metrics.revenue_captured(found, truth, k)
        if total.sum():
            # Its paired comparison is of money a query in units of the mean.
            values[f"revenue@{k}"] = captured / total.mean()
            estimates[f"revenue@{k}"] = metrics.bootstrap_ratio(captured, total, seed)
        for name, value in (
            ("coverage", metrics.coverage(done.lists, len(items), k)),
            ("diversity", metrics.diversity(done.lists, k)),
            ("popular_share", metrics.popular_share(done.lists, popularity, k)),
        ):
            estimates[f"{name}@{k}"] = Estimate(value, value, value)
    return Measured(done, estimates, values)


def compare(one: Measured, other: Measured, metric: str, seed: int = 0) -> Comparison:
    """Paired, on the same queries: positive where `one` is better."""
    return metrics.compare(one.values[metric], other.values[metric], seed)


def shuffled(made: Split, seed: int = 0) -> Split:
    """The same split with the training events' items dealt anew: popularity stays, everything else
    that could be learned is gone. A strategy that still beats popularity has seen the answers."""
    events = made.train.events
    dealt = np.random.default_rng(seed).permutation(events.item)
    return replace(made, train=replace(made.train, events=replace(events, item=dealt)))


def context_of(queries: Queries, query: int, needs: Needs) -> Context:
    """The request that a query stands for, as far as a model asks for it."""
    start, end = int(queries.offsets[query]), int(queries.offsets[query + 1])
    at = int(queries.at[query])
    history = EMPTY_HISTORY
    seeds = queries.items[start:start]
    if needs.history and end > start:
        stop = min(end, start + needs.history)
        history = History(
            queries.items[start:stop],
            queries.types[start:stop],
            (at - queries.times[start:stop]).astype(np.float32),
        )
    if needs.seeds:  # the page that the shopper is on: what they looked at last
        seeds = queries.items[start : min(end, start + 1)]
    return Context(now=at, seeds=seeds, history=history)


def _answer(
    models: Sequence[tuple[Model, Needs]],
    queries: Queries,
    query: int,
    place: IntArray,
    *,
    exclude_seen: bool,
) -> None:
    start, end = int(queries.offsets[query]), int(queries.offsets[query + 1])
    taken: set[int] = set()
    if exclude_seen:
        taken.update(queries.items[start:end].tolist())
    wanted, filled = len(place) + len(taken), 0
    for model, needs in models:
        answer = model.recommend(context_of(queries, query, needs), wanted)
        for item in answer.items.tolist():
            if item not in taken:
                taken.add(item)
                place[filled] = item
                filled += 1
                if filled == len(place):
                    return


def _read_only(arrays: Arrays) -> Arrays:
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _kinds(data: TrainingData) -> IntArray:
    """The most specific group of each item: the last that it lists with the fewest items."""
    groups = data.items.groups
    n = len(data.items)
    sizes = np.bincount(groups.codes, minlength=max(len(groups.values), 1))
    owner = np.repeat(np.arange(n), np.diff(groups.offsets))
    order = np.lexsort((-sizes[groups.codes], owner))
    kind = np.full(n, -1, np.int32)
    kind[owner[order]] = groups.codes[order]  # the smallest comes last and stays
    return kind
