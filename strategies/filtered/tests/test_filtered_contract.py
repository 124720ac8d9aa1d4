"""The conformance kit, on `filtered`."""

from __future__ import annotations

import pytest
from vitrine_filtered import Filtered

from vitrine_sdk.testing import StrategyContract


class TestFiltered(StrategyContract):
    @pytest.fixture
    def strategy(self) -> Filtered:
        return Filtered()
