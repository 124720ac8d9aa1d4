"""`vitrine serve` and `vitrine worker` as processes, and a shopper who goes the whole way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.small_shop import SmallShop

VITRINE = Path(sys.executable).with_name("vitrine")
PATIENCE = 120.0


def start(
    stack: ExitStack, log: Path, *command: str, **environment: str
) -> subprocess.Popen[bytes]:
    """A process that is ended with `stack`."""
    output = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(
        command, stdout=output, stderr=output, env={**os.environ, **environment}
    )

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()

    stack.callback(stop)
    return process


async def serve(stack: ExitStack, log: Path, *arguments: str, **environment: str) -> str:
    """`vitrine serve` on a free port; its address once it serves."""
    return await _ready(
        start(stack, log, str(VITRINE), "serve", "--port", "0", *arguments, **environment), log
    )


def settings(database_url: str, redis_url: str, home: Path, **others: str) -> dict[str, str]:
    """This process' environment, with these settings of Vitrine and no others."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("VITRINE_")},
        "VITRINE_DATABASE_URL": database_url,
        "VITRINE_REDIS_URL": redis_url,
        "VITRINE_HOME": str(home),
        **others,
    }


@asynccontextmanager
async def serving(
    environment: Mapping[str, str], log: Path, *, workers: int
) -> AsyncGenerator[str]:
    """`vitrine serve`; its address, once all serve. It must end well."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [VITRINE, "serve", "--port", "0", "--workers", str(workers)],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield await _ready(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()


async def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + PATIENCE
    while True:
        for line in log.read_text().splitlines():
            if line.startswith("{") and json.loads(line).get("event") == "ready":
                return str(json.loads(line)["url"])
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        await asyncio.sleep(0.05)


class Shopper:
    """Sees a list, clicks, puts into the cart and buys, as a storefront's tracker tells it.

    `expected`: what business metrics must say, by (kind, pod, strategy).
    """

    def __init__(self, shop: SmallShop, expected: Counter[tuple[str, str, str]]) -> None:
        self.shop = shop
        self.expected = expected
        self.orders = 0

    async def go(self, pod: str, client: str, seed: str | None = None, *, buys: int = 0) -> None:
        """One visit: `buys` of the results that are clicked are bought, too."""
        params = {"key": self.shop.key, "i": client, "s": "1", "num_results": "5"}
        if seed is not None:
            params["item_id"] = seed
        async with self.shop.http.get(
            f"{self.shop.url}/recommendations/v1/pods/{pod}", params=params
        ) as response:
            answer = await response.json()
            assert response.status == 200, answer
        results, result_id = answer["response"]["results"], answer["result_id"]
        if not results:
            return
        strategy = results[0]["strategy"]["id"]
        shown = {"pod_id": pod, "result_id": result_id, "strategy_id": strategy}
        items = [{"item_id": one["data"]["id"]} for one in results]
        await self._tell(
            client,
            "recommendation_result_view",
            {**shown, "items": items, "num_results_viewed": len(items)},
        )
        self._expect("impressions", pod, strategy, len(items))
        for item in items[: max(1, buys)]:
            await self._tell(client, "recommendation_result_click", {**shown, **item})
            self._expect("clicks", pod, strategy, 1)
        for item in items[:buys]:
            # It names no pod: it is led back by the result's id.
            cart = {**item, "result_id": result_id, "type": "add_to_cart", "revenue": 7.5}
            await self._tell(client, "conversion", cart)
            self._expect("carts", pod, strategy, 1)
        if buys:
            self.orders += 1
            order = {
                "order_id": f"{client}-{pod}-{self.orders}-{os.getpid()}-{time.monotonic_ns()}",
                "items": [{**item, "quantity": 1, "price": 12.0} for item in items[:buys]],
                "revenue": 12.0 * buys,
                "result_id": result_id,
            }
            await self._tell(client, "purchase", order)
            self._expect("purchases", pod, strategy, buys)
            self._expect("revenue", pod, strategy, 12 * buys)

    def _expect(self, kind: str, pod: str, strategy: str, number: int) -> None:
        self.expected[kind, pod, strategy] += number

    async def _tell(self, client: str, action: str, body: dict[str, Any]) -> None:
        common = {"key": self.shop.key, "i": client, "s": 1, "_dt": int(time.time() * 1000)}
        async with self.shop.http.post(
            f"{self.shop.url}/v2/behavioral_action/{action}",
            json={**common, **body},
            params={"key": self.shop.key},
        ) as response:
            text = await response.text()
            if response.status != 200:
                raise aiohttp.ClientError(f"{action}: {response.status} {text}")
