"""The demo's data: the supermarket's, and a shop's own files."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp.test_utils import TestClient, TestServer

from app.cli.demo.shop import EVENTS, GROUPS, ITEMS, PAGES, ShopError
from app.cli.demo.shop_catalogue import (
    ShopGroup,
    ShopItem,
    SqliteShopCatalogue,
    write_shop_catalogue,
)
from app.cli.demo.shop_files import FilesSource
from app.cli.demo.supermarket import WEEK, read_catalogue, read_purchases, words
from app.domain.merchant import Credential
from app.http.application import build
from app.http.health import Readiness
from app.http.shop_page import ShopConfig, ShopPage
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# The supermarket


@pytest.fixture
def supermarket(tmp_path: Path) -> Path:
    def product(id_: int, department: str, category: str | None, type_: str | None) -> Any:
        return {
            "product_id": id_,
            "manufacturer_id": 69 if id_ == 1 else 317,
            "department": department,
            "brand": "Private" if id_ == 1 else "National",
            "product_category": category,
            "product_type": type_,
            "package_size": "1 DZ" if id_ == 1 else None,
        }

    def line(basket: int, product_id: int, quantity: int, value: float, day: int) -> Any:
        return {
            "household_id": basket // 10,
            "basket_id": basket,
            "product_id": product_id,
            "quantity": quantity,
            "sales_value": value,
            "transaction_timestamp": dt.datetime(2017, 1, day, 12),  # noqa: DTZ001  # as the data has it
        }

    products = [
        product(1, "GROCERY", "EGGS", "EGGS - LARGE"),
        product(2, "MEAT-PCKGD", "BACON", "ECONOMY"),
        product(3, "FUEL", "COUPON/MISC ITEMS", "GASOLINE-REG UNLEADED"),
        product(4, "GROCERY", "EGGS", "EGGS - X-LARGE"),
        product(5, "MISCELLANEOUS", None, None),
    ]
    lines = [
        line(11, 1, 2, 4.0, 1),
        line(11, 2, 1, 5.0, 1),
        line(12, 1, 1, 3.0, 3),
        line(12, 3, 9000, 20.0, 3),
        line(12, 1, 0, 0.0, 3),
        line(21, 99, 1, 1.0, 9),
    ]
    pq.write_table(pa.Table.from_pylist(products), tmp_path / "products.parquet")
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "transactions.parquet")
    return tmp_path


def test_products_get_names_prices_and_groups_from_what_the_data_has(supermarket: Path) -> None:
    shop = read_catalogue(supermarket)
    items = {item["id"]: item for item in shop.items}
    assert shop.items[0]["id"] == "1"  # what sells best comes first
    assert items["1"]["name"] == "Eggs - large, 1 dozen"
    assert items["1"]["data"]["price"] == 2.5  # the median of 2 and 3
    assert items["2"]["name"] == "Bacon, economy"
    assert items["4"]["data"]["price"] == 2.5  # nobody bought it: as its category
    facets = {each["name"]: each["values"] for each in items["1"]["data"]["facets"]}
    assert (facets["brand"], facets["size"]) == (["Private"], ["1 dozen"])
    assert items["1"]["data"]["group_ids"] == ["grocery--eggs"]
    assert {"id": "grocery--eggs", "name": "Eggs", "parent_id": "grocery"} in shop.groups
    away = {id_ for id_, item in items.items() if item["data"].get("active") is False}
    assert away == {"3", "5"}
    assert (shop.unavailable, shop.estimated) == (2, 1)
    assert {item.id for item, _ in shop.shop_items} == {"1", "2", "4"}


def test_purchases_keep_their_days_or_move_by_whole_weeks(supermarket: Path) -> None:
    real, left_out = read_purchases(supermarket)
    assert left_out == 1
    rows = real.to_pylist()
    assert [row["order_id"] for row in rows] == ["11", "11", "12", "12", "21"]
    assert rows[0] == {
        "type": "purchase",
        "time": int(dt.datetime(2017, 1, 1, 12, tzinfo=dt.UTC).timestamp()),
        "user_id": "1",
        "order_id": "11",
        "item_id": "1",
        "quantity": 2.0,
        "price": 2.0,
    }
    now = 1_800_000_000
    moved = read_purchases(supermarket, ends_at=now)[0]["time"].to_pylist()
    shift = {new - old for new, old in zip(moved, real["time"].to_pylist(), strict=True)}
    assert len(shift) == 1
    assert shift.pop() % WEEK == 0
    assert now - WEEK <= max(moved) < now


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("FRZN FRUIT PIES  & COBBLERS", "Frozen fruit pies & cobblers"),
        ("CHEESE CRACKERS (CHEEZ-ITS/GOL", "Cheese crackers"),
        ("BEERS/ALES", "Beers or ales"),
        ("BAKED BREAD/BUNS/ROLLS", "Baked bread, buns, rolls"),
        ("MEAT-PCKGD", "Packaged meat"),
    ],
)
def test_the_datas_capitals_become_words(given: str, wanted: str) -> None:
    assert words(given) == wanted


# A shop's own files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my shop"
    folder.mkdir()
    (folder / "items.csv").write_text(
        "id,name,price,group_ids,brand\n007,Tea,2.5,hot|sale,acme\nb,Cup,,,\n"
    )
    (folder / "events.jsonl").write_text(
        '{"item_id": "007", "time": "2026-01-02T03:04:05Z", "user_id": "u", "type": "view"}\n'
        '{"item_id": "x", "time": "2026-01-01T00:00:00Z", "user_id": "u", "type": "cart"}\n'
    )
    return folder


def test_files_become_a_shop(folder: Path, tmp_path: Path) -> None:
    source = FilesSource(folder)
    out = tmp_path / "out"
    out.mkdir()
    summary = source.prepare(out)
    assert (summary.items, summary.name) == (2, "My shop")
    assert "1 of them of items that the catalogue does not have" in summary.notes
    first, second = json_lines(out / ITEMS)
    assert first == {
        "id": "007",
        "name": "Tea",
        "data": {
            "url": "/shop/product/007",
            "group_ids": ["hot", "sale"],
            "facets": [{"name": "brand", "values": ["acme"]}],
            "price": 2.5,
        },
    }
    assert "price" not in second["data"]
    assert {group["id"] for group in json_lines(out / GROUPS)} == {"hot", "sale"}
    events = pq.read_table(out / EVENTS).to_pylist()
    assert [(event["item_id"], event["type"]) for event in events] == [
        ("x", "cart"),
        ("007", "view"),
    ]
    assert events[0]["time"] == 1_767_225_600
    assert SqliteShopCatalogue(out / PAGES).item("007") is not None


def test_a_shop_is_the_same_until_its_files_change(folder: Path) -> None:
    first = FilesSource(folder)
    before = first.fingerprint()
    assert FilesSource(folder).fingerprint() == before
    assert FilesSource(folder).merchant == first.merchant
    (folder / "items.csv").write_text("id,name\na,A\n")
    assert FilesSource(folder).fingerprint() != before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no .csv, .jsonl or .parquet file"),
        ({"items.csv": "id,name\n"}, "its columns are those of no data set"),
        ({"a.csv": "id\n1\n", "b.csv": "id\n1\n"}, "must hold items and events"),
        (
            {"items.csv": "sku,name\n1,A\n", "events.csv": "item_id,time,user_id\n1,1,u\n"},
            "items: the column 'id' is missing; found sku, name",
        ),
        (
            {"items.csv": "id,name\n1,A\n", "events.csv": "item_id,time\n1,1\n"},
            "user_id or client_id is missing",
        ),
        (
            {"items.csv": "id,name\n1,A\n", "events.csv": "item_id,time,user_id\n1,soon,u\n"},
            "the column 'time' is no time",
        ),
        (
            {
                "items.csv": "id,name\n1,A\n",
                "events.csv": "item_id,time,user_id\n1,1,u\n",
                "mapping.json": '{"items": {"name": "title"}}',
            },
            "items has no column 'title', only id, name",
        ),
        (
            {
                "items.csv": "id,name\n1,A\n",
                "events.csv": "item_id,time,user_id\n1,1,u\n",
                "mapping.json": '{"items": 3}',
            },
            "mapping.json: Expected `object`",
        ),
        (
            {"items.parquet": "no parquet", "events.csv": "item_id,time,user_id\n1,1,u\n"},
            "items.parquet: cannot be read",
        ),
    ],
)
def test_files_that_are_no_shop_are_refused_by_name(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(ShopError) as refused:
        FilesSource(folder).prepare(tmp_path)
    assert message in str(refused.value)


def test_online_retail_is_known_by_its_columns(tmp_path: Path) -> None:
    def line(invoice: str, code: str, name: str | None, quantity: int, price: float) -> Any:
        return {
            "InvoiceNo": invoice,
            "StockCode": code,
            "Description": name,
            "Quantity": quantity,
            "InvoiceDate": dt.datetime(2011, 5, 1, 10),  # noqa: DTZ001  # as the data has it
            "UnitPrice": price,
            "CustomerID": 12345.0 if invoice != "2" else None,
            "Country": "France",
        }

    rows = [
        line("1", "85123a", "WHITE HEART HOLDER", 6, 2.0),
        line("1", "85123A", "WHITE HEART HOLDER", 1, 3.0),
        line("2", "85123A", "wrong name", 1, 4.0),  # no customer: names and prices count
        line("C3", "85123A", "WHITE HEART HOLDER", -1, 2.0),
        line("4", "POST", "POSTAGE", 1, 18.0),
    ]
    path = tmp_path / "online-retail.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    out = tmp_path / "out"
    out.mkdir()
    summary = FilesSource(path).prepare(out)
    assert summary.currency == "GBP"
    (item,) = json_lines(out / ITEMS)
    assert (item["id"], item["name"], item["data"]["price"]) == (
        "85123A",
        "White heart holder",
        3.0,
    )
    events = pq.read_table(out / EVENTS).to_pylist()
    assert [(event["order_id"], event["user_id"], event["quantity"]) for event in events] == [
        ("1", "12345", 6.0),
        ("1", "12345", 1.0),
    ]


# The shop's own pages


@pytest.fixture
def catalogue(tmp_path: Path) -> SqliteShopCatalogue:
    groups = [
        ShopGroup(id="all", name="All"),
        ShopGroup(id="tea", name="Tea", parent_id="all"),
        ShopGroup(id="empty", name="Empty", parent_id="all"),
    ]
    items = [
        (ShopItem(id=f"i{n}", name=f"Tea no. {n} 100%_pure", price=1.0), ("tea", "all"))
        for n in range(30)
    ]
    items.append((ShopItem(id="plain", name="Plain cup"), ("all",)))
    write_shop_catalogue(tmp_path / "shop.sqlite", items, groups)
    return SqliteShopCatalogue(tmp_path / "shop.sqlite")


def test_the_shops_own_catalogue(catalogue: SqliteShopCatalogue) -> None:
    item = json.loads(catalogue.item("i3") or b"")
    assert item["trail"] == [{"id": "all", "name": "All"}, {"id": "tea", "name": "Tea"}]
    assert catalogue.item("none") is None
    assert catalogue.group("none", 1) is None
    assert json.loads(catalogue.groups()) == [{"id": "all", "name": "All"}]
    group = json.loads(catalogue.group("tea", 2) or b"")
    assert (group["total"], group["pages"], len(group["products"])) == (30, 2, 6)
    assert group["products"][0]["id"] == "i24"
    whole = json.loads(catalogue.group("all", 1) or b"")
    assert whole["children"] == [{"id": "tea", "name": "Tea"}]  # an empty one leads nowhere


@pytest.mark.parametrize(
    ("term", "total"), [("TEA 1", 30), ("no. 7", 3), ("100%", 30), ("%", 30), ("_", 30), ("'", 0)]
)
def test_what_is_searched_is_taken_as_it_is_written(
    catalogue: SqliteShopCatalogue, term: str, total: int
) -> None:
    assert json.loads(catalogue.search(term, 1))["total"] == total


class Nobody:
    def token(self, secret: str) -> Credential:
        raise NotImplementedError

    def allowed_origins(self, key: str) -> tuple[str, ...] | None:
        return None


async def test_bad_addresses_of_the_shop_are_refused(
    catalogue: SqliteShopCatalogue, tmp_path: Path
) -> None:
    client_module = tmp_path / "client.js"
    client_module.write_text("export default class {}")
    page = ShopPage(ShopConfig("Shop", "About", "USD", "key"), catalogue, client_module)
    application = build(
        page.operations(),
        authenticator=Nobody(),
        origins=Nobody(),
        readiness=Readiness(),
        metrics=Metrics(),
        output=Output(2, limit=0),
    )
    async with TestClient(TestServer(application)) as client:
        for path, status in {
            "/shop/": 200,
            "/shop/any/page": 200,
            "/shop/assets/shop.js": 200,
            "/shop/assets/client.js": 200,
            "/shop/assets/..%2f..%2fproblem.py": 404,
            "/shop/assets/index.html": 404,
            "/shop/config.json": 200,
            "/shop/data/items/i1": 200,
            "/shop/data/items/none": 404,
            "/shop/data/groups/tea?page=0": 400,
            "/shop/data/groups/tea?page=-1": 400,
            "/shop/data/groups/tea?page=x": 400,
            "/shop/data/groups/tea?page=" + "9" * 400: 400,
            "/shop/data/groups/tea?page=99": 200,
            "/shop/data/search?term=": 400,
            "/shop/data/search?term=" + "x" * 101: 400,
        }.items():
            assert (await client.get(path)).status == status, path
        moved = await client.get("/shop", allow_redirects=False)
        assert (moved.status, moved.headers["Location"]) == (302, "/shop/")
