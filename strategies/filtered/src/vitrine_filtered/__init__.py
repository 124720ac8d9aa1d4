"""vitrine-filtered: what the request's filters leave, in an order that the merchant chooses."""

from vitrine_filtered.strategy import Filtered, FilteredConfig, FilteredModel

__all__ = ["Filtered", "FilteredConfig", "FilteredModel"]
