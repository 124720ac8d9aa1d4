"""vitrine-complementary: what is bought with an item or a whole cart, and is not of its kind."""

from vitrine_complementary.strategy import Complementary, ComplementaryConfig, ComplementaryModel

__all__ = ["Complementary", "ComplementaryConfig", "ComplementaryModel"]
