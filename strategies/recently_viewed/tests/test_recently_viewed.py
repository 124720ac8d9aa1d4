"""`recently_viewed` shows views, newest first, without what was bought since."""

from __future__ import annotations

from vitrine_recently_viewed import RecentlyViewed, RecentlyViewedConfig

from vitrine_sdk import EventType
from vitrine_sdk.testing import DAY, context, history, small_shop

VIEW, CART, BUY = EventType.VIEW, EventType.CART, EventType.PURCHASE


def _shown(items: list[int], types: list[EventType], **options: object) -> list[int]:
    data, strategy = small_shop(), RecentlyViewed()
    config = RecentlyViewedConfig(**options)
    model = strategy.load(strategy.fit(data, config, 0), config, len(data.items))
    ages = [float(DAY * i) for i in range(len(items))]
    return model.recommend(context(history=history(items, types, ages)), 9).items.tolist()


def test_newest_first_each_once() -> None:
    assert _shown([5, 3, 5, 9], [VIEW, VIEW, VIEW, CART]) == [5, 3]


def test_not_what_was_bought_since_but_what_was_viewed_again() -> None:
    assert _shown([3, 3, 4], [BUY, VIEW, VIEW]) == [4]
    assert _shown([3, 3, 4], [BUY, VIEW, VIEW], bought=True) == [3, 4]
    assert _shown([3, 3, 4], [VIEW, BUY, VIEW]) == [3, 4]


def test_old_views_are_forgotten() -> None:
    assert _shown([1, 2, 3], [VIEW] * 3, days=1.5) == [1, 2]
