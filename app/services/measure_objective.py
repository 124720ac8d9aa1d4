"""What an objective brings and what it costs: the same candidates, ordered by each objective.

Calibrated on the newest days of what is learned from, and measured on the test period, which
neither the models nor their calibration have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.domain import metrics
from app.domain.errors import InvalidInput
from app.domain.metrics import Comparison, Estimate
from app.domain.objective import ByValue, Calibration, Objective
from app.domain.selection import Pool
from app.services.calibrate import DEPTH, calibrate
from app.services.evaluate import Contender, context_of, refuse_leak
from app.services.evaluate_splits import Split
from vitrine_sdk import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One way of ordering."""

    name: str
    recall: Estimate
    revenue: Estimate  # captured, of all that the shoppers spent
    mean_price: float  # of what is shown, where known
    price_shift: float  # over the list ordered by purchases
    dearest: float  # share of the places that the dearest tenth of the catalogue takes
    against_chain: Comparison  # revenue a query, in units of the mean, over the chain's own order


def objectives(
    contender: Contender,
    made: Split,
    cut: int,
    shifts: Sequence[float],
    *,
    days: int,
    seed: int = 0,
) -> tuple[Sequence[Calibration], Sequence[Outcome]]:
    """
    Args:
        made: a test split with prices.
        shifts: bounds of the guard that are tried with revenue.
        days: newest ones of the training data, for the calibration.

    Raises:
        InvalidInput: there are no prices, or too little to calibrate by.
    """
    refuse_leak(made)
    items = made.train.items
    if not np.isfinite(items.price).any():
        raise InvalidInput.field("column", "no item has a price: name its column, price=theirs")
    calibrations = []
    models = []
    for strategy, config in contender.chain:
        found = calibrate(strategy, config, made.train, seed, days=days)
        if found is None or found.purchases is None or found.clicks is None:
            raise InvalidInput("too few were chosen in the newest days to calibrate by: more days?")
        calibrations.append(found)
        arrays = strategy.fit(made.train, config, seed)
        models.append((strategy.load(arrays, config, len(items)), strategy.needs(config)))
    pools = [_pool(models, made, query) for query in range(len(made.queries))]
    chain = _lists(pools, None, cut)
    orders = {"the chain's own": chain}
    kinds = [(Objective.CLICKS, 0.0), (Objective.PURCHASES, 0.0)]
    kinds += [(Objective.REVENUE, shift) for shift in shifts]
    for objective, shift in kinds:
        curves = [one.curve(objective) for one in calibrations]
        by_value = ByValue(objective, curves, items, True, shift)
        name = objective.value
        if objective is Objective.REVENUE:
            name += f", {shift:+.0%} at most" if np.isfinite(shift) else ", no guard"
        orders[name] = _lists(pools, by_value, cut)
    plain = _mean_price(orders["purchases"], items.price)
    return calibrations, [
        _outcome(name, lists, chain, made, cut, plain, seed) for name, lists in orders.items()
    ]


def _pool(models: Sequence[tuple[Any, Any]], made: Split, query: int) -> Pool:
    parts = []
    taken: set[int] = set()
    for source, (model, needs) in enumerate(models):
        answer = model.recommend(context_of(made.queries, query, needs), DEPTH)
        fresh = np.array([item not in taken for item in answer.items.tolist()], np.bool_)
        taken.update(answer.items.tolist())
        rows = answer.items[fresh]
        sources = np.full(len(rows), source, np.uint8)
        parts.append((rows, answer.scores[fresh], sources, answer.reasons[fresh]))
    rows, scores, sources, reasons = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pool(rows, scores, sources, reasons)


def _lists(pools: Sequence[Pool], by_value: ByValue | None, cut: int) -> IntArray:
    lists = np.full((len(pools), cut), -1, np.int32)
    for query, pool in enumerate(pools):
        rows = (pool if by_value is None else by_value(pool, cut)).rows[:cut]
        lists[query, : len(rows)] = rows
    return lists


def _mean_price(lists: IntArray, price: Any) -> float:
    shown = price[lists[lists >= 0]]
    return float(np.nanmean(shown)) if np.isfinite(shown).any() else 0.0


def _outcome(
    name: str, lists: IntArray, chain: IntArray, made: Split, cut: int, plain: float, seed: int
) -> Outcome:
    truth, price = made.queries.truth, made.train.items.price
    found = metrics.hits(lists, truth)
    captured, total = metrics.revenue_captured(found, truth, cut)
    before, _ = metrics.revenue_captured(metrics.hits(chain, truth), truth, cut)
    unit = total.mean() or 1.0
    mean = _mean_price(lists, price)
    dear = np.nan_to_num(price, nan=-1.0) >= np.nanquantile(price, 0.9)
    return Outcome(
        name=name,
        recall=metrics.bootstrap(metrics.recall(found.found, truth.sizes, cut), seed),
        revenue=metrics.bootstrap_ratio(captured, total, seed),
        mean_price=mean,
        price_shift=mean / plain - 1 if plain else 0.0,
        dearest=float(dear[lists[lists >= 0]].mean()) if (lists >= 0).any() else 0.0,
        against_chain=metrics.compare(captured / unit, before / unit, seed),
    )
