"""The chance that an item is in the shopper's next basket: how often it was in their own, shrunk
towards how often it is in everybody's; and, for revenue, what it then brings."""

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
from vitrine_sdk.cooccurrence import damped, neighbours, together
from vitrine_sdk.neighbours import Neighbours, checked, summed
from vitrine_sdk.ranking import ranked

DAY = 86_400
VISIT = 1800  # seconds of silence after which a purchase belongs to another basket
AGAIN, NEW = 0, 1

Days = Annotated[float, msgspec.Meta(gt=0, le=3650)]


class NextBasketConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    objective: Literal["purchases", "revenue"] = "purchases"
    """purchases: the likeliest items. revenue: those that are expected to bring most."""
    history: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 1000
    """How many of the latest events are looked at; no more than the host keeps."""
    half_life_days: Days = 90.0
    """A basket of the shopper's this old counts half."""
    shop_half_life_days: Days = 21.0
    """The same for everybody's baskets."""
    prior: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 2.0
    """Everybody's baskets count as so many of the shopper's own."""
    like: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.3
    """How much likeness to the latest purchases lifts an item above everybody's rate."""
    dear: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """For revenue: the power of what an item brings; below 1, a list is less dear."""
    neighbours: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    popular: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 300
    """How many of everybody's items are considered beside the shopper's own."""


@dataclass(frozen=True, slots=True, eq=False)
class NextBasketModel:
    rate: FloatArray  # n, share of everybody's baskets that hold the item
    again: FloatArray  # n, how readily it is bought again, 1 for the shop's mean
    value: FloatArray  # n, what it brings; ones where the objective is purchases
    popular: IntArray  # the items with the highest rate times value
    pairs: Neighbours
    config: NextBasketConfig

    def recommend(self, context: Context, limit: int) -> Candidates:
        history = context.history
        bought = np.flatnonzero(history.types == EventType.PURCHASE)
        if not len(bought):
            return NO_CANDIDATES
        config = self.config
        items, ages = history.items[bought], history.ages[bought]
        visit = np.concatenate(([0], np.cumsum(np.diff(ages) > VISIT)))
        begins = np.flatnonzero(np.concatenate(([True], np.diff(visit) != 0)))
        weight = np.exp2((ages[0] - ages) / np.float32(config.half_life_days * DAY))
        # An item counts once a visit.
        _, once = np.unique(visit * (int(items.max()) + 1) + items, return_index=True)
        own, often = summed(items[once], weight[once].astype(np.float32))
        baskets = np.float32(weight[begins].sum())
        prior = np.float32(config.prior)
        often = often * self.again[own] / (baskets + prior)
        latest = items[: begins[3] if len(begins) > 3 else len(items)]
        alike, lift = self.pairs.merged(latest, np.ones(len(latest), np.float32))
        if len(alike):
            lift = lift * (self.rate[alike] * np.float32(config.like) / lift.max())
        shop = np.concatenate((self.popular, alike))
        every = np.union1d(shop, own)
        chance = self.rate[every] * (prior / (baskets + prior))
        chance[np.searchsorted(every, alike)] += lift * (prior / (baskets + prior))
        at = np.searchsorted(every, own)
        chance[at] += often
        reasons = np.full(len(every), NEW, np.uint8)
        reasons[at] = AGAIN
        scores = (chance * self.value[every]).astype(np.float32)
        keep = scores > 0
        return ranked(
            every[keep].astype(np.int32), scores[keep], limit, reasons[keep], context.eligible
        )


class NextBasket:
    """See `NextBasketConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("bought_before", "others_buy")

    @property
    def config(self) -> type[NextBasketConfig]:
        return NextBasketConfig

    def needs(self, config: NextBasketConfig) -> Needs:
        return Needs(history=config.history, eligible=True)

    def fit(self, data: TrainingData, config: NextBasketConfig, seed: int) -> Arrays:  # noqa: ARG002
        n = len(data.items)
        events = data.events
        rows = np.flatnonzero((events.type == EventType.PURCHASE) & (events.item >= 0))
        item, session = events.item[rows].astype(np.int64), events.session[rows].astype(np.int64)
        age = (data.now - events.time[rows]) / DAY
        weight = np.exp2(-age / config.shop_half_life_days)
        _, first = np.unique(session * max(n, 1) + item, return_index=True)  # once a basket
        _, visits = np.unique(session, return_index=True)
        total = max(float(weight[visits].sum()), 1e-30)
        rate = np.bincount(item[first], weight[first], minlength=n) / total
        value: npt.NDArray[Any] = np.ones(n)
        if config.objective == "revenue":
            value = _value(events, rows, n) ** config.dear
        best = np.argsort(-rate * value, kind="stable")
        popular = np.sort(best[: config.popular][rate[best[: config.popular]] > 0])
        ones = np.ones(len(rows), np.float32)
        pairs = together(events.item[rows], events.session[rows], ones, n, 60)
        sold = np.bincount(item, minlength=n).astype(np.float32)
        return {
            "rate": rate.astype(np.float32),
            "again": _again(events, rows, n),
            "value": value.astype(np.float32),
            "popular": popular.astype(np.int32),
            **neighbours(damped(pairs, sold, 0.5, 0.3, 3.0), config.neighbours).arrays("pairs"),
        }

    def load(self, arrays: Arrays, config: NextBasketConfig, items: int) -> NextBasketModel:
        popular = arrays.get("popular")
        if popular is None or popular.ndim != 1 or len(popular) > items:
            raise ValueError(f"array 'popular' must be there, with at most {items} entries")
        return NextBasketModel(
            checked(arrays, "rate", np.float32, items),
            checked(arrays, "again", np.float32, items),
            checked(arrays, "value", np.float32, items),
            checked(arrays, "popular", np.int32, len(popular)),
            Neighbours.from_arrays(arrays, "pairs", items),
            config,
        )


def _value(events: Events, rows: npt.NDArray[Any], n: int) -> FloatArray:
    """What an item brings when it is bought; the shop's mean where few have bought it."""
    brought = np.bincount(events.item[rows], events.revenue[rows], minlength=n)
    times = np.bincount(events.item[rows], minlength=n)
    mean = brought.sum() / max(times.sum(), 1)
    if mean <= 0:
        return np.ones(n, np.float32)
    value: FloatArray = ((brought + 3 * mean) / ((times + 3) * mean)).astype(np.float32)
    return value


def _again(events: Events, rows: npt.NDArray[Any], n: int) -> FloatArray:
    """How readily an item's buyers buy it on another visit, against the shop's mean; shrunk."""
    if not len(rows):
        return np.ones(n, np.float32)
    pair = events.shopper[rows].astype(np.int64) * n + events.item[rows]
    order = np.lexsort((events.session[rows], pair))
    pair, visit = pair[order], events.session[rows][order]
    first = np.append(True, np.diff(pair) != 0)
    other = first | np.append(True, np.diff(visit) != 0)
    starts = np.flatnonzero(first)
    pairs, visits = pair[starts], np.add.reduceat(other.astype(np.int64), starts)
    item = pairs % n
    buyers = np.bincount(item, minlength=n)
    returned = np.bincount(item, visits > 1, minlength=n)
    mean = max(float((visits > 1).mean()), 1e-9)
    again: FloatArray = (((returned + 5 * mean) / (buyers + 5)) / mean).astype(np.float32)
    return again
