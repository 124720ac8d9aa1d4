"""Shoppers' histories, read for recommendations: see `app.redis.history` for who writes them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from app.domain.event import HistoryEntry, Shopper
from app.domain.merchant import MerchantId
from app.domain.past import NO_PAST, Past
from app.redis.coalescing import CoalescingRedis, Command
from app.redis.history import HistoryStore, history_key
from vitrine_sdk import kernel

_decode: Final = msgspec.json.Decoder(list[HistoryEntry]).decode


class CoalescedHistoryReader:
    """Implements `app.services.shopper_history.HistoryReader`. Not for a cluster."""

    def __init__(self, redis: CoalescingRedis) -> None:
        self._redis = redis

    async def read(self, merchant: MerchantId, shopper: Shopper, limit: int, until: float) -> Past:
        """At most `limit` entries of the user and the client together, newest first.

        Args:
            until: how long to wait, on the event loop's clock.

        Raises:
            TimeoutError: longer.
            Unavailable: Redis does not answer.
        """
        if limit < 1:
            return NO_PAST
        commands: list[Command] = []
        if shopper.user_id is not None:
            key = history_key(merchant, f"u:{shopper.user_id}")
            commands.append(("LRANGE", key, 0, limit - 1))
        if shopper.client_id is not None:
            key = history_key(merchant, f"c:{shopper.client_id}")
            commands.append(("LRANGE", key, 0, limit - 1))
        if not commands:
            return NO_PAST
        return past([found for found in await self._redis.ask(commands, until) if found], limit)


class StoredHistoryReader:
    """Implements it for a cluster, whose nodes each want their own connections."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store

    async def read(self, merchant: MerchantId, shopper: Shopper, limit: int, until: float) -> Past:
        """
        Raises:
            TimeoutError, Unavailable: as `CoalescedHistoryReader.read`.
        """
        async with asyncio.timeout_at(until):
            return Past.of(await self._store.read(merchant, shopper, limit))


def past(lists: list[list[bytes]], limit: int) -> Past:
    """The latest entries of lists of them that are newest first, none empty."""
    if not lists:
        return NO_PAST
    if kernel.history is not None:
        columns: tuple[Any, ...] | None = kernel.history.columns(lists, limit)
        if columns is not None:  # else an entry is written in an unusual way
            return Past(*columns)
    entries = _decode(b"[" + b",".join([entry for found in lists for entry in found]) + b"]")
    if len(lists) > 1:
        entries.sort(key=_newest_first)
    return Past.of(entries[:limit])


def _newest_first(entry: HistoryEntry) -> float:
    return -entry.time
