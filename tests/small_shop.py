"""A small shop that has learned: items, a month of purchases, two pods with fitted strategies."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import ClientSession, encode_basic_auth

PODS = {"home_popular": ["popular"], "pdp_similar": ["similar", "popular"]}
ITEMS = 24
PATIENCE = 60.0


class SmallShop:
    def __init__(self, http: ClientSession, url: str, key: str, token: str) -> None:
        self.http = http
        self.url = url
        self.key = key
        self.headers = {"Authorization": encode_basic_auth(token, "")}

    async def send(self, method: str, path: str, body: Any) -> Any:
        async with self.http.request(
            method, f"{self.url}{path}", json=body, headers=self.headers
        ) as response:
            answer = await response.json()
            assert response.status < 300, answer
            return answer

    async def fill(self) -> None:
        """Catalogue, events, strategy configurations and pods; what is left is to train."""
        items = [
            {
                "id": f"p{n}",
                "name": f"Product {n}",
                "data": {"url": f"/p/{n}", "price": 5.0 + n, "group_ids": [f"g{n // 8}"]},
            }
            for n in range(ITEMS)
        ]
        await self.send("PUT", f"/v2/items?key={self.key}&section=Products", {"items": items})
        now = time.time()
        events = [
            {
                "type": "purchase",
                "id": f"o{shopper}",
                "user_id": f"u{shopper}",
                "time": now - (1 + shopper % 20) * 86400,
                "order_id": f"o{shopper}",
                "items": [
                    {"item_id": f"p{n}", "quantity": 1, "price": 5.0 + n}
                    for n in range(shopper % 3 * 8, shopper % 3 * 8 + 8)
                    if (n * 7 + shopper) % 3
                ],
            }
            for shopper in range(60)
        ]
        await self.send("POST", "/v1/events", events)
        for name in ("popular", "similar"):
            body = {"id": name, "strategy": name}
            await self.send("POST", "/admin/v1/strategy-configurations", body)
        for pod, chain in PODS.items():
            body = {"id": pod, "display_name": pod, "chain": chain}
            await self.send("POST", "/admin/v1/pods", body)

    async def ask(
        self, pod: str, shopper: str, item: str | None = None, *, results: int = 5
    ) -> list[Any]:
        """A list's results, whole."""
        params = {"key": self.key, "i": shopper, "s": "1", "num_results": str(results)}
        if item is not None:
            params["item_id"] = item
        async with self.http.get(
            f"{self.url}/recommendations/v1/pods/{pod}", params=params
        ) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return list(answer["response"]["results"])

    async def full(self, pod: str, **asked: Any) -> list[Any]:
        """A list once it is full: models and catalogue have reached the process."""
        until = time.monotonic() + PATIENCE
        while True:
            results = await self.ask(pod, **asked)
            first = results[0]["strategy"]["id"] if results else None
            if len(results) == 5 and first == PODS[pod][0]:
                return results
            assert time.monotonic() < until, results
            await asyncio.sleep(0.05)
