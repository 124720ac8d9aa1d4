"""The conformance kit, on `buy_again`."""

from __future__ import annotations

import pytest
from vitrine_buy_again import BuyAgain

from vitrine_sdk.testing import StrategyContract


class TestBuyAgain(StrategyContract):
    @pytest.fixture
    def strategy(self) -> BuyAgain:
        return BuyAgain()
