"""What was bought most, or, by a mistake in its configuration, least."""

from __future__ import annotations

import numpy as np

from vitrine_sdk import (
    CONTRACT,
    Arrays,
    Candidates,
    Config,
    Context,
    Model,
    Needs,
    TrainingData,
)


class BoughtConfig(Config):
    reverse: bool = False
    fails_before: int = 0  # a fit on data of an earlier time fails


class BoughtModel:
    def __init__(self, items: np.ndarray) -> None:
        self._items = items

    def recommend(self, context: Context, limit: int) -> Candidates:
        items = self._items[:limit]
        scores = np.arange(len(items), 0, -1).astype(np.float32)
        return Candidates(items, scores, np.zeros(len(items), np.uint8))


class Bought:
    contract = CONTRACT
    format = 1
    reasons = ("bought",)

    @property
    def config(self) -> type[BoughtConfig]:
        return BoughtConfig

    def needs(self, config: BoughtConfig) -> Needs:
        return Needs()

    def fit(self, data: TrainingData, config: BoughtConfig, seed: int) -> Arrays:
        if data.now < config.fails_before:
            raise ValueError("too early")
        known = data.events.item[data.events.item >= 0]
        counts = np.bincount(known, minlength=len(data.items))
        order = np.argsort(counts if config.reverse else -counts, kind="stable")
        return {"items": order.astype(np.int32)}

    def load(self, arrays: Arrays, config: BoughtConfig, items: int) -> Model:
        return BoughtModel(arrays["items"])
