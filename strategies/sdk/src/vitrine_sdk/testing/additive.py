# ruff: noqa: S101 - asserting is what it is for
"""The kit's part for strategies whose fit is a sum over shoppers: see `vitrine_sdk.additive`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vitrine_sdk.additive import Additive, by_shopper, caught_up, fit_in_parts, of_shoppers
from vitrine_sdk.contract import Arrays, Config, TrainingData
from vitrine_sdk.testing.shops import small_shop

TOLERANCE = 1e-4
"""Relative: sums in another order are rounded otherwise."""


class AdditiveContract:
    """Beside `StrategyContract`, with the same fixtures."""

    @pytest.fixture
    def strategy(self) -> Any:
        raise NotImplementedError("override the fixture `strategy` and return an instance")

    @pytest.fixture
    def config(self, strategy: Any) -> Config:
        config: Config = strategy.config()
        return config

    @pytest.fixture
    def data(self) -> TrainingData:
        return small_shop()

    def test_offers_all_three_methods(self, strategy: Any) -> None:
        assert isinstance(strategy, Additive)

    def test_a_fit_is_the_finished_count(
        self, strategy: Any, config: Config, data: TrainingData
    ) -> None:
        """To the byte: there is one way to fit."""
        counts = strategy.count(data, config)
        finished = strategy.finish(counts, data.items, data.now, config, 7)
        for name, array in strategy.fit(data, config, 7).items():
            np.testing.assert_array_equal(array, finished[name], err_msg=name)

    @pytest.mark.parametrize("parts", [1, 2, 5])
    def test_parts_add_up(
        self, strategy: Any, config: Config, data: TrainingData, parts: int
    ) -> None:
        """Counted apart by shopper, combined and finished, it is what `fit` gives."""
        assert len(by_shopper(data, parts)) == parts
        assert_close(fit_in_parts(strategy, data, config, 7, parts), strategy.fit(data, config, 7))

    def test_catches_up_with_what_is_new(
        self, strategy: Any, config: Config, data: TrainingData
    ) -> None:
        """Counts of a week ago, brought up to date, are the counts of today; in a catalogue whose
        items stand elsewhere by now, too."""
        watermark = int(np.quantile(data.events.time, 0.7))
        old = np.flatnonzero(data.events.time <= watermark)
        assert 0 < len(old) < len(data.events)
        n = len(data.items)
        positions = np.roll(np.arange(n, dtype=np.int32), 1)  # where each item stands now
        place_then = np.argsort(positions)
        known = data.events.item[old] >= 0
        then = replace(
            data,
            events=replace(
                data.events,
                **{
                    name: getattr(data.events, name)[old]
                    for name in (
                        "shopper",
                        "type",
                        "time",
                        "quantity",
                        "revenue",
                        "session",
                        "term",
                    )
                },
                item=np.where(known, place_then[data.events.item[old]], -1).astype(np.int32),
            ),
            now=watermark,
        )
        before = strategy.count(then, config)
        late = np.zeros(data.events.shoppers, np.bool_)
        late[data.events.shopper[data.events.time > watermark]] = True
        now = caught_up(strategy, before, positions, watermark, of_shoppers(data, late), config)
        assert_close(
            strategy.finish(now, data.items, data.now, config, 7),
            strategy.fit(data, config, 7),
        )


def assert_close(found: Arrays, wanted: Arrays) -> None:
    """Equal but for the rounding of sums in another order."""
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_allclose(found[name], array, rtol=TOLERANCE, atol=1e-6, err_msg=name)


__all__ = ["TOLERANCE", "AdditiveContract", "assert_close"]
