"""What the conformance kit runs in a process of its own."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from vitrine_sdk.testing.answers import digest
from vitrine_sdk.testing.requests import SEED
from vitrine_sdk.testing.shops import small_shop


def fit_elsewhere(module: str, name: str, config: str) -> str:
    """The digest of an artefact fitted on `small_shop`."""
    kind: Any = importlib.import_module(module)
    for part in name.split("."):
        kind = getattr(kind, part)
    strategy = kind()
    decoded = msgspec.json.decode(config, type=strategy.config)
    return digest(strategy.fit(small_shop(), decoded, SEED))
