"""The shopper's latest views, newest first."""

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


class RecentlyViewedConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    history: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    """How many of the latest events are looked at."""
    days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 90.0
    """Older views are not shown."""
    bought: bool = False
    """Also what was bought after it was viewed."""


@dataclass(frozen=True, slots=True, eq=False)
class RecentlyViewedModel:
    config: RecentlyViewedConfig

    def recommend(self, context: Context, limit: int) -> Candidates:
        history = context.history
        viewed = (history.types == EventType.VIEW) | (history.types == EventType.CLICK)
        viewed &= history.ages <= self.config.days * DAY
        rows = np.flatnonzero(viewed)
        if not len(rows):
            return NO_CANDIDATES
        _, first = np.unique(history.items[rows], return_index=True)
        rows = rows[np.sort(first)]
        if not self.config.bought:
            # Newest first, so whatever stands before a view came after it.
            purchases = np.flatnonzero(history.types == EventType.PURCHASE)
            latest = {int(history.items[row]): int(row) for row in purchases[::-1]}
            kept = [row for row in rows.tolist() if latest.get(int(history.items[row]), row) >= row]
            rows = np.array(kept, np.int64)
        items = history.items[rows]
        scores = (1 / (1 + np.arange(len(items)))).astype(np.float32)
        return ranked(items, scores, limit, 0, context.eligible)


class RecentlyViewed:
    """See `RecentlyViewedConfig`. Nothing to learn: the artefact only says for how many items."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("viewed",)

    @property
    def config(self) -> type[RecentlyViewedConfig]:
        return RecentlyViewedConfig

    def needs(self, config: RecentlyViewedConfig) -> Needs:
        return Needs(history=config.history, eligible=True)

    def fit(self, data: TrainingData, config: RecentlyViewedConfig, seed: int) -> Arrays:  # noqa: ARG002
        return {"items": np.array([len(data.items)], np.int64)}

    def load(self, arrays: Arrays, config: RecentlyViewedConfig, items: int) -> RecentlyViewedModel:
        if int(checked(arrays, "items", np.int64, 1)[0]) != items:
            raise ValueError(f"the artefact is not for {items} items")
        return RecentlyViewedModel(config)
