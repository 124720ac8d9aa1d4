"""vitrine-next-basket: what this shopper's next basket will hold."""

from vitrine_next_basket.strategy import NextBasket, NextBasketConfig, NextBasketModel

__all__ = ["NextBasket", "NextBasketConfig", "NextBasketModel"]
