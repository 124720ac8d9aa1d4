"""A strategy that goes wrong in the way that its configuration says."""

from __future__ import annotations

import os
import signal
import time
from typing import Literal

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


class CrashingConfig(Config):
    how: Literal["not", "raise", "kill", "exit", "hang", "objects", "unloadable", "memory"] = "not"


class _Silent:
    def recommend(self, context: Context, limit: int) -> Candidates:
        return NO_CANDIDATES


class Crashing:
    contract = CONTRACT
    format = 1
    reasons = ("none",)

    @property
    def config(self) -> type[CrashingConfig]:
        return CrashingConfig

    def needs(self, config: CrashingConfig) -> Needs:
        return Needs()

    def fit(self, data: TrainingData, config: CrashingConfig, seed: int) -> Arrays:
        match config.how:
            case "raise":
                raise ZeroDivisionError("no events\nsecond line with detail")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(600)
            case "objects":
                return {"bad": np.array([object()])}
            case "memory":
                return {"big": np.ones(1 << 36, np.uint8)}
        return {"nothing": np.array([seed], np.int64)}

    def load(self, arrays: Arrays, config: CrashingConfig, items: int) -> Model:
        if config.how == "unloadable":
            raise ValueError("array 'model' is missing")
        return _Silent()
