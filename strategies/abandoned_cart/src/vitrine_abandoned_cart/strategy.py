"""Carted items without a later purchase, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from vitrine_sdk import (
    NO_CANDIDATES,
    Arrays,
    Candidates,
    Config,
    Context,
    EventType,
    Needs,
    TrainingData,
)
from vitrine_sdk.neighbours import checked
from vitrine_sdk.ranking import ranked

DAY = 86_400


class AbandonedCartConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    history: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    """How many of the latest events are looked at."""
    minutes: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 0.0
    """What was put into the cart less long ago is not abandoned yet."""
    days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 30.0
    """What was left longer ago is forgotten."""


@dataclass(frozen=True, slots=True, eq=False)
class AbandonedCartModel:
    config: AbandonedCartConfig

    def recommend(self, context: Context, limit: int) -> Candidates:
        history = context.history
        ages = history.ages
        carted = (history.types == EventType.CART) & (ages <= self.config.days * DAY)
        carted &= ages >= self.config.minutes * 60
        if not carted.any():
            return NO_CANDIDATES
        seen: set[int] = set()
        rows = []
        bought = history.types == EventType.PURCHASE
        for row in np.flatnonzero(carted | bought).tolist():
            item = int(history.items[row])
            if item not in seen:  # the latest of its events decides
                seen.add(item)
                if not bought[row]:
                    rows.append(row)
        items = history.items[np.array(rows, np.int64)]
        scores = (1 / (1 + np.arange(len(items)))).astype(np.float32)
        return ranked(items, scores, limit, 0, context.eligible)


class AbandonedCart:
    """See `AbandonedCartConfig`. Nothing to learn: the artefact only says for how many items."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("left_in_cart",)

    @property
    def config(self) -> type[AbandonedCartConfig]:
        return AbandonedCartConfig

    def needs(self, config: AbandonedCartConfig) -> Needs:
        return Needs(history=config.history, eligible=True)

    def fit(self, data: TrainingData, config: AbandonedCartConfig, seed: int) -> Arrays:  # noqa: ARG002
        return {"items": np.array([len(data.items)], np.int64)}

    def load(self, arrays: Arrays, config: AbandonedCartConfig, items: int) -> AbandonedCartModel:
        if int(checked(arrays, "items", np.int64, 1)[0]) != items:
            raise ValueError(f"the artefact is not for {items} items")
        return AbandonedCartModel(config)
