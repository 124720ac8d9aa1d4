"""The conformance kit, on `query`."""

from __future__ import annotations

import pytest
from vitrine_query import Query

from vitrine_sdk.testing import StrategyContract


class TestQuery(StrategyContract):
    @pytest.fixture
    def strategy(self) -> Query:
        return Query()
