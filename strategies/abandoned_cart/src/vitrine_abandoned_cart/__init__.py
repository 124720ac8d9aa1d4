"""vitrine-abandoned-cart: what this shopper put into the cart and left there."""

from vitrine_abandoned_cart.strategy import AbandonedCart, AbandonedCartConfig, AbandonedCartModel

__all__ = ["AbandonedCart", "AbandonedCartConfig", "AbandonedCartModel"]
