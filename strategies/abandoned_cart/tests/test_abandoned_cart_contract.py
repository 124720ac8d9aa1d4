"""The conformance kit, on `abandoned_cart`."""

from __future__ import annotations

import pytest
from vitrine_abandoned_cart import AbandonedCart

from vitrine_sdk.testing import StrategyContract


class TestAbandonedCart(StrategyContract):
    @pytest.fixture
    def strategy(self) -> AbandonedCart:
        return AbandonedCart()
