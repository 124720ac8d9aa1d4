"""The conformance kit, on `similar`."""

from __future__ import annotations

import pytest

from vitrine_sdk.testing import StrategyContract
from vitrine_similar import Similar


class TestSimilar(StrategyContract):
    @pytest.fixture
    def strategy(self) -> Similar:
        return Similar()
