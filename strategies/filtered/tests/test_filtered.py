"""`filtered` keeps the merchant's order within what the filters leave."""

from __future__ import annotations

import numpy as np
import pytest
from vitrine_filtered import Filtered, FilteredConfig

from vitrine_sdk.testing import NOW, EventRow, ItemRow, context, shop

ITEMS = [
    ItemRow(id="a", price=5, created=NOW - 30),
    ItemRow(id="b", price=1, created=NOW - 10),
    ItemRow(id="c", created=NOW - 20),
    ItemRow(id="gone", price=0.5, available=False),
]


@pytest.mark.parametrize(
    ("order", "expected"),
    [("best_selling", "cab"), ("newest", "bca"), ("cheapest", "bac"), ("dearest", "abc")],
)
def test_order(order: str, expected: str) -> None:
    sold = [("c", 3), ("a", 1)]
    events = [EventRow(shopper=f"{i}{n}", item=i, time=NOW - 9) for i, n in sold for n in range(n)]
    data, strategy = shop(ITEMS, events), Filtered()
    config = strategy.config(order=order)
    assert isinstance(config, FilteredConfig)
    model = strategy.load(strategy.fit(data, config, 0), config, 4)
    assert "".join(ITEMS[i].id for i in model.recommend(context(), 9).items) == expected
    mask = np.array([False, True, True, True])
    left = model.recommend(context(eligible=mask), 9).items
    assert "".join(ITEMS[i].id for i in left) == expected.replace("a", "")
