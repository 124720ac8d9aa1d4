"""The conformance kit, on `complementary`."""

from __future__ import annotations

import pytest
from vitrine_complementary import Complementary

from vitrine_sdk.testing import StrategyContract


class TestComplementary(StrategyContract):
    @pytest.fixture
    def strategy(self) -> Complementary:
        return Complementary()
