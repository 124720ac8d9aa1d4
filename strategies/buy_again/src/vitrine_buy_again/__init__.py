"""vitrine-buy-again: what this shopper buys again and again, when it is due."""

from vitrine_buy_again.strategy import BuyAgain, BuyAgainConfig, BuyAgainModel

__all__ = ["BuyAgain", "BuyAgainConfig", "BuyAgainModel"]
