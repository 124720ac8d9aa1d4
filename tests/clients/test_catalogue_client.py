"""Constructor's client for back ends, unmodified, writes and reads the catalogue."""

from __future__ import annotations

import base64
import tarfile
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


async def ended(shop: CatalogueShop, catalogue: Client, started: dict[str, Any]) -> Any:
    """The import as the client sees it, once the worker was at it."""
    waiting = await catalogue("tasks", "getTask", {"id": started["task_id"]})
    assert waiting["status"] == "QUEUED"
    await shop.queue.work()
    return await catalogue("tasks", "getTask", {"id": started["task_id"]})


async def test_catalogue_files(shop: CatalogueShop, catalogue: Client, tmp_path: Path) -> None:
    items, groups, sizes = (tmp_path / name for name in ("a.csv", "b.csv", "c.csv"))
    items.write_text("id,item_name,price,group_ids\n1,One,5,mugs\n2,Two,6,mugs\n")
    groups.write_text('parent_id,id,name,data\n,all,All,\nall,mugs,Mugs,"{""x"": 1}"\n')
    sizes.write_text("variation_id,item_id,metadata:size\n1-s,1,S\n")
    files = {
        "section": "Products",
        "notificationEmail": "shop@example.com",
        "items": {"$file": str(items)},
        "itemGroups": {"$file": str(groups)},
        "variations": {"$file": str(sizes)},
    }
    task = await ended(shop, catalogue, await catalogue("catalog", "replaceCatalog", files))
    assert task["status"] == "DONE", task
    assert task["result"]["changelog"]["sections"]["Products"]["items_updated"] == 2
    assert task["filename"] == "items.csv, variations.csv, item_groups.csv"
    assert await ids(catalogue) == ["1", "2"]

    # A delta replaces what it has; a patch changes the fields that it has.
    delta = base64.b64encode(b"id,item_name\n2,Deux\n3,Three\n").decode()
    await ended(
        shop,
        catalogue,
        await catalogue(
            "catalog", "updateCatalog", {"section": "Products", "items": {"$buffer": delta}}
        ),
    )
    patch = base64.b64encode(b"id,price\n1,9\n9,9\n").decode()
    parameters = {"section": "Products", "items": {"$buffer": patch}}
    task = await ended(shop, catalogue, await catalogue("catalog", "patchCatalog", parameters))
    assert task["status"] == "FAILED"
    assert "there is no such item" in task["error"]
    parameters["onMissing"] = "IGNORE"
    task = await ended(shop, catalogue, await catalogue("catalog", "patchCatalog", parameters))
    assert task["status"] == "DONE", task
    features = await shop.in_redis()
    assert {i.id: (i.name, i.price) for i in features.values()} == {
        "1": ("One", 9.0),
        "2": ("Deux", None),
        "3": ("Three", None),
    }
    assert features["1"].attributes["group_id"] == ("mugs", "all")


async def test_catalogue_archives(shop: CatalogueShop, catalogue: Client, tmp_path: Path) -> None:
    def archive(text: str) -> dict[str, str]:
        path = tmp_path / "catalogue.tar.gz"
        (tmp_path / "items.csv").write_text(text)
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "items.csv", "items.csv")
        return {"$file": str(path)}

    for method, text, more in (
        ("replaceCatalogUsingTarArchive", "id,item_name\n1,One\n2,Two\n3,Three\n", {}),
        ("updateCatalogUsingTarArchive", "id,item_name\n4,Four\n", {}),
        ("patchCatalogUsingTarArchive", "id,price\n4,1\n5,1\n", {"onMissing": "IGNORE"}),
        ("replaceCatalogUsingTarArchive", "id,item_name\n4,Four\n", {"force": True}),
    ):
        parameters = {"section": "Products", "tarArchive": archive(text), **more}
        task = await ended(shop, catalogue, await catalogue("catalog", method, parameters))
        assert task["status"] == "DONE", task
    assert await ids(catalogue) == ["4"]


async def test_tasks(shop: CatalogueShop, catalogue: Client) -> None:
    first = await catalogue("catalog", "createOrReplaceItems", {"items": ITEMS})
    second = await catalogue("catalog", "deleteItems", {"items": [{"id": "1"}]})
    found = await catalogue("tasks", "getAllTasks", {"numResultsPerPage": 1, "page": 2})
    assert found["total_count"] == 2
    assert [task["id"] for task in found["tasks"]] == [first["task_id"]]
    assert found["status_counts"]["DONE"] == 2
    which = {"status": "DONE", "type": "ingestion", "startDate": "2020-01-01"}
    found = await catalogue("tasks", "getAllTasks", which)
    assert [task["id"] for task in found["tasks"]] == [second["task_id"], first["task_id"]]
    assert (await catalogue("tasks", "getAllTasks", {"status": "CANCELED"}))["tasks"] == []
    with pytest.raises(ClientError, match="no task") as caught:
        await catalogue("tasks", "getTask", {"id": 10**9})
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("getFacetConfigurations", {}),
        ("addOneWaySynonym", {"phrase": "a", "childPhrases": []}),
        ("getSynonymGroups", {}),
        ("getRedirectRules", {}),
        ("retrieveSearchabilities", {}),
    ],
)
async def test_what_is_of_searching_is_not_there(
    catalogue: Client, method: str, parameters: dict[str, Any]
) -> None:
    with pytest.raises(ClientError) as caught:
        await catalogue("catalog", method, parameters)
    assert caught.value.status == 404
    assert caught.value.message
