"""`complementary` shows what is bought with a cart, never another of its kind."""

from __future__ import annotations

from vitrine_complementary import Complementary, ComplementaryConfig

from vitrine_sdk.testing import EventRow, ItemRow, context, shop


def test_other_kinds_only() -> None:
    items = [
        ItemRow(id="pen", groups=("pens",)),
        ItemRow(id="pen2", groups=("pens",)),
        ItemRow(id="ink", groups=("inks",)),
        ItemRow(id="pad", groups=("paper",)),
    ]
    baskets = [("pen", "pen2"), ("pen", "ink"), ("pen", "ink", "pad"), ("pen2", "pad")] * 4
    events = [
        EventRow(shopper=f"s{i}", item=item, session="1")
        for i, basket in enumerate(baskets)
        for item in basket
    ]
    data, strategy = shop(items, events), Complementary()

    def asked(config: ComplementaryConfig, *seeds: int) -> list[str]:
        model = strategy.load(strategy.fit(data, config, 0), config, 4)
        return [items[i].id for i in model.recommend(context(seeds), 9).items]

    assert asked(ComplementaryConfig(), 0) == ["ink", "pad"]
    assert asked(ComplementaryConfig(), 0, 2) == ["pad"]
    assert "pen2" in asked(ComplementaryConfig(same_kind=True), 0)
