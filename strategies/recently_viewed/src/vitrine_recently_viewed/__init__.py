"""vitrine-recently-viewed: what this shopper looked at, and has not bought since."""

from vitrine_recently_viewed.strategy import (
    RecentlyViewed,
    RecentlyViewedConfig,
    RecentlyViewedModel,
)

__all__ = ["RecentlyViewed", "RecentlyViewedConfig", "RecentlyViewedModel"]
