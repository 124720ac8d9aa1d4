"""The driver itself, against a server that only records."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from .conftest import ClientError, NodeClients

Seen = list[tuple[str, str, str, bytes]]


@pytest.fixture
async def recorder() -> AsyncIterator[tuple[str, Seen]]:
    seen: Seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(
            (
                request.method,
                request.rel_url.raw_path,
                request.headers.get("Authorization", ""),
                await request.read(),
            )
        )
        if request.query.get("section") == "wrong":
            return web.json_response({"message": "section: there is no such section"}, status=400)
        return web.json_response({"task_id": 7, "task_status_path": "/v1/tasks/7"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/")).rstrip("/"), seen


async def test_catalogue_client_sends_over_plain_http_with_its_token(
    node_clients: NodeClients, recorder: tuple[str, Seen], tmp_path: Path
) -> None:
    url, seen = recorder
    catalogue = node_clients.catalogue(url, "key-a", "tok-a")
    items = [{"id": "1", "name": "One"}]
    assert (await catalogue("catalog", "createOrReplaceItems", {"items": items}))["task_id"] == 7
    authorization = "Basic " + base64.b64encode(b"tok-a:").decode()
    assert seen[0][:3] == ("PUT", "/v2/items", authorization)
    assert catalogue.requests[0]["status"] == 200

    file = tmp_path / "items.csv"
    file.write_text("id,item_name\n1,One\n")
    parameters: dict[str, Any] = {"section": "Products", "items": {"$file": str(file)}}
    await catalogue("catalog", "replaceCatalog", parameters)
    assert b"1,One" in seen[1][3]


async def test_errors_come_with_message_and_status(
    node_clients: NodeClients, recorder: tuple[str, Seen]
) -> None:
    catalogue = node_clients.catalogue(recorder[0], "key-a", "tok-a")
    with pytest.raises(ClientError, match="no such section") as caught:
        await catalogue("catalog", "retrieveItems", {"section": "wrong"})
    assert caught.value.status == 400


async def test_tracking_has_arrived_when_the_call_returns(
    node_clients: NodeClients, recorder: tuple[str, Seen]
) -> None:
    url, seen = recorder
    storefront = node_clients.storefront(url, "key-a", headers={"X-Test": "1"})
    await storefront("tracker", "trackItemDetailLoad", {"itemName": "One", "itemId": "1"})
    assert [(method, path) for method, path, _, _ in seen] == [
        ("POST", "/v2/behavioral_action/item_detail_load")
    ]
    with pytest.raises(ClientError):
        await storefront("tracker", "trackItemDetailLoad")
