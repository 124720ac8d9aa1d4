"""The conformance kit, on `recently_viewed`."""

from __future__ import annotations

import pytest
from vitrine_recently_viewed import RecentlyViewed

from vitrine_sdk.testing import StrategyContract


class TestRecentlyViewed(StrategyContract):
    @pytest.fixture
    def strategy(self) -> RecentlyViewed:
        return RecentlyViewed()
