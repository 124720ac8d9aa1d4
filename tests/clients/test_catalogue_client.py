"""Constructor's client for back ends, unmodified, writes and reads the catalogue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.catalogue_shop import CatalogueShop, open_shop

from .conftest import Client, ClientError, NodeClients

ITEMS = [
    {"id": "1", "name": "One", "data": {"price": 5, "group_ids": ["a"], "url": "/1"}},
    {"id": "2", "name": "Two", "suggested_score": 7, "data": {"facets": {"colour": ["red"]}}},
]


@pytest.fixture
async def shop(
    module_database_url: str,
    module_redis_url: str,
    create_merchant: Callable[..., Any],
    tmp_path: Path,
) -> AsyncIterator[CatalogueShop]:
    async with open_shop(
        module_database_url, module_redis_url, create_merchant, tmp_path
    ) as opened:
        yield opened


@pytest.fixture
def catalogue(shop: CatalogueShop, node_clients: NodeClients) -> Client:
    return node_clients.catalogue(shop.url, shop.merchant.key, shop.merchant.token)


async def ids(catalogue: Client, **query: Any) -> list[str]:
    return [item["id"] for item in (await catalogue("catalog", "retrieveItems", query))["items"]]


async def test_items_are_created_replaced_changed_and_deleted(
    shop: CatalogueShop, catalogue: Client
) -> None:
    answer = await catalogue("catalog", "createOrReplaceItems", {"items": ITEMS})
    assert answer["task_status_path"] == f"/v1/tasks/{answer['task_id']}"
    found = await catalogue("catalog", "retrieveItems")
    assert found["total_count"] == 2
    for item in found["items"]:
        assert item.pop("updated_at").endswith("Z")
    assert found["items"] == ITEMS

    await catalogue("catalog", "createOrReplaceItems", {"items": [{"id": "1", "name": "Uno"}]})
    (one,) = (await catalogue("catalog", "retrieveItems", {"ids": ["1"]}))["items"]
    assert (one["name"], one.get("data")) == ("Uno", None)

    change = {"id": "2", "data": {"price": 3, "facets": None}}
    await catalogue("catalog", "updateItems", {"items": [change]})
    (two,) = (await catalogue("catalog", "retrieveItems", {"ids": ["2"]}))["items"]
    assert (two["name"], two["suggested_score"], two["data"]) == ("Two", 7, {"price": 3})

    await catalogue("catalog", "deleteItems", {"items": [{"id": "1"}, {"id": "none"}]})
    assert await ids(catalogue) == ["2"]
    assert await shop.in_redis() == await shop.in_postgres()


async def test_what_is_missing_in_a_patch(catalogue: Client) -> None:
    await catalogue("catalog", "createOrReplaceItems", {"items": ITEMS})
    change = [{"id": "1", "name": "Uno"}, {"id": "3", "name": "Three"}]
    with pytest.raises(ClientError, match=r'/items/1/id: "3" there is no such item') as caught:
        await catalogue("catalog", "updateItems", {"items": change})
    assert caught.value.status == 400
    (one,) = (await catalogue("catalog", "retrieveItems", {"ids": ["1"]}))["items"]
    assert one["name"] == "One"

    await catalogue("catalog", "updateItems", {"items": change, "onMissing": "IGNORE"})
    assert await ids(catalogue) == ["1", "2"]
    await catalogue("catalog", "updateItems", {"items": change, "onMissing": "CREATE"})
    assert await ids(catalogue) == ["1", "2", "3"]
    with pytest.raises(ClientError, match="/items/0/name: is required"):
        await catalogue("catalog", "updateItems", {"items": [{"id": "4"}], "onMissing": "CREATE"})


async def test_pages_and_sections(catalogue: Client) -> None:
    items = [{"id": f"{n:02}", "name": f"Item {n}"} for n in range(5)]
    await catalogue("catalog", "createOrReplaceItems", {"items": items})
    other = {"items": [{"id": "x", "name": "X"}], "section": "Search Suggestions"}
    await catalogue("catalog", "createOrReplaceItems", other)
    assert await ids(catalogue, numResultsPerPage=2, page=3) == ["04"]
    assert await ids(catalogue, numResultsPerPage=2) == ["00", "01"]
    assert await ids(catalogue, section="Search Suggestions") == ["x"]
    assert await ids(catalogue, section="Nowhere") == []


async def test_variations(shop: CatalogueShop, catalogue: Client) -> None:
    await catalogue("catalog", "createOrReplaceItems", {"items": ITEMS})
    variations = [
        {"id": "1-s", "item_id": "1", "name": "Small", "data": {"size": "S"}},
        {"id": "1-l", "item_id": "1", "data": {"size": "L"}},
    ]
    await catalogue("catalog", "createOrReplaceVariations", {"variations": variations})
    found = (await catalogue("catalog", "retrieveVariations", {"itemId": "1"}))["variations"]
    assert [variation["id"] for variation in found] == ["1-l", "1-s"]
    features = await shop.in_redis()
    assert features["1"].attributes["size"] == ("L", "S")

    move = {"variations": [{"id": "1-l", "item_id": "2"}]}
    await catalogue("catalog", "updateVariations", move)
    features = await shop.in_redis()
    assert [v.id for v in features["1"].variations] == ["1-s"]
    assert [v.id for v in features["2"].variations] == ["1-l"]

    await catalogue("catalog", "deleteVariations", {"variations": [{"id": "1-s"}]})
    assert (await shop.in_redis())["1"].variations == ()
    lost = {"variations": [{"id": "9", "item_id": "none"}]}
    with pytest.raises(ClientError, match='/variations/0/item_id: "none" there is no such item'):
        await catalogue("catalog", "createOrReplaceVariations", lost)

    await catalogue("catalog", "deleteItems", {"items": [{"id": "2"}]})
    assert (await catalogue("catalog", "retrieveVariations"))["variations"] == []


async def test_item_groups(shop: CatalogueShop, catalogue: Client) -> None:
    await catalogue("catalog", "createOrReplaceItems", {"items": ITEMS})
    tree = [{"id": "all", "name": "All", "children": [{"id": "a", "name": "A"}]}]
    await catalogue("catalog", "addItemGroups", {"itemGroups": tree})
    found = await catalogue("catalog", "getItemGroups")
    assert found["total_count"] == 2
    assert found["item_groups"] == tree
    assert (await shop.in_redis())["1"].attributes["group_id"] == ("a", "all")

    # POST adds and leaves what is there.
    more = [{"id": "a", "name": "Changed"}, {"id": "b/ä", "name": "B"}]
    await catalogue("catalog", "addItemGroups", {"itemGroups": more})
    (group,) = (await catalogue("catalog", "getItemGroup", {"id": "a"}))["item_groups"]
    assert group["name"] == "A"
    counts = await catalogue("catalog", "addOrUpdateItemGroups", {"itemGroups": more})
    assert counts["item_groups"] == {"processed": 2, "inserted": 0, "updated": 1, "deleted": 0}

    moved = {"id": "a", "name": "A", "parentId": "b/ä", "data": {"icon": "x"}}
    answer = await catalogue("catalog", "modifyItemGroup", moved)
    assert (answer["parent_id"], answer["path"], answer["data"]) == ("b/ä", "/b/ä", {"icon": "x"})
    assert (await shop.in_redis())["1"].attributes["group_id"] == ("a", "b/ä")
    assert await catalogue("catalog", "addItemGroup", {"id": "c", "name": "C"}) is None
    (group,) = (await catalogue("catalog", "getItemGroup", {"id": "b/ä"}))["item_groups"]
    assert [child["id"] for child in group["children"]] == ["a"]

    with pytest.raises(ClientError, match="circle"):
        await catalogue("catalog", "modifyItemGroup", {"id": "b/ä", "parentId": "a"})
    with pytest.raises(ClientError, match='/parent_id: "none" there is no such item group'):
        await catalogue("catalog", "modifyItemGroup", {"id": "b/ä", "parentId": "none"})
    with pytest.raises(ClientError, match="no item group") as caught:
        await catalogue("catalog", "getItemGroup", {"id": "none"})
    assert caught.value.status == 404

    assert (await catalogue("catalog", "removeItemGroups"))["message"].startswith("4 ")
    assert (await catalogue("catalog", "getItemGroups"))["item_groups"] == []
    assert (await shop.in_redis())["1"].attributes["group_id"] == ("a",)


async def test_errors_are_as_the_client_expects_them(
    shop: CatalogueShop, node_clients: NodeClients, catalogue: Client
) -> None:
    with pytest.raises(ClientError, match="/items/1/id: is required") as caught:
        await catalogue("catalog", "createOrReplaceItems", {"items": [ITEMS[0], {"name": "no id"}]})
    assert caught.value.status == 400
    many = [{"id": str(n), "name": "x"} for n in range(11_000)]
    with pytest.raises(ClientError, match="11,000 items in one call, more than 10,000") as caught:
        await catalogue("catalog", "createOrReplaceItems", {"items": many})
    assert caught.value.status == 413
    wrong = node_clients.catalogue(shop.url, shop.merchant.key, "wrong")
    with pytest.raises(ClientError, match="token") as caught:
        await wrong("catalog", "retrieveItems")
    assert caught.value.status == 401
    unknown = node_clients.catalogue(shop.url, "unknown", shop.merchant.token)
    with pytest.raises(ClientError, match="key") as caught:
        await unknown("catalog", "retrieveItems")
    assert caught.value.status == 401
    assert await ids(catalogue) == []
