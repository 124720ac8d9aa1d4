"""Items and their kind over HTTP: what is refused, by which name, and that nothing was changed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.domain.catalogue import DEFAULT_SECTION
from tests.catalogue_shop import CatalogueShop, open_shop, shown


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


ONE = {"id": "a", "name": "A"}


WRONG_BODIES = (
    (b"", ""),
    (b"id,item_name\n1,One\n", ""),
    (b'{"items": [', ""),
    (b'{"items": [{"id": "a"}', ""),
    (b"[]", ""),
    (b"{}", "/items"),
    (b'{"items": {}}', "/items"),
    (b'{"items": null}', "/items"),
    (b'{"items": []}', "/items"),
    (b'{"items": [{"id": "a", "name": "A"}, {"name": "B"}]}', "/items/1/id"),
    (b'{"items": [{"id": 1}]}', "/items/0/id"),
    (b'{"items": ["a"]}', "/items/0"),
    (b'{"items": [{"id": "a", "name": "x"}, {"id": "a", "name": "x"}]}', "/items/1/id"),
    (b'{"items": ' + b"[" * 100_000, ""),
)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_a_wrong_body_is_named_and_changes_nothing(shop: CatalogueShop, method: str) -> None:
    for body, pointer in WRONG_BODIES:
        answer = await shop.call(method, "/v2/items", body, status=400, on_missing="CREATE")
        assert answer["message"]
        assert answer["errors"][0]["pointer"] == pointer, body
    assert await shop.version() == 0
    assert (await shop.call("GET", "/v1/tasks"))["total_count"] == 0


async def test_too_much(shop: CatalogueShop) -> None:
    many = {"items": [{"id": f"i{n}", "name": "x"} for n in range(11_000)]}
    for method in ("PUT", "PATCH", "DELETE"):
        answer = await shop.call(method, "/v2/items", many, status=413)
        assert "11,000 items in one call, more than 10,000" in answer["message"]
    large = {"items": [{**ONE, "data": {"text": "x" * 200_001}}]}
    answer = await shop.call("PUT", "/v2/items", large, status=400)
    assert answer["errors"][0]["pointer"] == "/items/0/data"
    await shop.put(ONE)
    for part in ("x", "y"):
        grown = {"items": [{"id": "a", "data": {part: part * 150_000}}]}
        answer = await shop.call("PATCH", "/v2/items", grown, status=200 if part == "x" else 400)
    assert "would have more than 200,000 bytes" in answer["message"]
    assert await shop.version() == 2


async def test_a_full_call_of_ten_thousand(shop: CatalogueShop) -> None:
    await shop.put(*({"id": f"i{n}", "data": {"price": n}} for n in range(10_000)))
    follower, indexes = shop.follower()
    await follower.poll()
    assert len(shown(indexes.get(shop.id, DEFAULT_SECTION))) == 10_000


async def test_wrong_parameters(shop: CatalogueShop) -> None:
    queries: list[dict[str, str]] = [
        {"num_results_per_page": "0"},
        {"num_results_per_page": "1001"},
        {"num_results_per_page": "x"},
        {"page": "0"},
        {"page": "1.5"},
        {"page": "٣"},
        {"offset": "-1"},
        {"page": "2", "offset": "3"},
        {"section": ""},
        {"section": "x" * 101},
        {"section": "a\x00b"},
    ]
    for query in queries:
        answer = await shop.call("GET", "/v2/items", status=400, **query)
        assert any(name in answer["message"] for name in query)


async def test_pages_by_cursor(shop: CatalogueShop) -> None:
    await shop.put(*({"id": f"i{n}"} for n in range(5)))
    found: list[str] = []
    more: dict[str, str] = {}
    while True:
        page = await shop.call("GET", "/v2/items", num_results_per_page="2", **more)
        found += [item["id"] for item in page["items"]]
        assert page["total_count"] == 5
        if "next_page_cursor" not in page:
            break
        more = {"cursor": page["next_page_cursor"]}
    assert found == [f"i{n}" for n in range(5)]
    only = await shop.call("GET", "/v2/items", offset="4")
    assert [item["id"] for item in only["items"]] == ["i4"]


async def test_who_may_do_what(
    shop: CatalogueShop, module_database_url: str, create_merchant: Callable[..., Any]
) -> None:
    body = {"items": [ONE]}
    for role, status in {"reader": 403, "merchandiser": 403, "ingest": 200}.items():
        token = shop.merchant.secrets[role]
        await shop.call("PUT", "/v2/items", body, status=status, token=token)
        await shop.call("GET", "/v2/items", token=token)
    await shop.call("GET", "/v2/items", status=401, token="none")
    other = await create_merchant(module_database_url, "stranger")
    shop.keys.add(other)
    assert (await shop.call("GET", "/v2/items", token=other.token))["items"] == []
    await shop.call("DELETE", "/v2/items", {"items": [{"id": "a"}]}, token=other.token)
    await shop.call("GET", "/v2/items", status=401, token=other.token, key=shop.merchant.key)
    assert await shop.ids() == ["a"]


async def test_groups_are_all_or_nothing(shop: CatalogueShop) -> None:
    tree = {"item_groups": [{"id": "a", "name": "A", "children": [{"id": "b", "name": "B"}]}]}
    counts = (await shop.call("POST", "/v1/item_groups", tree))["item_groups"]
    assert counts == {"processed": 2, "inserted": 2, "updated": 0, "deleted": 0}
    wrong = {"item_groups": [{"id": "c", "name": "C", "children": [{"id": "d"}]}]}
    answer = await shop.call("PUT", "/v1/item_groups", wrong, status=400)
    assert answer["errors"][0]["pointer"] == "/item_groups/0/children/0/name"
    circle = {"item_groups": [{"id": "a", "name": "A", "parent_id": "b"}]}
    answer = await shop.call("PATCH", "/v1/item_groups", circle, status=400)
    assert "circle" in answer["message"]
    lost = {"item_groups": [{"id": "c", "name": "C", "parent_id": "x"}]}
    answer = await shop.call("PUT", "/v1/item_groups", lost, status=400)
    assert answer["errors"][0]["pointer"] == "/item_groups/0/parent_id"
    answer = await shop.call("PUT", "/v1/item_groups/b", {"name": 7}, status=400)
    assert answer["errors"][0]["pointer"] == "/name"
    assert (await shop.call("GET", "/v1/item_groups"))["total_count"] == 2
    whole = {"item_groups": [{"id": "z", "name": "Z"}]}
    counts = (await shop.call("PUT", "/v1/item_groups", whole))["item_groups"]
    assert (counts["inserted"], counts["deleted"]) == (1, 2)


async def test_a_call_waits_for_an_import_and_not_for_ever(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.put(ONE)
    driver = "app.postgres.catalogue_write._LOCK_TIMEOUT"
    monkeypatch.setattr(driver, "100ms")
    async with shop.writer.writing(shop.id, DEFAULT_SECTION, bulk=True) as writing:
        await writing.lock()
        answer = await shop.call("PUT", "/v2/items", {"items": [ONE]}, status=503)
    assert answer["message"]
    await shop.call("PUT", "/v2/items", {"items": [ONE]})


async def test_the_description_is_valid(shop: CatalogueShop) -> None:
    document = await shop.call("GET", "/openapi.json")
    OpenAPIV31SpecValidator(document).validate()
    assert "/v1/catalog" in document["paths"]
    assert json.dumps(document).count("%2F") == 0
