"""In which pod a shopper clicked what: one hash a shopper, gone a week after the last click.

| key | what |
|---|---|
| vitrine:placements:{<merchant>:<shopper>} | hash: i:<item>, r:<result_id> -> [pod, strategy] |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from app.domain.merchant import MerchantId
from app.redis.coalescing import Command
from app.redis.connection import RedisConnection, shopper_tag
from app.services.attribute import Click, Placement, Search

DAYS: Final = 7
_MOST_FIELDS: Final = 1_000  # of one shopper, or robot

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Placement).decode


def placements_key(merchant: MerchantId, shopper_id: str) -> str:
    """`shopper_id` as in `Shopper.id`."""
    return "vitrine:placements:" + shopper_tag(merchant, shopper_id)


class Placements:
    """Implements `app.services.attribute.PlacementStore`."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def remember(self, clicks: Sequence[Click]) -> None:
        hashes: dict[str, list[str | bytes]] = {}  # name, value, name, value; the last one counts
        for click in clicks:
            value = _encode(click.placement)
            pairs = hashes.setdefault(placements_key(click.merchant, click.shopper_id), [])
            for field in click.fields:
                pairs += (field, value)
        commands: list[Command] = []
        for key, pairs in hashes.items():
            commands.append(("HSET", key, *pairs))
            commands.append(("EXPIRE", key, DAYS * 86400))
            commands.append(("HLEN", key))
        lengths = (await self._connection.run(commands))[2::3]
        full = [k for k, length in zip(hashes, lengths, strict=True) if length > _MOST_FIELDS]
        if full:
            await self._connection.run([("DEL", key) for key in full])

    async def find(self, searches: Sequence[Search]) -> Sequence[Placement | None]:
        commands: list[Command] = [
            ("HMGET", placements_key(search.merchant, shopper_id), *search.fields)
            for search in searches
            for shopper_id in search.shopper_ids
        ]
        replies = iter(await self._connection.run(commands))
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
