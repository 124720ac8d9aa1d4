"""The conformance kit, on `next_basket`."""

from __future__ import annotations

import pytest
from vitrine_next_basket import NextBasket

from vitrine_sdk.testing import StrategyContract


class TestNextBasket(StrategyContract):
    @pytest.fixture
    def strategy(self) -> NextBasket:
        return NextBasket()
