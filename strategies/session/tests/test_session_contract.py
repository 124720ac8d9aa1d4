"""The conformance kit, on `session`."""

from __future__ import annotations

import pytest
from vitrine_session import Session

from vitrine_sdk.testing import StrategyContract


class TestSession(StrategyContract):
    @pytest.fixture
    def strategy(self) -> Session:
        return Session()
