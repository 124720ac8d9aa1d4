"""The conformance kit, on `personalized`."""

from __future__ import annotations

import pytest

from vitrine_personalized import Personalized
from vitrine_sdk.testing import StrategyContract


class TestPersonalized(StrategyContract):
    @pytest.fixture
    def strategy(self) -> Personalized:
        return Personalized()
