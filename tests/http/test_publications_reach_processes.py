"""Publications over HTTP while requests run against `vitrine serve --workers 2`: no request of
either process sees a mixture or an error, and each comes to the last."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector

from tests.served_shop import PATIENCE, serving, settings

SLOTS = 6
GENERATIONS = 20
TOKENS = 12  # the bound on calls is a token's
ASKING = 3


class Site:
    def __init__(self, url: str, merchant: Any, http: ClientSession) -> None:
        self.url, self.merchant, self.http = url, merchant, http
        self.answered = Counter[int]()  # by process
        self.tokens = itertools.cycle([merchant.token])

    async def call(self, method: str, path: str, body: Any, **query: str) -> Any:
        async with self.http.request(
            method,
            f"{self.url}{path}",
            json=body,
            params=query,
            headers={"Authorization": f"Bearer {next(self.tokens)}", "If-Match": "*"},
        ) as response:
            text = await response.text()
            assert response.status < 300, text
            return json.loads(text)

    async def shown(self) -> list[int]:
        """The numbers of the items in the list that one of the processes gives: each request has a
        connection of its own, which the system hands to either."""
        async with self.http.get(
            f"{self.url}/recommendations/v1/pods/home",
            params={"key": self.merchant.key, "i": "anne", "s": "1", "num_results": str(SLOTS)},
        ) as response:
            text = await response.text()
            assert response.status == 200, text
            # Each process counts its requests on from a random number of 64 bits.
            self.answered[int(response.headers["X-Request-Id"], 16) >> 32] += 1
        return [int(one["data"]["id"][1:]) for one in json.loads(text)["response"]["results"]]


def rules(generation: int) -> dict[str, Any]:
    """Pins on every slot, of items that are in one generation alone."""
    first = generation % GENERATIONS * SLOTS
    return {
        "id": "main",
        "rules": [
            {
                "id": f"pin{n}",
                "then": [{"type": "pin", "item_id": f"p{first + n}", "slot": n + 1}],
            }
            for n in range(SLOTS)
        ],
    }


@pytest.fixture
async def site(
    database_url: str, redis_url: str, merchant: Any, tmp_path: Path
) -> AsyncIterator[Site]:
    # Without the bound on queues: a busy machine is no fault of a publication.
    environment = settings(
        database_url,
        redis_url,
        tmp_path / "home",
        VITRINE_REQUEST_BUDGET="10",
        VITRINE_QUEUE_SECONDS="0",
        VITRINE_POLL_SECONDS="0.02",
    )
    async with (
        serving(environment, tmp_path / "serve.log", workers=2) as url,
        ClientSession(connector=TCPConnector(force_close=True)) as http,
    ):
        yield Site(url, merchant, http)


async def open_shop(site: Site) -> None:
    items = [
        {"id": f"p{n}", "name": f"Item {n}", "data": {"url": f"/p/{n}", "price": 1.0 + n}}
        for n in range(GENERATIONS * SLOTS)
    ]
    await site.call("PUT", "/v2/items", {"items": items}, key=site.merchant.key)
    await site.call(
        "POST", "/admin/v1/strategy-configurations", {"id": "best", "strategy": "popular"}
    )
    pod = {"id": "home", "display_name": "home", "chain": ["best"]}
    await site.call("POST", "/admin/v1/pods", pod)
    await site.call("POST", "/admin/v1/rule-sets", rules(0))
    await site.call("POST", "/admin/v1/rule-sets/main/publish", {})
    tokens = [
        (await site.call("POST", "/admin/v1/tokens", {"role": "merchandiser"}))["secret"]
        for _ in range(TOKENS)
    ]
    await settle(site, 0)
    site.tokens = itertools.cycle(tokens)


async def settle(site: Site, generation: int) -> None:
    """Wait until both processes show the generation."""
    wanted = [generation % GENERATIONS * SLOTS + n for n in range(SLOTS)]
    until = time.monotonic() + PATIENCE
    row = 0
    while row < 24:  # in a row: 2 ** -23, that all are of one process
        try:
            row = row + 1 if await site.shown() == wanted else 0
        except AssertionError:  # the pod has not reached it
            row = 0
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


async def publish_and_ask(site: Site, publications: int) -> None:
    await open_shop(site)
    site.answered.clear()
    done = asyncio.Event()
    seen: set[int] = set()

    async def ask() -> None:
        while not done.is_set():
            shown = await site.shown()
            assert len(shown) == SLOTS
            assert shown[0] % SLOTS == 0
            assert shown == list(range(shown[0], shown[0] + SLOTS)), "a mixture"
            seen.add(shown[0])

    async def publish() -> None:
        for number in range(1, publications + 1):
            await site.call("PUT", "/admin/v1/rule-sets/main", rules(number))
            made = await site.call("POST", "/admin/v1/rule-sets/main/publish", {})
            assert made["number"] == number + 1
        await settle(site, publications)
        done.set()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(ASKING):
            tasks.create_task(ask())
        tasks.create_task(publish())
    assert len(seen) > min(publications, GENERATIONS) / 4, "requests ran while rules changed"
    assert len(site.answered) == 2
    assert min(site.answered.values()) > 10, "both processes were asked meanwhile"


async def test_publications_reach_both_processes(site: Site) -> None:
    await publish_and_ask(site, 40)


@pytest.mark.slow
async def test_a_thousand_publications_reach_both_processes(site: Site) -> None:
    await publish_and_ask(site, 1_000)
