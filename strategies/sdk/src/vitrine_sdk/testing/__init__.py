"""Tests for your own strategy: the conformance kit, and small shops to fit it on. Needs pytest."""

import pytest

# So that a failing assert of the kit shows its values in your test run.
pytest.register_assert_rewrite(
    *(f"vitrine_sdk.testing.{module}" for module in ("kit", "answers", "additive"))
)

from vitrine_sdk.testing.kit import StrategyContract  # noqa: E402
from vitrine_sdk.testing.shops import (  # noqa: E402
    DAY,
    NOW,
    EventRow,
    ItemRow,
    context,
    facet,
    history,
    shop,
    small_shop,
)

__all__ = [
    "DAY",
    "NOW",
    "EventRow",
    "ItemRow",
    "StrategyContract",
    "context",
    "facet",
    "history",
    "shop",
    "small_shop",
]
