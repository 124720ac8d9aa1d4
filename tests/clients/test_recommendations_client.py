"""Both of Constructor's clients read pods, each parameter used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.recommending_shop import (
    KEY,
    RecommendingShop,
    after_latest,
    after_seeds,
    in_order,
    product,
    result_item_ids,
    with_variations,
)

from .conftest import Client, ClientError, NodeClients

MAP = {
    "group_by": [{"name": "color", "field": "data.facets.color"}],
    "values": {"sizes": {"aggregation": "all", "field": "data.size"}},
    "dtype": "object",
}
EXPRESSION = {
    "or": [
        {"name": "color", "value": "violet"},
        {"and": [{"name": "brand", "value": "bolt"}, {"name": "price", "range": ["-inf", 60]}]},
    ]
}


Served = tuple[RecommendingShop, str]  # and its URL


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Served]:
    shop = RecommendingShop(
        [product(n) for n in range(20)] + [with_variations(20, "red", "violet")]
    )
    shop.strategy("popular", in_order(21))
    shop.strategy("similar", after_seeds(21))
    shop.strategy("latest", after_latest(21))
    shop.pod("home_popular", "popular")
    shop.pod("pdp_similar", "similar", "popular")
    shop.pod("home_for_you", "latest", "popular")
    async with shop.serve(tmp_path) as url:
        yield shop, url


@pytest.fixture(params=["javascript", "node"])
async def read(request: pytest.FixtureRequest, node_clients: NodeClients, shop: Served) -> Any:
    """`await read(pod, parameters, **user)` by either client; `read.client` is it."""
    _, url = shop
    javascript = request.param == "javascript"

    class Read:
        client: Client

        async def __call__(self, pod: str, parameters: Any = None, **user: Any) -> Any:
            if javascript:  # the page's client knows its shopper from the beginning
                self.client = node_clients.storefront(url, KEY, **user)
                return await self.client("recommendations", "getRecommendations", pod, parameters)
            self.client = node_clients.catalogue(url, KEY, "token")
            known = {
                "clientId": user.get("client_id", "client-1"),
                "sessionId": 1,
                **{name: user[name] for name in ("userId", "segments") if name in user},
            }
            return await self.client(
                "recommendations", "getRecommendations", pod, parameters or {}, known
            )

    return Read()


async def test_a_pod_is_read(read: Any) -> None:
    answer = await read("home_popular")
    assert result_item_ids(answer) == [f"i{n}" for n in range(10)]
    assert answer["response"]["pod"] == {"id": "home_popular", "display_name": "Pod home_popular"}
    assert answer["response"]["total_num_results"] == 10


async def test_every_parameter_is_understood(read: Any) -> None:
    parameters = {
        "numResults": 3,
        "itemIds": ["i2", "i4"],
        "variationId": "i2-red",
        "section": "Products",
        "term": "büro & co",
        "filters": {"color": ["red", "blue"], "group_id": "all", "price": "-inf-120"},
        "preFilterExpression": EXPRESSION,
        "hiddenFields": ["_cost"],
        "variationsMap": MAP,
    }
    answer = await read("pdp_similar", parameters, userId="user-1", segments=["vip", "new"])
    assert answer["request"] == {
        "pod_id": "pdp_similar",
        "num_results": 3,
        "section": "Products",
        "item_id": ["i2", "i4"],
        "variation_id": "i2-red",
        "term": "büro & co",
        "filters": {"color": ["red", "blue"], "group_id": ["all"], "price": ["-inf-120"]},
        "pre_filter_expression": EXPRESSION,
        "us": ["vip", "new"],
        "variations_map": MAP,
        "fmt_options": {"hidden_fields": ["_cost"]},
    }
    assert result_item_ids(answer) == ["i3", "i5"], "bolt, red or blue, and no more than 60"
    assert answer["response"]["results"][0]["data"]["_cost"] == 3
    sent = dict(parse_qsl(urlsplit(read.client.requests[0]["url"]).query))
    assert {"key", "i", "s", "c", "ui", "us"} <= sent.keys()


async def test_one_seed_and_one_filter(read: Any) -> None:
    answer = await read("pdp_similar", {"itemIds": "i4", "filters": {"color": "blue"}})
    assert result_item_ids(answer)[:3] == ["i5", "i8", "i11"]
    assert answer["request"]["item_id"] == "i4"


async def test_a_variations_map_is_in_the_result(read: Any) -> None:
    answer = await read("home_popular", {"filters": {"color": "violet"}, "variationsMap": MAP})
    (result,) = answer["response"]["results"]
    assert result["data"]["variation_id"] == "i20-violet"
    assert result["variations_map"] == {
        "red": {"sizes": ["S", "L"]},
        "violet": {"sizes": ["S", "L"]},
    }


async def test_format_options(node_clients: NodeClients, shop: Served) -> None:
    """Only the page's client has them."""
    client = node_clients.storefront(shop[1], KEY, testCells={"layout": "b"})
    parameters = {
        "numResults": 1,
        "fmtOptions": {
            "fields": ["price"], "hidden_fields": ["_cost"], "groups_max_depth": 2,
            "variations_return_type": "matched",
        },
    }  # fmt: skip
    answer = await client("recommendations", "getRecommendations", "home_popular", parameters)
    assert answer["response"]["results"][0]["data"] == {"id": "i0", "price": 10.0, "_cost": 0}
    assert "ef-layout=b" in client.requests[0]["url"]


async def test_the_shoppers_history_counts(read: Any, shop: Served) -> None:
    shop[0].history.act("u:user-1", "i6")
    answer = await read("home_for_you", {"numResults": 2}, userId="user-1")
    assert result_item_ids(answer) == ["i7", "i8"]
    answer = await read("home_for_you", {"numResults": 2}, client_id="someone-else")
    assert result_item_ids(answer) == ["i0", "i1"]


@pytest.mark.parametrize(
    ("pod", "parameters", "status", "message"),
    [
        ("home_popular", {"numResults": 0}, 400, "num_results"),
        ("home_popular", {"numResults": 101}, 400, "num_results"),
        ("home_popular", {"numResults": "x"}, 400, "num_results"),
        ("home_popular", {"filters": {"price": "9-1"}}, 400, "filters[price]"),
        ("home_popular", {"preFilterExpression": {"name": "a"}}, 400, "pre_filter_expression"),
        ("home_popular", {"section": "Elsewhere"}, 400, "section"),
        ("no such pod", {}, 404, "no such pod"),
    ],
)
async def test_errors_come_as_the_client_expects_them(
    read: Any, pod: str, parameters: Any, status: int, message: str
) -> None:
    with pytest.raises(ClientError) as caught:
        await read(pod, parameters)
    assert caught.value.status == status
    assert message in caught.value.message


async def test_an_unknown_key(node_clients: NodeClients, shop: Served) -> None:
    client = node_clients.storefront(shop[1], "nobody")
    with pytest.raises(ClientError) as caught:
        await client("recommendations", "getRecommendations", "home_popular")
    assert caught.value.status == 401
    assert "key" in caught.value.message
