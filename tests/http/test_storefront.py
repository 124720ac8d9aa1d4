"""GET /recommendations/v1/pods/{pod_id}, over HTTP, with the stores in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from app.domain.merchant import Role
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
from vitrine_sdk import EventType


@pytest.fixture
def shop() -> RecommendingShop:
    shop = RecommendingShop(
        [product(n) for n in range(28)]
        + [with_variations(28, "red", "violet"), with_variations(29, "blue")],
        sample_rate=1.0,
    )
    shop.strategy("popular", in_order(30))
    shop.strategy("similar", after_seeds(30))
    shop.strategy("personal", after_latest(30))
    shop.pod("home", "popular")
    shop.pod("pdp", "similar", "popular", num_results=4)
    shop.pod("for_you", "personal", "popular", num_results=4)
    return shop


@pytest.fixture
async def url(shop: RecommendingShop, tmp_path: Path) -> AsyncIterator[str]:
    async with shop.serve(tmp_path) as url:
        yield url


async def get(url: str, pod: str, query: str = "", *, key: str = KEY, status: int = 200) -> Any:
    address = f"{url}/recommendations/v1/pods/{pod}?key={key}&i=client-1&s=1&{query}"
    async with ClientSession() as session, session.get(address) as response:
        body = await response.read()
        assert response.status == status, body
        return json.loads(body)


async def test_the_answer_has_the_clients_shape(url: str) -> None:
    answer = await get(url, "pdp", "item_id=i3&num_results=2&section=Products&c=1.0&_dt=123")
    assert answer["request"] == {
        "pod_id": "pdp",
        "num_results": 2,
        "section": "Products",
        "item_id": "i3",
    }
    assert answer["response"] == {
        "results": [
            {
                "value": f"Item {n}",
                "data": {"id": f"i{n}", "url": f"/i{n}", "price": 10.0 * (n + 1)},
                "labels": {},
                "matched_terms": [],
                "is_slotted": False,
                "strategy": {"id": "similar"},
                "reason": "tested",
            }
            for n in (4, 5)
        ],
        "total_num_results": 2,
        "pod": {"id": "pdp", "display_name": "Pod pdp"},
    }
    assert len(answer["result_id"]) == 32


async def test_each_answer_has_its_own_result_id(url: str, shop: RecommendingShop) -> None:
    answers = [await get(url, "home") for _ in range(3)]
    assert len({answer.pop("result_id") for answer in answers}) == 3
    assert answers[0] == answers[1] == answers[2]
    assert shop.service.prepared_lists.hits == 1, "kept from the second time on"


async def test_filters_choose_before_the_cut(url: str) -> None:
    assert result_item_ids(await get(url, "home", "num_results=3&filters%5Bcolor%5D=blue")) == [
        "i2", "i5", "i8",
    ]  # fmt: skip
    both = "filters[color]=blue&filters[color]=red&filters[brand]=bolt&filters[price]=-inf-60"
    assert result_item_ids(await get(url, "home", both + "&num_results=2")) == ["i3", "i5"]
    assert result_item_ids(await get(url, "home", "filters[group_id]=g3&num_results=2")) == [
        "i3", "i7",
    ]  # fmt: skip
    expression = json.dumps(
        {
            "and": [
                {"not": {"name": "color", "value": "red"}},
                {"name": "price", "range": [200, "inf"]},
            ]
        }
    )
    assert result_item_ids(
        await get(url, "home", f"num_results=2&pre_filter_expression={expression}")
    ) == ["i19", "i20"]


async def test_a_short_list_says_why(url: str) -> None:
    answer = await get(url, "home", "filters[color]=red&filters[brand]=acme&num_results=9")
    assert answer["response"]["total_num_results"] == 6
    assert answer["response"]["short"] == {
        "asked": 9,
        "found": 6,
        "left_out": {"filtered": 24},
    }
    unknown = await get(url, "home", "filters[colour]=red")
    assert unknown["response"]["results"] == []
    assert unknown["response"]["short"]["unknown_attributes"] == ["colour"]


async def test_fields_and_hidden_fields(url: str) -> None:
    answer = await get(url, "home", "num_results=1&fmt_options%5Bfields%5D=price")
    assert answer["response"]["results"][0]["data"] == {"id": "i0", "price": 10.0}
    answer = await get(url, "home", "num_results=1&fmt_options[hidden_fields]=_cost")
    assert answer["response"]["results"][0]["data"] == {
        "id": "i0",
        "url": "/i0",
        "price": 10.0,
        "_cost": 0,
    }
    both = "num_results=1&fmt_options[fields]=url&fmt_options[hidden_fields]=_cost"
    answer = await get(url, "home", both)
    assert answer["response"]["results"][0]["data"] == {"id": "i0", "url": "/i0", "_cost": 0}
    assert answer["request"]["fmt_options"] == {"fields": ["url"], "hidden_fields": ["_cost"]}


async def test_variations(url: str) -> None:
    query = "filters[price]=280-inf&num_results=2"
    first, second = (await get(url, "home", query))["response"]["results"]
    assert first["data"]["id"] == "i27"
    assert second["data"]["variation_id"] == "i28-red"
    assert [v["data"]["size"] for v in second["variations"]] == ["S", "L", "S", "L"]

    (violet,) = (await get(url, "home", "filters[color]=violet"))["response"]["results"]
    assert (violet["data"]["variation_id"], violet["data"]["image_url"]) == (
        "i28-violet",
        "/violet.png",
    )
    assert len(violet["variations"]) == 4
    query = "filters[color]=violet&fmt_options[variations_return_type]=matched"
    (violet,) = (await get(url, "home", query))["response"]["results"]
    assert {v["data"]["variation_id"] for v in violet["variations"]} == {"i28-violet"}

    wanted = {
        "group_by": [{"name": "color", "field": "data.facets.color"}],
        "filter_by": {"not": {"field": "data.size", "value": "XL"}},
        "values": {
            "sizes": {"aggregation": "all", "field": "data.size"},
            "image": {"aggregation": "first", "field": "data.image_url"},
            "cheapest": {"aggregation": "min", "field": "data.price"},
            "dearest": {"aggregation": "max", "field": "data.price"},
            "count": {"aggregation": "count", "field": "data.price"},
            "small": {"aggregation": "value_count", "field": "data.size", "value": "S"},
            "sized": {"aggregation": "field_count", "field": "data.size"},
        },
        "dtype": "object",
    }
    query = f"filters[color]=violet&variations_map={json.dumps(wanted)}"
    (mapped,) = (await get(url, "home", query))["response"]["results"]
    assert "variations" not in mapped
    assert mapped["variations_map"] == {
        color: {
            "sizes": ["S", "L"],
            "image": f"/{color}.png",
            "cheapest": low,
            "dearest": low + 1,
            "count": 2,
            "small": 1,
            "sized": 2,
        }
        for color, low in (("red", 0), ("violet", 2))
    }
    wanted["dtype"] = "array"
    query = f"filters[color]=violet&variations_map={json.dumps(wanted)}"
    (listed,) = (await get(url, "home", query))["response"]["results"]
    assert [group["color"] for group in listed["variations_map"]] == ["red", "violet"]


async def test_a_chain_falls_through_and_fills(url: str, shop: RecommendingShop) -> None:
    answer = await get(url, "pdp")
    assert {result["strategy"]["id"] for result in answer["response"]["results"]} == {"popular"}
    answer = await get(url, "for_you")
    assert result_item_ids(answer) == ["i0", "i1", "i2", "i3"]
    shop.history.act("c:client-1", "i20")
    answer = await get(url, "for_you")
    assert result_item_ids(answer) == ["i21", "i22", "i23", "i24"]
    assert answer["response"]["results"][0]["strategy"] == {"id": "personal"}
    answer = await get(url, "for_you", "consent=false")
    assert result_item_ids(answer) == ["i0", "i1", "i2", "i3"], (
        "history is not used without consent"
    )


async def test_the_log_line_and_the_sample(
    url: str, shop: RecommendingShop, tmp_path: Path
) -> None:
    answer = await get(url, "pdp", "ui=user-7")
    line = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert (line["merchant"], line["pod"], line["strategy"], line["fallback"]) == (
        "shop", "pdp", "popular", "no_seeds",
    )  # fmt: skip
    (sample,) = shop.samples.recorded
    assert sample.result_id == answer["result_id"]
    assert list(sample.items) == result_item_ids(answer)
    assert sample.request["shopper"] == {"client_id": "client-1", "user_id": "user-7", "session": 1}
    await get(url, "pdp", "ui=user-8&consent=false")
    assert "user-8" not in str(shop.samples.recorded[-1].request)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("num_results=0", "num_results"),
        ("num_results=101", "num_results"),
        ("num_results=x", "num_results"),
        ("num_results=-1", "num_results"),
        ("num_results=1&num_results=2", "num_results"),
        ("num_results=99999999999999999999", "num_results"),
        ("section=Elsewhere", "section"),
        ("filters=red", "filters"),
        ("filters[color", "filters[color"),
        ("filters[color]=", "filters[color]"),
        ("filters[]=x", "filters[]"),
        ("filters[a][b]=x", "filters[a][b]"),
        ("filters[price]=20-10", "filters[price]"),
        ("filters[color]=%ff", "filters[color]"),
        ("pre_filter_expression={", "pre_filter_expression"),
        ("pre_filter_expression=null", "pre_filter_expression"),
        ('pre_filter_expression={"name":"a"}', "pre_filter_expression"),
        ('pre_filter_expression={"and":[{"or":[]}]}', "pre_filter_expression/and/0/or"),
        ("fmt_options[colour]=x", "fmt_options[colour]"),
        ("fmt_options[variations_return_type]=x", "fmt_options[variations_return_type]"),
        ("variations_map={}", "variations_map"),
        ('variations_map={"dtype":"object","values":{"a":{"aggregation":"sum","field":"x"}}}',
         "variations_map"),
        ('variations_map={"dtype":"object","values":{"a":{"aggregation":"all"}}}',
         "variations_map"),
        ("&".join(["item_id=a"] * 201), "item_id"),
        ("term=" + "x" * 1001, "term"),
        ("pre_filter_expression=" + "[" * 1001, "pre_filter_expression"),
    ],
)  # fmt: skip
async def test_bad_input_names_the_parameter(url: str, query: str, field: str) -> None:
    status = 413 if len(query) > 1000 else 400
    problem = await get(url, "home", query, status=status)
    assert [error["pointer"] for error in problem["errors"]] == [field]
    assert field in problem["message"]


async def test_unknown_keys_and_pods(url: str) -> None:
    assert "key" in (await get(url, "home", key="nobody's", status=401))["message"]
    assert "key" in (await get(url, "home", key="", status=400))["message"]
    assert "pod" in (await get(url, "nowhere", status=404))["message"]


async def test_a_pods_origins(tmp_path: Path) -> None:
    shop = RecommendingShop(3, origins=("https://shop.example",))
    shop.strategy("popular", in_order(3))
    shop.pod("home", "popular")
    async with shop.serve(tmp_path) as url, ClientSession() as session:
        address = f"{url}/recommendations/v1/pods/home?key={KEY}"
        allowed = await session.get(address, headers={"Origin": "https://shop.example"})
        assert allowed.status == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        refused = await session.get(address, headers={"Origin": "https://elsewhere.example"})
        assert refused.status == 403


async def test_tokens_are_known_by_their_digest(shop: RecommendingShop) -> None:
    await shop.serving.refresh()
    assert shop.serving.token("token-shop").role is Role.READER
    with pytest.raises(Exception, match="unknown or revoked"):
        shop.serving.token("token-other")


async def test_seen_and_bought_items_are_left_out(shop: RecommendingShop, tmp_path: Path) -> None:
    shop.pod("fresh", "popular", num_results=3, exclude_seen=True, exclude_bought=True)
    shop.pod("unbought", "popular", num_results=3, exclude_bought=True)
    shop.history.act("u:user-1", "i0", EventType.CLICK)
    shop.history.act("u:user-1", "i2", EventType.PURCHASE)
    async with shop.serve(tmp_path) as url:
        assert result_item_ids(await get(url, "fresh", "ui=user-1")) == ["i1", "i3", "i4"]
        assert result_item_ids(await get(url, "unbought", "ui=user-1")) == ["i0", "i1", "i3"]
        assert result_item_ids(await get(url, "fresh", "ui=user-2")) == ["i0", "i1", "i2"]
