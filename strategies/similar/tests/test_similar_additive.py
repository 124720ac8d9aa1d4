"""`similar` can be counted in parts, and brought up to date."""

from __future__ import annotations

import pytest

from vitrine_sdk.testing.additive import AdditiveContract
from vitrine_similar import Similar, SimilarConfig


class TestSimilarAdditive(AdditiveContract):
    @pytest.fixture
    def strategy(self) -> Similar:
        return Similar()

    @pytest.fixture(params=["related", "substitute", "complement"])
    def config(self, request: pytest.FixtureRequest) -> SimilarConfig:
        return SimilarConfig(relation=request.param, window_days=3650)
