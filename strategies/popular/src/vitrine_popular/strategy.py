"""Popularity with event weights, a window and a half-life; trending as growth between windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from vitrine_sdk import (
    NO_CANDIDATES,
    Arrays,
    Candidates,
    Config,
    Context,
    Events,
    EventType,
    FloatArray,
    IntArray,
    Needs,
    TrainingData,
)
from vitrine_sdk.neighbours import checked
from vitrine_sdk.ranking import first_eligible

DAY = 86_400

Weight = Annotated[float, msgspec.Meta(ge=0, le=1000)]
Days = Annotated[float, msgspec.Meta(gt=0, le=3650)]


class PopularConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What counts, for how long. By category comes by itself: the request's filters choose."""

    rank: Literal["popular", "trending"] = "popular"
    """popular: the weighted count. trending: growth against the window before, then popular."""
    view: Weight = 1.0
    click: Weight = 1.0
    cart: Weight = 3.0
    purchase: Weight = 5.0
    search: Weight = 0.5
    conversion: Weight = 2.0
    window_days: Days = 28.0
    """Events older than this only order what has none in the window."""
    half_life_days: Days = 14.0
    """An event this old counts half."""
    by_revenue: bool = False
    """Purchases weigh by the money they brought, in units of the mean purchase."""
    new_items: bool = True
    """Items without any event come last, the newest first, so that a new shop has a list."""


@dataclass(frozen=True, slots=True, eq=False)
class PopularModel:
    """All items that may be shown, best first."""

    order: IntArray
    scores: FloatArray
    reasons: npt.NDArray[np.uint8]

    def recommend(self, context: Context, limit: int) -> Candidates:
        if not len(self.order):
            return NO_CANDIDATES
        chosen = first_eligible(self.order, context.eligible, limit)
        return Candidates(self.order[chosen], self.scores[chosen], self.reasons[chosen])


class Popular:
    """Counts each shopper at most once an item, event type and day: nobody makes a best seller
    by reloading a page."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("popular", "trending", "new")

    @property
    def config(self) -> type[PopularConfig]:
        return PopularConfig

    def needs(self, config: PopularConfig) -> Needs:  # noqa: ARG002 - the contract's signature
        return Needs(eligible=True)

    def fit(self, data: TrainingData, config: PopularConfig, seed: int) -> Arrays:  # noqa: ARG002
        n = len(data.items)
        item, weight, age = _counted(data.events, config, data.now)
        window = config.window_days
        inside = age < window
        decayed = weight * np.exp2(-age / config.half_life_days)
        recent = np.bincount(item[inside], decayed[inside], minlength=n)
        older = np.bincount(item[~inside], decayed[~inside], minlength=n)
        created = data.items.created.astype(np.float64)

        blocks: list[tuple[npt.NDArray[Any], int]] = []
        if config.rank == "trending":
            blocks.append((_growth(item, weight, age, window, n), 1))
        blocks += [(recent, 0), (older, 0)]
        if config.new_items:
            # Newest first among those that nobody has touched; rank, because time is no score.
            untouched = (recent + older) == 0
            rank = np.empty(n)
            rank[np.lexsort((-np.arange(n), created))] = np.arange(1, n + 1)
            blocks.append((np.where(untouched, rank, 0.0), 2))
        order, scores, reasons = _stacked(blocks, n)
        return {"order": order, "scores": scores, "reasons": reasons}

    def load(self, arrays: Arrays, config: PopularConfig, items: int) -> PopularModel:  # noqa: ARG002
        order = arrays.get("order")
        if order is None or order.ndim != 1 or len(order) > items:
            raise ValueError(f"array 'order' must be there, with at most {items} entries")
        return PopularModel(
            checked(arrays, "order", np.int32, len(order)),
            checked(arrays, "scores", np.float32, len(order)),
            checked(arrays, "reasons", np.uint8, len(order)),
        )


def _counted(
    events: Events, config: PopularConfig, now: int
) -> tuple[IntArray, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Item, weight and age in days of the events that count."""
    table = np.zeros(128)
    table[EventType.VIEW] = config.view
    table[EventType.CLICK] = config.click
    table[EventType.CART] = config.cart
    table[EventType.PURCHASE] = config.purchase
    table[EventType.SEARCH] = config.search
    table[EventType.CONVERSION] = config.conversion
    rows = np.flatnonzero((events.item >= 0) & (table[events.type] > 0))
    item, kind = events.item[rows].astype(np.int64), events.type[rows].astype(np.int64)
    day = (now - events.time[rows]) // DAY
    key = ((events.shopper[rows].astype(np.int64) << 31) + item << 3) + kind
    order = np.lexsort((rows, day, key))
    changed = (np.diff(key[order]) != 0) | (np.diff(day[order]) != 0)
    first = order[np.concatenate(([True], changed))] if len(order) else order
    rows = rows[np.sort(first)]
    weight = table[events.type[rows]]
    if config.by_revenue:
        revenue = events.revenue[rows].astype(np.float64)
        paid = revenue > 0
        if paid.any():
            weight = np.where(paid, weight * revenue / revenue[paid].mean(), weight)
    age = np.maximum(now - events.time[rows], 0) / DAY
    return events.item[rows], weight, age


def _growth(
    item: IntArray,
    weight: npt.NDArray[np.float64],
    age: npt.NDArray[np.float64],
    window: float,
    n: int,
) -> npt.NDArray[np.float64]:
    """How surely an item grows: the difference of the two windows in units of its own noise."""
    now = np.bincount(item[age < window], weight[age < window], minlength=n)
    earlier = (age >= window) & (age < 2 * window)
    before = np.bincount(item[earlier], weight[earlier], minlength=n)
    # The shop's own growth or decline is no trend of the item.
    if before.sum() > 0 and now.sum() > 0:
        before = before * (now.sum() / before.sum())
    mean = now.sum() / max(np.count_nonzero(now), 1)
    growth = (now - before) / np.sqrt(now + before + mean + 1e-9)
    return np.where(now > 0, np.maximum(growth, 0), 0)


def _stacked(
    blocks: list[tuple[npt.NDArray[Any], int]], n: int
) -> tuple[IntArray, FloatArray, npt.NDArray[np.uint8]]:
    """One list out of several rankings, the first block's items first, each item once. A later
    block's scores are scaled to stay below the block before."""
    taken = np.zeros(n, np.bool_)
    orders, scores, reasons = [], [], []
    ceiling = np.inf
    for values, reason in blocks:
        chosen = np.flatnonzero((values > 0) & ~taken)
        if not len(chosen):
            continue
        taken[chosen] = True
        chosen = chosen[np.argsort(-values[chosen], kind="stable")]
        block = values[chosen]
        if block[0] >= ceiling:
            block = block * (ceiling / block[0] * 0.999)
        block = block.astype(np.float32)
        ceiling = max(float(block[-1]), 1e-30)
        orders.append(chosen.astype(np.int32))
        scores.append(block)
        reasons.append(np.full(len(chosen), reason, np.uint8))
    if not orders:
        return np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.uint8)
    return np.concatenate(orders), np.concatenate(scores), np.concatenate(reasons)
