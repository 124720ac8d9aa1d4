"""Histories made again beside requests: these do not wait for thousands of shoppers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from app.domain.catalogue import ItemId
from app.domain.event import EventType, HistoryEntry
from app.domain.merchant import MerchantId
from app.services.history import HistoryRebuild

SHOP = MerchantId("shop")
SHOPPERS, LENGTH = 500, 5


class Events:
    """One page, of shoppers with an entry each and of some with many."""

    async def histories(
        self,
        merchant: MerchantId,  # as in RecentEvents
        *,
        days: int,
        received_since: float | None = None,
    ) -> AsyncGenerator[Mapping[str, Sequence[HistoryEntry]], None]:
        yield {
            f"c:{n}": [
                HistoryEntry(ItemId(str(at)), EventType.VIEW, float(100 - at))
                for at in range(1 if n % 10 else 2 * LENGTH)
            ]
            for n in range(SHOPPERS)
        }


class Cache:
    def __init__(self) -> None:
        self.merged: list[Mapping[str, Sequence[HistoryEntry]]] = []
        self.forgotten: list[str] = []

    async def merge(
        self,
        merchant: MerchantId,  # as in HistoryCache
        histories: Mapping[str, Sequence[HistoryEntry]],
    ) -> int:
        assert not self.forgotten or set(histories) <= set(self.forgotten)
        self.merged.append(histories)
        return sum(map(len, histories.values()))

    async def forget(self, merchant: MerchantId, shopper_ids: Iterable[str]) -> int:
        self.forgotten += shopper_ids
        return 0

    async def is_built(self, merchant: MerchantId) -> bool:
        return False

    async def mark_built(self, merchant: MerchantId) -> None:
        pass

    async def lock(self, merchant: MerchantId, seconds: int) -> bool:
        return True

    async def unlock(self, merchant: MerchantId) -> None:
        pass


async def test_a_page_of_many_shoppers_goes_in_parts_between_which_requests_run() -> None:
    cache = Cache()
    rounds = 0

    async def requests() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(requests())
    done = await HistoryRebuild(Events(), cache, length=LENGTH).run(SHOP, replace=True)
    running.cancel()
    wanted = SHOPPERS + SHOPPERS // 10 * (LENGTH - 1)
    assert (done.shoppers, done.entries) == (SHOPPERS, wanted)
    assert max(map(len, cache.merged)) <= 32
    assert sorted(cache.forgotten) == sorted(f"c:{n}" for n in range(SHOPPERS))
    assert sorted(s for part in cache.merged for s in part) == sorted(cache.forgotten)
    assert rounds >= len(cache.merged)
