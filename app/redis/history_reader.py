"""Shoppers' histories, read for recommendations: see `app.redis.history` for who writes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from app.domain.event import HistoryEntry, Shopper
from app.domain.merchant import MerchantId
from app.redis.coalescing import CoalescingRedis, Command
from app.redis.history import history_key

_decode = msgspec.json.Decoder(list[HistoryEntry]).decode


class CoalescedHistoryReader:
    """Implements `app.services.shopper_history.HistoryReader`. Not for a cluster: there,
    `HistoryStore` does.

    Args:
        observe: is told of each call: seconds, and whether Redis answered.
    """

    def __init__(
        self, redis: CoalescingRedis, observe: Callable[[float, bool], None] | None = None
    ) -> None:
        self._redis = redis
        self._observe = observe

    async def read(
        self, merchant: MerchantId, shopper: Shopper, limit: int
    ) -> Sequence[HistoryEntry]:
        """At most `limit` entries of the user and the client together, newest first.

        Raises:
            Unavailable: Redis does not answer.
        """
        if limit < 1:
            return ()
        commands: list[Command] = [
            ("LRANGE", history_key(merchant, id_), 0, limit - 1)
            for id_ in (
                None if shopper.user_id is None else f"u:{shopper.user_id}",
                None if shopper.client_id is None else f"c:{shopper.client_id}",
            )
            if id_ is not None
        ]
        if not commands:
            return ()
        began = time.perf_counter()
        answered = False  # nor is who gives up waiting answered
        try:
            lists = [found for found in await self._redis.call(commands) if found]
            answered = True
        finally:
            if self._observe is not None:
                self._observe(time.perf_counter() - began, answered)
        if not lists:
            return ()
        entries = _decode(b"[" + b",".join([entry for found in lists for entry in found]) + b"]")
        if len(lists) > 1:
            entries.sort(key=_newest_first)
            return entries[:limit]
        return entries


def _newest_first(entry: HistoryEntry) -> float:
    return -entry.time
