"""Repeat purchases: what the shopper buys often and lately, by how readily others buy it again and
by whether it is due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

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
    Needs,
    TrainingData,
)
from vitrine_sdk.neighbours import checked, summed
from vitrine_sdk.ranking import ranked

DAY = 86_400


class BuyAgainConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    history: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 1000
    """How many of the latest events are looked at; no more than the host keeps."""
    half_life_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 60.0
    """A purchase this old counts half."""
    due: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """How much it matters that the item's usual time between purchases has passed; 0: not."""
    at_least: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    """Only what the shopper bought on so many visits."""


@dataclass(frozen=True, slots=True, eq=False)
class BuyAgainModel:
    again: FloatArray  # n, how readily it is bought again
    interval: FloatArray  # n, days between purchases of it
    config: BuyAgainConfig

    def recommend(self, context: Context, limit: int) -> Candidates:
        history = context.history
        bought = history.types == EventType.PURCHASE
        if not bought.any():
            return NO_CANDIDATES
        items = history.items[bought]
        days = history.ages[bought] / np.float32(DAY)
        weights = np.exp2(-days / np.float32(self.config.half_life_days)).astype(np.float32)
        found, often = summed(items, weights)
        _, first, times = np.unique(items, return_index=True, return_counts=True)
        since = days[first]  # newest first: the first is the latest
        ready = since / np.maximum(self.interval[found], np.float32(0.5))
        timely = np.minimum(ready, np.float32(1)) ** np.float32(self.config.due)
        scores = (often * self.again[found] * timely).astype(np.float32)
        keep = (times >= self.config.at_least) & (scores > 0)
        return ranked(found[keep], scores[keep], limit, 0, context.eligible)


class BuyAgain:
    """See `BuyAgainConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("bought_before",)

    @property
    def config(self) -> type[BuyAgainConfig]:
        return BuyAgainConfig

    def needs(self, config: BuyAgainConfig) -> Needs:
        return Needs(history=config.history, eligible=True)

    def fit(self, data: TrainingData, config: BuyAgainConfig, seed: int) -> Arrays:  # noqa: ARG002
        again, interval = _repeats(data.events, len(data.items))
        return {"again": again, "interval": interval}

    def load(self, arrays: Arrays, config: BuyAgainConfig, items: int) -> BuyAgainModel:
        return BuyAgainModel(
            checked(arrays, "again", np.float32, items),
            checked(arrays, "interval", np.float32, items),
            config,
        )


def _repeats(events: Events, n: int) -> tuple[FloatArray, FloatArray]:
    """An item's share of buyers who bought it on another day, and the mean days between; both
    shrunk towards the shop's mean, because most items have few buyers."""
    rows = np.flatnonzero((events.type == EventType.PURCHASE) & (events.item >= 0))
    if not len(rows):
        return np.zeros(n, np.float32), np.full(n, 30, np.float32)
    day = events.time[rows] // DAY
    pair = events.shopper[rows].astype(np.int64) * n + events.item[rows]
    order = np.lexsort((day, pair))
    pair, day, item = pair[order], day[order], events.item[rows][order].astype(np.int64)
    new_pair = np.concatenate(([True], np.diff(pair) != 0))
    gap = np.concatenate(([0], np.diff(day)))
    repeat = ~new_pair & (gap > 0)
    starts = np.flatnonzero(new_pair)
    repeaters: npt.NDArray[np.bool_] = np.logical_or.reduceat(repeat, starts)
    buyers = np.bincount(item[starts], minlength=n)
    returned = np.bincount(item[starts], repeaters, minlength=n)
    again = (returned + 5 * repeaters.mean()) / (buyers + 5)
    again[buyers == 0] = 0
    times = np.bincount(item[repeat], minlength=n)
    mean = gap[repeat].mean() if repeat.any() else 30.0
    interval = (np.bincount(item[repeat], gap[repeat], minlength=n) + 5 * mean) / (times + 5)
    return again.astype(np.float32), interval.astype(np.float32)
