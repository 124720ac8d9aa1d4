"""The whole service while its stores are away, one fault at a time; `ops/stability` does the same
under load and for longer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from aiohttp import ClientSession, encode_basic_auth

from app.http.server import Place
from app.postgres.database import Database, raw
from app.process import build_service
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output
from ops.stability.fault_proxy import FaultProxy
from tests.whole_service import whole_service


@dataclass
class Stores:
    postgres: FaultProxy
    redis: FaultProxy
    database_url: str
    redis_url: str


@pytest.fixture
async def stores(database_url: str, redis_url: str) -> AsyncIterator[Stores]:
    """Proxies before this worker's servers. Servers that tests are given by TCP have none."""
    database, redis = urlsplit(database_url), urlsplit(redis_url)
    folder = parse_qs(database.query).get("host")
    if folder is None or redis.scheme != "unix":
        pytest.skip("the stores are not reached by Unix sockets")
    postgres = FaultProxy(f"{folder[0]}/.s.PGSQL.5432")
    cache = FaultProxy(unquote(redis.path))
    await postgres.listen()
    await cache.listen()
    yield Stores(
        postgres,
        cache,
        f"postgresql://{database.username}@127.0.0.1:{postgres.port}{database.path}",
        f"redis://127.0.0.1:{cache.port}/0",
    )
    for proxy in (postgres, cache):
        await proxy.set("refuse")


async def until(holds: Any) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.05)


class Shop:
    def __init__(self, url: str, http: ClientSession, merchant: Any) -> None:
        self.url, self.http = url, http
        self.merchant, self.key = merchant.id, merchant.key

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any, Any]:
        async with self.http.request(method, self.url + path, json=body) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None, response.headers

    async def recommended(self, shopper: str = "c") -> tuple[list[str], Any]:
        path = f"/recommendations/v1/pods/p?key={self.key}&i={shopper}&s=1"
        status, answer, headers = await self.call("GET", path)
        assert status == 200, answer
        found = [one["data"]["id"] for one in answer["response"]["results"]]
        return found, headers.get("Vitrine-Degraded")

    async def track(self, number: int) -> int:
        event = {"type": "view", "id": str(number), "item_id": f"e{number}", "client_id": "c"}
        return (await self.call("POST", "/v1/events", [event]))[0]

    async def fill(self, service: Any) -> None:
        """Three items, a pod whose lists depend on the shopper."""
        items = [{"id": f"i{n}", "name": f"Item {n}", "data": {}} for n in range(3)]
        assert (await self.call("PUT", "/v2/items", {"items": items}))[0] < 300
        body: dict[str, Any] = {"id": "s", "strategy": "popular"}
        assert (await self.call("POST", "/admin/v1/strategy-configurations", body))[0] == 201
        body = {"id": "p", "display_name": "P", "chain": ["s"], "exclude_bought": True}
        assert (await self.call("POST", "/admin/v1/pods", body))[0] == 201
        container = service._container
        [fitted] = await container.training().train(self.merchant, ["s"], actor="test")
        assert fitted.error is None
        await container.serving().refresh()

        async def shown() -> bool:  # the catalogue is followed by polling
            return len((await self.recommended())[0]) == len(items)

        await until(shown)


async def test_it_starts_while_both_are_away_and_says_for_what_it_waits(
    stores: Stores, merchant: Any, tmp_path: Path
) -> None:
    await stores.postgres.set("refuse")
    await stores.redis.set("refuse")
    settings = Settings(database_url=stores.database_url, redis_url=stores.redis_url, home=tmp_path)
    service = build_service(settings, Place(Output(2), Metrics()))
    starting = asyncio.ensure_future(service.start())
    try:

        async def says() -> bool:
            return any("PostgreSQL" in one.detail for one in service.readiness.report().missing)

        await until(says)
        assert not starting.done()
        await stores.postgres.set("none")  # Redis is not waited for: PostgreSQL has it all
        async with asyncio.timeout(30):
            await starting
        assert service.readiness.report().ready
    finally:
        starting.cancel()
        await stores.redis.set("none")
        await service.stop()


async def test_postgresql_away_shops_notice_nothing_and_admins_are_told(
    stores: Stores, merchant: Any, database: Database, tmp_path: Path
) -> None:
    async with (
        whole_service(
            stores.database_url, stores.redis_url, tmp_path, event_spool=tmp_path / "spool"
        ) as (url, service),
        ClientSession(headers={"Authorization": encode_basic_auth(merchant.token, "")}) as http,
    ):
        shop = Shop(url, http, merchant)
        await shop.fill(service)
        before = await shop.recommended()
        assert before[0]
        assert await shop.track(1) == 200
        await stores.postgres.set("refuse")
        assert await shop.recommended() == before
        assert await shop.recommended("another") == before
        status, problem, headers = await shop.call("GET", "/admin/v1/pods")
        assert (status, problem["title"]) == (503, "Unavailable")
        assert int(headers["Retry-After"]) >= 1
        assert await shop.track(2) == 200  # it is on the disk
        await stores.postgres.set("none")
        assert await shop.track(3) == 200

        async def kept() -> bool:
            async with database.merchant(merchant.id) as connection:
                rows = await (await raw(connection)).fetch(
                    "SELECT item_id FROM event WHERE item_id LIKE 'e%' ORDER BY 1"
                )
            return [row["item_id"] for row in rows] == ["e1", "e2", "e3"]

        await until(kept)


@pytest.mark.parametrize("fault", ["refuse", "stall", "reset"])
async def test_redis_away_lists_are_full_and_say_what_they_go_without(
    stores: Stores, merchant: Any, tmp_path: Path, fault: str
) -> None:
    async with (
        whole_service(stores.database_url, stores.redis_url, tmp_path) as (url, service),
        ClientSession(headers={"Authorization": encode_basic_auth(merchant.token, "")}) as http,
    ):
        shop = Shop(url, http, merchant)
        await shop.fill(service)
        before, degraded = await shop.recommended()
        assert (len(before), degraded) == (3, None)
        await stores.redis.set(fault)
        assert await shop.recommended() == (before, "history")
        if fault == "refuse":
            await stores.postgres.set("refuse")  # and now both
            assert await shop.recommended() == (before, "history")
            await stores.postgres.set("none")
        await stores.redis.set("none")

        async def whole() -> bool:
            return await shop.recommended() == (before, None)

        await until(whole)
