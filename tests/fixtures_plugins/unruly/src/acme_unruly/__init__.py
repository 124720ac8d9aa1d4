"""A strategy that does what the request's term says: mostly what none should."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from typing import Literal

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


class UnrulyConfig(Config):
    load: Literal["well", "raise", "hang", "exit", "memory"] = "well"


class UnrulyModel:
    def __init__(self, order: np.ndarray) -> None:
        self._order = order
        self._kept: list[bytearray] = []

    def recommend(self, context: Context, limit: int) -> Candidates:
        if context.term is not None:
            self._misbehave(context.term)
        if context.term == "nothing":
            return None  # type: ignore[return-value]
        return self._answer(context, limit)

    def _misbehave(self, term: str) -> None:  # noqa: C901
        match term:
            case "hang":
                time.sleep(600)
            case "loop":
                while True:
                    pass
            case "busy":
                until = time.thread_time() + 0.003
                while time.thread_time() < until:
                    pass
            case "raise":
                raise ZeroDivisionError("of its own\nwith detail")
            case "leave":
                sys.exit(3)
            case "die":
                os._exit(4)
            case "crash":
                ctypes.string_at(0)
            case "leak":
                self._kept.append(bytearray(32 << 20))
            case "print":
                print("noise" * 1000)
            case "child":
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                time.sleep(600)
            case "environment":
                raise KeyError(*[name for name in os.environ if name.startswith("VITRINE_")])

    def _answer(self, context: Context, limit: int) -> Candidates:
        items = self._order
        if context.eligible is not None:
            items = items[context.eligible[items]]
        items = items[:limit]
        if context.term == "rows":
            items = np.zeros(10_000_000, np.int32)
        if context.term == "seeds":  # what came over: seeds, then history
            items = np.concatenate((context.seeds, context.history.items))[:limit]
        scores = np.linspace(1, 0.5, len(items), dtype=np.float32)
        if context.term == "nan":
            scores[1:] = np.nan
        if context.term == "twice":
            items = np.zeros(len(items), np.int32)
        return Candidates(items, scores, np.zeros(len(items), np.uint8))


class Unruly:
    contract = CONTRACT
    format = 1
    reasons = ("told",)

    @property
    def config(self) -> type[UnrulyConfig]:
        return UnrulyConfig

    def needs(self, config: UnrulyConfig) -> Needs:
        return Needs(history=20, eligible=True)

    def fit(self, data: TrainingData, config: UnrulyConfig, seed: int) -> Arrays:
        return {"order": np.arange(len(data.items), dtype=np.int32)}

    def load(self, arrays: Arrays, config: UnrulyConfig, items: int) -> Model:
        match config.load:
            case "raise":
                raise ValueError("array 'model' is missing")
            case "hang":
                time.sleep(600)
            case "exit":
                os._exit(5)
            case "memory":
                bytearray(1 << 40)
        return UnrulyModel(arrays["order"])
