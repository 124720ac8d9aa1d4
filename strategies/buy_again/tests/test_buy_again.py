"""`buy_again` shows what is bought again and again, when it is due."""

from __future__ import annotations

from vitrine_buy_again import BuyAgain, BuyAgainConfig

from vitrine_sdk import EventType
from vitrine_sdk.testing import DAY, NOW, EventRow, ItemRow, context, history, shop

ITEMS = [ItemRow(id=name) for name in ("milk", "lamp", "salt")]
MILK, LAMP, SALT = 0, 1, 2


def _shown(items: list[int], days: list[float], **options: object) -> list[int]:
    """Everybody buys milk each week and salt each quarter; lamps once."""
    events = [
        EventRow(shopper=f"s{i}", item=item, time=NOW - day * DAY, session=str(day))
        for i in range(50)
        for item, times in (("milk", range(1, 180, 7)), ("salt", (1, 91, 181)), ("lamp", (1,)))
        for day in times
    ]
    data, strategy = shop(ITEMS, events), BuyAgain()
    config = BuyAgainConfig(**options)
    model = strategy.load(strategy.fit(data, config, 0), config, len(ITEMS))
    past = history(items, EventType.PURCHASE, [day * DAY for day in days])
    return model.recommend(context(history=past), 9).items.tolist()


def test_often_before_once_and_what_nobody_buys_again_last() -> None:
    assert _shown([LAMP, MILK, MILK, MILK], [8, 8, 15, 22]) == [MILK, LAMP]


def test_what_is_due_comes_first() -> None:
    assert _shown([SALT, MILK], [10, 10], due=1.0) == [MILK, SALT]
    assert _shown([MILK, SALT], [0.5, 85], due=1.0, half_life_days=3650) == [SALT, MILK]


def test_only_what_was_bought_often_enough() -> None:
    assert _shown([SALT, MILK, MILK], [30, 8, 15], at_least=2) == [MILK]
