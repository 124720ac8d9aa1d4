"""vitrine-popular: what the shop's other customers choose now, or choose more than before."""

from vitrine_popular.strategy import Popular, PopularConfig, PopularModel

__all__ = ["Popular", "PopularConfig", "PopularModel"]
