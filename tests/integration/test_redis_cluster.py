"""Items, histories and clicks on a Redis Cluster of two nodes: every command names one key."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.domain.catalogue import DEFAULT_SECTION, ItemId
from app.domain.event import Event, Line, Shopper
from app.domain.item_index import ItemIndexes
from app.domain.merchant import MerchantId
from app.domain.rendered import RenderedItems
from app.embedded.binaries import redis_binary
from app.redis.connection import RedisConnection
from app.redis.history import HistoryStore
from app.redis.item_features import RedisItemFeatures
from app.redis.placements import Placements
from app.services.attribute import Click, Placement, Search
from app.services.catalogue_follow import Follower
from app.services.catalogue_sync import Projector
from app.services.catalogue_verify import Verifier
from tests.catalogue_shop import open_shop, shown
from vitrine_sdk import EventType

SLOTS = 16_384


def free_port() -> int:
    """One whose cluster bus port, 10,000 higher, is valid too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= 55_000:
            return port


async def answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except RedisError:
        return False


@pytest.fixture
async def cluster_url(tmp_path: Path) -> AsyncIterator[str]:
    ports = [free_port(), free_port()]
    nodes = [
        subprocess.Popen(
            [
                *(redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
                *("--dir", tmp_path, "--cluster-enabled", "yes", "--appendonly", "no"),
                *("--cluster-config-file", f"nodes-{port}.conf", "--daemonize", "no"),
            ],
            stdout=subprocess.DEVNULL,
        )
        for port in ports
    ]
    clients = [Redis(host="127.0.0.1", port=port) for port in ports]
    try:
        async with asyncio.timeout(30):
            for client in clients:
                while not await answers(client):
                    await asyncio.sleep(0.05)
            half = SLOTS // 2
            await clients[0].execute_command("CLUSTER", "ADDSLOTS", *range(half))
            await clients[1].execute_command("CLUSTER", "ADDSLOTS", *range(half, SLOTS))
            await clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", ports[1])
            for client in clients:
                while (await client.cluster("INFO"))["cluster_state"] != "ok":
                    await asyncio.sleep(0.05)
        yield f"redis://127.0.0.1:{ports[0]}"
    finally:
        for client in clients:
            await client.aclose()
        for node in nodes:
            node.kill()
            node.wait()


@pytest.mark.slow
async def test_projecting_and_following(
    cluster_url: str,
    module_database_url: str,
    module_redis_url: str,
    create_merchant: Callable[..., Any],
    tmp_path: Path,
) -> None:
    async with open_shop(module_database_url, module_redis_url, create_merchant, tmp_path) as shop:
        connection = RedisConnection(cluster_url, cluster=True)
        cache = RedisItemFeatures(connection)
        projector = Projector(shop.catalogue, cache)
        await shop.put(*({"id": f"i{n}", "data": {"price": n}} for n in range(600)))
        await projector.round()
        wanted = await shop.in_postgres()
        found = {i.id: i async for part in cache.scan(shop.id, DEFAULT_SECTION) for i in part}
        assert found == wanted
        assert await cache.count(shop.id, DEFAULT_SECTION) == 600
        fetched = await cache.features(shop.id, DEFAULT_SECTION, ["i5", "none", "i599"])
        assert fetched == [wanted["i5"], None, wanted["i599"]]
        holders = [await connection.client.dbsize(target_nodes=n) for n in (
            connection.client.get_primaries()
        )]  # fmt: skip
        assert len(holders) == 2
        assert min(holders) > 50  # a section is spread over the nodes

        indexes = ItemIndexes(RenderedItems(1 << 20))
        follower = Follower(indexes, cache, shop.catalogue)
        await follower.poll()
        await shop.put({"id": "i5", "data": {"price": 99}})
        await shop.call("DELETE", "/v2/items", {"items": [{"id": "i6"}]})
        await projector.round()
        await follower.poll()
        index = indexes.get(shop.id, DEFAULT_SECTION)
        assert shown(index)["i5"] == (True, 99.0)
        assert "i6" not in shown(index)
        assert await Verifier(shop.catalogue, cache).verify(shop.id, DEFAULT_SECTION) == 0
        assert await projector.rebuild(shop.id, DEFAULT_SECTION) is True
        await connection.close()


@pytest.mark.slow
async def test_histories_and_clicks(cluster_url: str) -> None:
    shop = MerchantId("shop")
    connection = RedisConnection(cluster_url, cluster=True)
    history = HistoryStore(connection.client, run=connection.run)
    placements = Placements(connection)
    events = [
        Event(
            merchant=shop,
            type=EventType.CLICK,
            action="click",
            time=float(n),
            received=float(n),
            shopper=Shopper(f"c{n}"),
            fingerprint=b"",
            lines=(Line(item_id=ItemId(f"i{n}")),),
        )
        for n in range(50)
    ]
    await history.add(events)
    home = Placement("home", "popular")
    await placements.remember([Click(shop, f"c:c{n}", [f"i:i{n}"], home) for n in range(50)])
    searches = [Search(shop, [f"c:c{n}"], [f"i:i{n}"]) for n in range(50)]
    assert await placements.find(searches) == [home] * 50
    for n in range(50):
        (entry,) = await history.read(shop, Shopper(f"c{n}"), 10)
        assert (entry.item_id, entry.time) == (f"i{n}", float(n))
    await connection.close()
