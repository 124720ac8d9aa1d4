"""What a shop took in last: a strategy as anyone would write it, on vitrine_sdk alone."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from vitrine_sdk import (
    CONTRACT,
    NO_CANDIDATES,
    Arrays,
    Candidates,
    Config,
    Context,
    Model,
    Needs,
    TrainingData,
)


class NewestConfig(Config):
    keep: Annotated[int, msgspec.Meta(ge=1, le=100_000, description="Items kept")] = 1000


class NewestModel:
    def __init__(self, items: np.ndarray, scores: np.ndarray) -> None:
        self._items = items
        self._scores = scores

    def recommend(self, context: Context, limit: int) -> Candidates:
        items, scores = self._items, self._scores
        if context.eligible is not None:
            keep = context.eligible[items]
            items, scores = items[keep], scores[keep]
        items, scores = items[:limit], scores[:limit]
        if not len(items):
            return NO_CANDIDATES
        return Candidates(items, scores, np.zeros(len(items), np.uint8))


class Newest:
    contract = CONTRACT
    format = 1
    reasons = ("new",)

    @property
    def config(self) -> type[NewestConfig]:
        return NewestConfig

    def needs(self, config: NewestConfig) -> Needs:
        return Needs(eligible=True)

    def fit(self, data: TrainingData, config: NewestConfig, seed: int) -> Arrays:
        print("fitting")  # must not disturb the host
        items = data.items
        # Newest first; of the same age, in order of their ids.
        order = np.argsort(-items.created, kind="stable")
        order = order[items.available[order]][: config.keep].astype(np.int32)
        ages = (data.now - items.created[order]).astype(np.float32)
        return {"items": order, "scores": (1.0 / (1.0 + ages / 86400.0)).astype(np.float32)}

    def load(self, arrays: Arrays, config: NewestConfig, items: int) -> Model:
        if "items" not in arrays or "scores" not in arrays:
            raise ValueError("arrays are missing")
        return NewestModel(arrays["items"], arrays["scores"])
