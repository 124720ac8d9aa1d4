"""`abandoned_cart` shows what was carted and not bought."""

from __future__ import annotations

from vitrine_abandoned_cart import AbandonedCart, AbandonedCartConfig

from vitrine_sdk import EventType
from vitrine_sdk.testing import context, history, small_shop

VIEW, CART, BUY = EventType.VIEW, EventType.CART, EventType.PURCHASE


def _left(items: list[int], types: list[EventType], **options: object) -> list[int]:
    data, strategy = small_shop(), AbandonedCart()
    config = AbandonedCartConfig(**options)
    model = strategy.load(strategy.fit(data, config, 0), config, len(data.items))
    return model.recommend(context(history=history(items, types)), 9).items.tolist()


def test_what_was_not_bought_after_it_was_carted() -> None:
    assert _left([1, 2, 3, 2], [CART, BUY, CART, CART]) == [1, 3]
    assert _left([2, 2], [CART, BUY]) == [2]
    assert _left([2], [VIEW]) == []


def test_not_abandoned_yet() -> None:
    assert _left([1, 2], [CART, CART], minutes=30) == [2]
