"""The conformance kit, on `popular`."""

from __future__ import annotations

import pytest

from vitrine_popular import Popular
from vitrine_sdk.testing import StrategyContract


class TestPopular(StrategyContract):
    @pytest.fixture
    def strategy(self) -> Popular:
        return Popular()
