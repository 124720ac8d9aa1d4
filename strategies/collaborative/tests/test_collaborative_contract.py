"""The conformance kit, on `collaborative`."""

from __future__ import annotations

import pytest
from vitrine_collaborative import Collaborative

from vitrine_sdk.testing import StrategyContract


class TestCollaborative(StrategyContract):
    @pytest.fixture
    def strategy(self) -> Collaborative:
        return Collaborative()
