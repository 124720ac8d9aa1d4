"""Items' features, read for recommendations: see `app.redis.item_features` for who writes them."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.catalogue import ItemFeatures, Section
from app.domain.merchant import MerchantId
from app.redis.coalescing import CoalescingRedis, Command
from app.redis.item_features import bucket_key, by_bucket, decode


class CoalescedFeatureReader:
    """Implements `app.services.showing.FeatureReader`. Not for a cluster: there,
    `RedisItemFeatures` does."""

    def __init__(self, redis: CoalescingRedis) -> None:
        self._redis = redis

    async def features(
        self, merchant: MerchantId, section: Section, ids: Sequence[str]
    ) -> list[ItemFeatures | None]:
        """The items' features in the order of `ids`.

        Raises:
            Unavailable: Redis does not answer.
        """
        if not ids:
            return []
        places = by_bucket(ids)
        commands: list[Command] = [
            ("HMGET", bucket_key(merchant, section, bucket), *(ids[place] for place in here))
            for bucket, here in places.items()
        ]
        replies = await self._redis.ask(commands)
        found: list[ItemFeatures | None] = [None] * len(ids)
        for here, values in zip(places.values(), replies, strict=True):
            for place, value in zip(here, values, strict=True):
                found[place] = None if value is None else decode(value)
        return found
