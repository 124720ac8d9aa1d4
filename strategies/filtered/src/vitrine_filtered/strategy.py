"""A prepared order of the catalogue, of which the request's filters leave a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from vitrine_sdk import (
    Arrays,
    Candidates,
    Config,
    Context,
    EventType,
    FloatArray,
    IntArray,
    Needs,
    TrainingData,
)
from vitrine_sdk.neighbours import checked
from vitrine_sdk.ranking import first_eligible

DAY = 86_400


class FilteredConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    order: Literal["best_selling", "newest", "cheapest", "dearest"] = "best_selling"
    """Items of equal rank, and those without a price, follow by what sells best."""


@dataclass(frozen=True, slots=True, eq=False)
class FilteredModel:
    order: IntArray
    scores: FloatArray

    def recommend(self, context: Context, limit: int) -> Candidates:
        chosen = first_eligible(self.order, context.eligible, limit)
        return Candidates(self.order[chosen], self.scores[chosen], np.zeros(len(chosen), np.uint8))


class Filtered:
    """See `FilteredConfig`. Unavailable items are left out."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("matches_filters",)

    @property
    def config(self) -> type[FilteredConfig]:
        return FilteredConfig

    def needs(self, config: FilteredConfig) -> Needs:  # noqa: ARG002 - the contract's signature
        return Needs(eligible=True)

    def fit(self, data: TrainingData, config: FilteredConfig, seed: int) -> Arrays:  # noqa: ARG002
        items, events = data.items, data.events
        bought = (events.item >= 0) & (events.type == EventType.PURCHASE)
        age = np.maximum(data.now - events.time[bought], 0) / DAY
        sold = np.bincount(events.item[bought], np.exp2(-age / 90), minlength=len(items))
        price = items.price.astype(np.float64)
        key = {
            "best_selling": -sold,
            "newest": -items.created.astype(np.float64),
            "cheapest": np.where(np.isfinite(price), price, np.inf),
            "dearest": np.where(np.isfinite(price), -price, np.inf),
        }[config.order]
        order = np.lexsort((np.arange(len(items)), -sold, key))
        order = order[items.available[order]].astype(np.int32)
        # Ranks, not prices: only the order means anything.
        return {"order": order, "scores": (1 / (1 + np.arange(len(order)))).astype(np.float32)}

    def load(self, arrays: Arrays, config: FilteredConfig, items: int) -> FilteredModel:  # noqa: ARG002
        order = arrays.get("order")
        if order is None or order.ndim != 1 or len(order) > items:
            raise ValueError(f"array 'order' must be there, with at most {items} entries")
        return FilteredModel(
            checked(arrays, "order", np.int32, len(order)),
            checked(arrays, "scores", np.float32, len(order)),
        )
