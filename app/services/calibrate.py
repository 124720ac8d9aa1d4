"""Calibration: what a strategy's scores mean, found on the newest days that it was not fitted on.

The strategy is fitted on what came before and asked, for the shoppers of those days, what it would
show them. Where the shop records impressions, only what shoppers were really shown counts, and the
curves are of the chance to be chosen when shown; else all that it would have shown, and they are of
the chance that a shopper who came back chose it in those days, shown or not. Strategies that were
calibrated on the same shop can be compared by either; the first is the one to multiply with money.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from app.domain.errors import InvalidInput
from app.domain.objective import Calibration, best_curve
from app.services.evaluate import context_of, refuse_leak
from app.services.evaluate_formats import Log
from app.services.evaluate_splits import Queries, Split, split
from vitrine_sdk import Config, Events, EventType, Model, Needs, Strategy, TrainingData

DAYS: Final = 7
SHOPPERS: Final = 2000
DEPTH: Final = 50
"""So many candidates a shopper: what a list and its overfetch may reach."""

_OPENED: Final = (EventType.VIEW, EventType.CLICK, EventType.CART, EventType.PURCHASE)

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Candidates of all queries, one after another."""

    query: npt.NDArray[np.int64]
    item: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    rank: npt.NDArray[np.int64]


def calibrate(
    strategy: Strategy[Any],
    config: Config,
    data: TrainingData,
    seed: int = 0,
    *,
    days: int = DAYS,
    most: int = SHOPPERS,
) -> Calibration | None:
    """
    Args:
        data: all of it; the newest `days` are set aside and asked for.
        most: shoppers, at most.

    Returns:
        None where no known shopper did anything in those days.

    Raises:
        Exception: whatever the strategy raises.
    """
    try:
        made = split(Log(data), "time", "test", days)
    except InvalidInput:
        return None
    if len(made.queries) > most:
        rows = np.linspace(0, len(made.queries) - 1, most).astype(np.int64)
        made = replace(made, queries=made.queries.some(rows))
    refuse_leak(made)
    arrays = strategy.fit(made.train, config, seed)
    model = strategy.load(arrays, config, len(data.items))
    asked = candidates(model, strategy.needs(config), made.queries)
    return calibrated(asked, made, data.events, days)


def candidates(model: Model, needs: Needs, queries: Queries, depth: int = DEPTH) -> Asked:
    """What the model would show, best first."""
    answers = [
        model.recommend(context_of(queries, query, needs), depth) for query in range(len(queries))
    ]
    sizes = np.array([len(answer) for answer in answers], np.int64)
    starts = np.cumsum(sizes) - sizes
    return Asked(
        query=np.repeat(np.arange(len(answers)), sizes),
        item=np.concatenate([answer.items for answer in answers]),
        score=np.concatenate([answer.scores for answer in answers]),
        rank=np.arange(int(sizes.sum())) - np.repeat(starts, sizes),
    )


def calibrated(asked: Asked, made: Split, events: Events, days: int) -> Calibration:
    """Curves from candidates and what their shoppers did from the split's boundary on."""
    late = (events.time >= made.boundary) & (events.item >= 0)
    clicked = _did(asked, made.queries, events, late & np.isin(events.type, _OPENED))
    purchased = _did(asked, made.queries, events, late & (events.type == EventType.PURCHASE))
    shown = _did(asked, made.queries, events, late & (events.type == EventType.IMPRESSION))
    # Some chance meetings of candidates with what else was shown tell too little.
    by_impressions = int((shown & clicked).sum()) >= 100
    used = shown if by_impressions else np.ones(len(asked.item), np.bool_)
    scores, ranks = asked.score[used], asked.rank[used]
    # Whole shoppers judge: every other one.
    held = asked.query[used] % 2 == 1
    return Calibration(
        clicks=best_curve(scores, ranks, clicked[used], held) if used.any() else None,
        purchases=best_curve(scores, ranks, purchased[used], held) if used.any() else None,
        source="impressions" if by_impressions else "held_out",
        days=days,
        shoppers=len(made.queries),
        clicked=float(clicked[used].mean()) if used.any() else 0.0,
        purchased=float(purchased[used].mean()) if used.any() else 0.0,
    )


def _did(asked: Asked, queries: Queries, events: Events, which: Flags) -> Flags:
    """Of which candidates the shopper has such an event."""
    width = max(int(events.item.max(initial=0)), int(asked.item.max(initial=0))) + 1
    did = np.unique(events.shopper[which].astype(np.int64) * width + events.item[which])
    pairs = queries.shopper[asked.query].astype(np.int64) * width + asked.item
    if not len(did):
        return np.zeros(len(pairs), np.bool_)
    at = np.minimum(np.searchsorted(did, pairs), len(did) - 1)
    found: Flags = did[at] == pairs
    return found
