"""The main job, whole: `vitrine serve` with two processes, both npm clients, `vitrine train`.

A back end uploads a catalogue, shoppers buy, strategies learn, pages get lists that react to what
the shopper does. Nothing is replaced by a stand-in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiohttp import ClientSession, encode_basic_auth

from app.postgres.database import Database, raw
from tests.clients.conftest import Client, NodeClients
from tests.served_shop import PATIENCE, VITRINE, serving, settings

KINDS = {"tea": range(8), "cups": range(8, 16), "lamps": range(16, 24)}


@dataclass
class Site:
    url: str
    merchant: Any
    key: str
    token: str
    environment: dict[str, str]
    http: ClientSession

    async def admin(self, method: str, path: str, body: Any = None, status: int = 201) -> Any:
        async with self.http.request(
            method,
            f"{self.url}/admin/v1/{path}",
            json=body,
            headers={"Authorization": encode_basic_auth(self.token, "")},
        ) as response:
            answer = await response.json()
            assert response.status == status, answer
            return answer

    async def run(self, *command: str) -> str:
        done = await asyncio.create_subprocess_exec(
            VITRINE,
            *command,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await done.communicate())[0].decode()
        assert done.returncode == 0, output
        return output


@pytest.fixture
async def site(
    database_url: str, redis_url: str, merchant: Any, tmp_path: Path
) -> AsyncIterator[Site]:
    # The machine that tests may be busy.
    environment = settings(database_url, redis_url, tmp_path / "home", VITRINE_REQUEST_BUDGET="10")
    async with (
        serving(environment, tmp_path / "serve.log", workers=2) as url,
        ClientSession() as http,
    ):
        yield Site(url, merchant.id, merchant.key, merchant.token, environment, http)


@pytest.fixture
def catalogue(site: Site, node_clients: NodeClients) -> Client:
    return node_clients.catalogue(site.url, site.key, site.token)


def product(number: int) -> dict[str, Any]:
    kind = next(kind for kind, numbers in KINDS.items() if number in numbers)
    return {
        "id": f"p{number}",
        "name": f"{kind} {number}",
        "data": {
            "url": f"/p/{number}",
            "price": 5.0 + number,
            "group_ids": [kind],
            "facets": [{"name": "kind", "values": [kind]}],
        },
    }


async def settled(look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    """What `look` gives once it is as wanted, several times in a row: each process has it."""
    until = time.monotonic() + PATIENCE
    good = 0
    while True:
        found = await look()
        good = good + 1 if wanted(found) else 0
        if good == 8:
            return found
        assert time.monotonic() < until, found
        await asyncio.sleep(0.02)


async def ids_of(shopper: Client, pod: str, **parameters: Any) -> list[str]:
    answer = await shopper("recommendations", "getRecommendations", pod, parameters)
    return [result["data"]["id"] for result in answer["response"]["results"]]


async def learn(site: Site, catalogue: Client) -> None:
    """A catalogue, a month of purchases, fitted strategies and their pods."""
    groups = [{"id": kind, "name": kind} for kind in KINDS]
    await catalogue("catalog", "addItemGroups", {"section": "Products", "itemGroups": groups})
    items = [product(number) for number in range(24)]
    await catalogue("catalog", "createOrReplaceItems", {"section": "Products", "items": items})
    now = time.time()
    events = [
        {
            "type": "purchase",
            "id": f"o{shopper}-{kind}",
            "user_id": f"u{shopper}",
            "time": now - (1 + shopper % 20) * 86400 - place,
            "order_id": f"o{shopper}-{kind}",
            "items": [
                {"item_id": f"p{n}", "quantity": 1, "price": 5.0 + n}
                for n in numbers
                if (n * 7 + shopper) % 3
            ],
        }
        for shopper in range(60)
        for place, (kind, numbers) in enumerate(KINDS.items())
        if (shopper + place) % 3
    ]
    async with site.http.post(
        f"{site.url}/v1/events",
        json=events,
        headers={"Authorization": encode_basic_auth(site.token, "")},
    ) as response:
        answer = await response.json()
        assert response.status == 200, answer
        assert {one["status"] for one in answer["events"]} == {"accepted"}, answer
    for name in ("popular", "similar", "personalized"):
        await site.admin("POST", "strategy-configurations", {"id": name, "strategy": name})
    for pod, chain in {
        "home_popular": ["popular"],
        "pdp_similar": ["similar", "popular"],
        "home_for_you": ["personalized", "popular"],
    }.items():
        await site.admin("POST", "pods", {"id": pod, "display_name": pod, "chain": chain})
    await site.run("train")


async def test_from_an_empty_shop_to_lists_that_follow_the_shopper(
    site: Site, catalogue: Client, node_clients: NodeClients, database: Database
) -> None:
    await learn(site, catalogue)
    shopper = node_clients.storefront(site.url, site.key, client_id="anne")

    popular = await settled(
        lambda: ids_of(shopper, "home_popular", numResults=5), lambda ids: len(ids) == 5
    )
    similar = await settled(
        lambda: ids_of(shopper, "pdp_similar", itemIds=["p9"], numResults=3),
        lambda ids: len(ids) == 3,
    )
    assert "p9" not in similar
    assert set(similar) <= {f"p{n}" for n in KINDS["cups"]}

    # A new shopper falls through to what is popular; a click changes that at once, in each process.
    assert await ids_of(shopper, "home_for_you", numResults=5) == popular
    await shopper(
        "tracker",
        "trackRecommendationClick",
        {
            "podId": "pdp_similar",
            "strategyId": "similar",
            "itemId": "p17",
            "itemName": "lamps 17",
            "resultId": "r-1",
            "section": "Products",
        },
    )
    lamps = {f"p{n}" for n in KINDS["lamps"]}
    for_you = await settled(
        lambda: ids_of(shopper, "home_for_you", numResults=4), lambda ids: set(ids[:3]) <= lamps
    )
    assert for_you != popular[:4]
    # It is another shopper's business.
    stranger = node_clients.storefront(site.url, site.key, client_id="bert")
    assert await ids_of(stranger, "home_for_you", numResults=5) == popular

    async with database.merchant(site.merchant) as connection:
        rows = await (await raw(connection)).fetch(
            "SELECT item_id, pod_id, result_id FROM event WHERE client_id = 'anne'"
        )
    assert [tuple(row) for row in rows] == [("p17", "pdp_similar", "r-1")]


async def test_what_is_changed_in_one_process_is_used_by_all(
    site: Site, catalogue: Client, node_clients: NodeClients
) -> None:
    await learn(site, catalogue)
    shopper = node_clients.storefront(site.url, site.key, client_id="anne")
    await settled(lambda: ids_of(shopper, "home_popular"), lambda ids: len(ids) == 10)

    # A pod
    pod = await site.admin("GET", "pods/home_popular", status=200)
    async with site.http.put(
        f"{site.url}/admin/v1/pods/home_popular",
        json={**pod, "num_results": 3},
        headers={"Authorization": encode_basic_auth(site.token, ""), "If-Match": "*"},
    ) as response:
        assert response.status == 200, await response.text()
    first = await settled(lambda: ids_of(shopper, "home_popular"), lambda ids: len(ids) == 3)

    # The catalogue
    await catalogue("catalog", "deleteItems", {"section": "Products", "items": [{"id": first[0]}]})
    await settled(lambda: ids_of(shopper, "home_popular"), lambda ids: first[0] not in ids)

    # A model, and the way back from it
    published = await site.admin("GET", "models?configuration_id=popular", status=200)
    number = published["items"][0]["number"]
    await site.run("train", "popular")
    await site.run("models", "rollback", "popular")
    back = await site.admin("GET", "models?configuration_id=popular", status=200)
    serving_ = [one["number"] for one in back["items"] if one["state"] == "published"]
    assert serving_ == [number]
    await settled(lambda: ids_of(shopper, "home_popular"), lambda ids: len(ids) == 3)


async def test_postgresql_is_not_on_the_path_of_a_recommendation(
    site: Site, catalogue: Client, node_clients: NodeClients, admin_url: str
) -> None:
    await learn(site, catalogue)
    shopper = node_clients.storefront(site.url, site.key, client_id="anne")
    pods = ("home_popular", "home_for_you")
    before = {
        pod: await settled(lambda pod=pod: ids_of(shopper, pod), lambda ids: len(ids) == 10)
        for pod in pods
    }
    place = urlsplit(admin_url)
    name = place.path.removeprefix("/")
    superuser = await asyncpg.connect(urlunsplit(place._replace(path="/postgres")))
    try:  # nobody gets a connection, and those that there are, are cut
        await superuser.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
            name,
        )
        for pod in pods * 5:
            assert await ids_of(shopper, pod) == before[pod]
        async with site.http.get(
            f"{site.url}/admin/v1/pods",
            headers={"Authorization": encode_basic_auth(site.token, "")},
        ) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
    finally:
        await superuser.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await superuser.close()
