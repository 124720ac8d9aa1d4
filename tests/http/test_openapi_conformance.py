"""Schemathesis over the whole OpenAPI document of `vitrine serve`: no 5xx, no answer off its
schema, whatever is sent."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.served_shop import PATIENCE, serving, settings

HOOKS = Path(__file__).with_name("conformance_hooks.py")
PROGRAMS = Path(sys.executable).parent
TOKENS = 40
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
KNOWN = {
    "pod_id": ["home", "pdp"],
    "rule_set_id": ["main", "draft"],
    "rule_id": ["first"],
    "number": ["1"],
    "configuration_id": ["best"],
    "model_id": ["best:1"],
    "name": ["popular", "similar"],
    "group_id": ["tea", "all"],
    "action": ["recommendation_result_click", "item_detail_load", "add_to_cart", "purchase"],
    "kind": ["items", "variations"],
}


class Shop:
    """A server process with something of everything."""

    def __init__(self, url: str, merchant: Any, http: ClientSession) -> None:
        self.url, self.merchant, self.http = url, merchant, http
        self.tokens: list[str] = []
        self.known: dict[str, list[str]] = dict(KNOWN)

    async def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        async with self.http.request(
            method,
            f"{self.url}{path}",
            json=body,
            params=query,
            headers={"Authorization": f"Bearer {self.merchant.token}", "If-Match": "*"},
        ) as response:
            text = await response.text()
            assert response.status < 300, text
            return json.loads(text) if text else None

    async def fill(self) -> None:
        groups = [{"id": "all", "name": "All"}, {"id": "tea", "name": "Tea", "parent_id": "all"}]
        await self.call("PUT", "/v1/item_groups", {"item_groups": groups}, key=self.merchant.key)
        items = [
            {
                "id": f"p{n}",
                "name": f"Tea {n}",
                "data": {
                    "url": f"/p/{n}",
                    "price": 5.0 + n,
                    "group_ids": ["tea"],
                    "facets": [{"name": "brand", "values": [f"b{n % 3}"]}],
                },
            }
            for n in range(24)
        ]
        await self.call("PUT", "/v2/items", {"items": items}, key=self.merchant.key)
        for id_, strategy in (("best", "popular"), ("like", "similar")):
            await self.call(
                "POST", "/admin/v1/strategy-configurations", {"id": id_, "strategy": strategy}
            )
        for pod, chain in (("home", ["best"]), ("pdp", ["like", "best"])):
            body = {"id": pod, "display_name": pod, "chain": chain}
            await self.call("POST", "/admin/v1/pods", body)
        everything = {"type": "every"}
        fill = {"type": "fill", "slots": [1, 2, 3], "items": everything}
        for id_ in ("main", "draft"):
            rules = [{"id": "first", "then": [fill]}]
            await self.call("POST", "/admin/v1/rule-sets", {"id": id_, "rules": rules})
        await self.call("POST", "/admin/v1/rule-sets/main/publish", {})
        webhook = {"url": "https://shop.example/hook", "events": ["task.done"]}
        made = await self.call("POST", "/admin/v1/webhooks", webhook)
        self.known["webhook_id"] = [str(made["webhook"]["id"])]
        for _ in range(TOKENS):
            made = await self.call("POST", "/admin/v1/tokens", {"role": "administrator"})
            self.tokens.append(made["secret"])
        until = time.monotonic() + PATIENCE
        while True:
            async with self.http.get(
                f"{self.url}/recommendations/v1/pods/home",
                params={"key": self.merchant.key, "i": "anne", "s": "1"},
            ) as response:
                if response.status == 200 and (await response.json())["response"]["results"]:
                    return
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


@pytest.fixture
async def shop(
    database_url: str, redis_url: str, merchant: Any, tmp_path: Path
) -> AsyncIterator[Shop]:
    log = tmp_path / "serve.log"
    # Without the bound on queues: a busy machine is no answer off its schema.
    environment = settings(
        database_url,
        redis_url,
        tmp_path / "home",
        VITRINE_REQUEST_BUDGET="5",
        VITRINE_QUEUE_SECONDS="0",
    )
    async with serving(environment, log, workers=1) as url, ClientSession() as http:
        shop = Shop(url, merchant, http)
        await shop.fill()
        yield shop
        failed = [line for line in log.read_text().splitlines() if "request_failed" in line]
        assert failed == []


async def attack(shop: Shop, folder: Path, *arguments: str) -> str:
    told = {"key": shop.merchant.key, "tokens": shop.tokens, "known": shop.known}
    run = await asyncio.create_subprocess_exec(
        PROGRAMS / "schemathesis",
        "run",
        f"{shop.url}/openapi.json",
        f"--checks={','.join(CHECKS)}",
        "--seed=1",
        "--generation-database=none",
        "--suppress-health-check=all",
        "--continue-on-failure",
        "--no-color",
        "--request-timeout=60",
        *arguments,
        cwd=folder,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": HOOKS.stem,
            "PYTHONPATH": str(HOOKS.parent),
            "VITRINE_CONFORMANCE": json.dumps(told),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await run.communicate())[0].decode()
    assert run.returncode == 0, output
    return output


async def test_no_answer_is_off_its_schema(shop: Shop, tmp_path: Path) -> None:
    output = await attack(
        shop, tmp_path, "--phases=examples,fuzzing", "--max-examples=4", "--no-shrink"
    )
    assert_all_tested(output)


@pytest.mark.slow
async def test_no_answer_is_off_its_schema_whatever_is_sent(shop: Shop, tmp_path: Path) -> None:
    output = await attack(shop, tmp_path, "--phases=examples,fuzzing", "--max-examples=12")
    assert_all_tested(output)


def assert_all_tested(output: str) -> None:
    selected = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", output)
    assert selected is not None, output
    assert len(set(selected.groups())) == 1, output
    assert int(selected[1]) > 80, output
