"""One shopper's clicks in pods, as `app.redis.placements` keeps them: told and forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from app.domain.merchant import MerchantId
from app.redis.connection import RedisConnection
from app.redis.placements import placements_key


class ShopperPlacements:
    """Implements `services.privacy.ShopperPlacements`. Raises (every method): Unavailable."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def clicks(
        self, merchant: MerchantId, shopper_ids: Sequence[str]
    ) -> Sequence[dict[str, Any]]:
        """What was clicked (`i:<item>`, `r:<result id>`), and in which pod."""
        with self._connection.errors():
            async with self._connection.pipeline() as pipeline:
                for shopper_id in shopper_ids:
                    pipeline.hgetall(placements_key(merchant, shopper_id))
                replies = await pipeline.execute()
        return [
            {"clicked": _text(name), "placement": msgspec.json.decode(value)}
            for reply in replies
            for name, value in reply.items()
        ]

    async def forget(self, merchant: MerchantId, shopper_ids: Sequence[str]) -> None:
        with self._connection.errors():
            async with self._connection.pipeline() as pipeline:
                for shopper_id in shopper_ids:
                    pipeline.delete(placements_key(merchant, shopper_id))
                await pipeline.execute()


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
