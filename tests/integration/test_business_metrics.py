"""What shoppers did over HTTP, and what /metrics of a server of several processes says of it: the
same figures, by pod and strategy."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.served_shop import PATIENCE, VITRINE, Shopper, serve
from tests.small_shop import SmallShop

KINDS = ("impressions", "clicks", "carts", "purchases", "revenue")


async def told(http: aiohttp.ClientSession, url: str) -> tuple[Counter[Any], dict[str, float]]:
    """By (kind, pod, strategy), and the shop's totals."""
    async with http.get(f"{url}/metrics") as response:
        text = await response.text()
    by_place: Counter[Any] = Counter()
    shop: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for kind in KINDS:
                if sample.name == f"vitrine_recommendation_{kind}_total":
                    place = (kind, sample.labels["pod"], sample.labels["strategy"])
                    by_place[place] += int(sample.value)
                elif sample.name == f"vitrine_shop_{kind}_total":
                    shop[kind] = shop.get(kind, 0) + sample.value
    return by_place, shop


@pytest.mark.slow
async def test_figures_of_several_processes_add_up(
    database_url: str, redis_url: str, merchant: Any, tmp_path: Path
) -> None:
    environment = {
        "VITRINE_DATABASE_URL": database_url,
        "VITRINE_REDIS_URL": redis_url,
        "VITRINE_HOME": str(tmp_path / "home"),
    }
    expected: Counter[tuple[str, str, str]] = Counter()
    with ExitStack() as stack:
        url = await serve(stack, tmp_path / "serve.log", "--workers", "2", **environment)
        async with aiohttp.ClientSession(
            # A connection for each call, so that both processes are met.
            connector=aiohttp.TCPConnector(force_close=True)
        ) as http:
            shop = SmallShop(http, url, merchant.key, merchant.token)
            await shop.fill()
            done = await asyncio.create_subprocess_exec(
                VITRINE, "train", env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE
            )
            await done.communicate()
            for _ in range(10):  # both processes have the models
                await shop.full("home_popular", shopper="anne")
                await shop.full("pdp_similar", shopper="anne", item="p3")
            _, before = await told(http, url)
            shopper = Shopper(shop, expected)
            for number in range(12):
                await shopper.go("home_popular", f"c{number}", buys=number % 3)
                await shopper.go("pdp_similar", f"c{number}", f"p{number}", buys=number % 2)
            until = time.monotonic() + PATIENCE
            while (found := await told(http, url))[0] != expected and time.monotonic() < until:
                await asyncio.sleep(0.1)
    assert {key: value for key, value in found[0].items() if value} == dict(expected)
    assert {kind for kind, _, _ in expected} == set(KINDS)
    lines = sum(value for (kind, _, _), value in expected.items() if kind == "purchases")
    assert found[1]["purchases"] - before["purchases"] == lines
    assert found[1]["revenue"] - before["revenue"] == 12 * lines
