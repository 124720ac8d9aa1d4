"""In which pod a shopper clicked what: one hash a shopper, gone a week after the last click.

| key | what |
|---|---|
| vitrine:placements:{<merchant>:<shopper>} | hash: i:<item>, r:<result_id> -> [pod, strategy] |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from app.domain.merchant import MerchantId
from app.redis.connection import RedisConnection
from app.services.attribute import Click, Placement, Search

DAYS: Final = 7
_MOST_FIELDS: Final = 1_000  # of one shopper, or robot

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Placement).decode


def placements_key(merchant: MerchantId, shopper_id: str) -> str:
    """`shopper_id` as in `Shopper.id`."""
    return f"vitrine:placements:{{{quote(merchant, safe='')}:{quote(shopper_id, safe=':')}}}"


class Placements:
    """Implements `app.services.attribute.PlacementStore`."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def remember(self, clicks: Sequence[Click]) -> None:
        keys = [placements_key(click.merchant, click.shopper_id) for click in clicks]
        with self._connection.errors():
            async with self._connection.pipeline() as pipeline:
                for key, click in zip(keys, clicks, strict=True):
                    value = _encode(click.placement)
                    pipeline.hset(key, mapping=dict.fromkeys(click.fields, value))
                    pipeline.expire(key, DAYS * 86400)
                    pipeline.hlen(key)
                lengths = (await pipeline.execute())[2::3]
            full = {k for k, length in zip(keys, lengths, strict=True) if length > _MOST_FIELDS}
            if full:
                async with self._connection.pipeline() as pipeline:
                    for key in full:
                        pipeline.delete(key)
                    await pipeline.execute()

    async def find(self, searches: Sequence[Search]) -> Sequence[Placement | None]:
        with self._connection.errors():
            async with self._connection.pipeline() as pipeline:
                for search in searches:
                    for shopper_id in search.shopper_ids:
                        pipeline.hmget(placements_key(search.merchant, shopper_id), search.fields)
                replies = iter(await pipeline.execute())
        found: list[Placement | None] = []
        for search in searches:
            values = [value for _ in search.shopper_ids for value in next(replies)]
            # A result is surer than an item, whoever of the two clicked.
            ordered = [
                value
                for place in range(len(search.fields))
                for value in values[place :: len(search.fields)]
            ]
            known = next((value for value in ordered if value is not None), None)
            found.append(None if known is None else _decode(known))
        return found
