"""A shop's own event history from files: each event once, each wrong row named."""

from __future__ import annotations

import datetime as dt
import gzip
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain import fingerprint
from app.domain.errors import InvalidInput
from app.domain.event import Event, Line, Shopper
from app.domain.merchant import MerchantId
from app.files.event_files import EventFile
from app.postgres import event_import
from app.postgres.database import Database, connect, raw
from app.postgres.event_import import EventImport
from app.postgres.event_log import EventLog
from app.postgres.merchants import Merchants
from app.services.import_events import ImportEvents, ImportReport, parse_mapping
from app.services.track import Outcome
from vitrine_sdk import EventType

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()


@dataclass
class Shop:
    merchant: MerchantId
    database: Database
    url: str
    folder: Path

    def file(self, name: str, content: str | bytes | pa.Table) -> Path:
        path = self.folder / name
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
            return path
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    async def load(self, path: Path, **options: Any) -> ImportReport:
        mapping = parse_mapping([options.pop("map", "")]) if options.get("map") else None
        file = EventFile(path, self.merchant, mapping=mapping, now=lambda: NOW, **options)
        return await ImportEvents(EventImport(self.url)).run(self.merchant, file)

    async def rows(self) -> list[dict[str, Any]]:
        async with self.database.merchant(self.merchant) as connection:
            found = await (await raw(connection)).fetch(
                "SELECT * FROM event WHERE merchant_id = $1 ORDER BY occurred_at, item_id",
                self.merchant,
            )
        return [dict(row) for row in found]


@pytest.fixture
async def shop(module_database_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    database = connect(module_database_url, pool=2)
    merchant = MerchantId(f"shop-{secrets.token_hex(6)}")
    await Merchants(database).create(merchant, "Shop", actor="test")
    yield Shop(merchant, database, module_database_url, tmp_path)
    await database.close()


ORDERS = """basket,household,product,n,paid,at
b1,h1,007,2,3.5,2017-01-01 10:00:00
b1,h1,8,1,1.5,2017-01-01 10:00:00
b1,h1,8,1,1.5,2017-01-02 00:30:00
b2,h2,7,1,2,2017-03-05T12:00:00
"""
ORDER_MAP = "order_id=basket,user_id=household,item_id=product,quantity=n,revenue=paid,time=at"


async def test_purchases_of_a_csv_once_however_often(shop: Shop) -> None:
    path = shop.file("orders.csv", ORDERS)
    report = await shop.load(path, map=ORDER_MAP, type_="purchase")
    assert (report.read, report.accepted, report.duplicate, report.rejected) == (4, 4, 0, 0)
    rows = await shop.rows()
    assert [
        (r["order_id"], r["user_id"], r["item_id"], r["quantity"], r["revenue"]) for r in rows
    ] == [
        ("b1", "h1", "007", 2.0, 3.5),
        ("b1", "h1", "8", 1.0, 1.5),
        ("b1", "h1", "8", 1.0, 1.5),
        ("b2", "h2", "7", 1.0, 2.0),
    ]
    assert rows[2]["occurred_at"].isoformat() == "2017-01-02T00:30:00+00:00"
    assert {r["type"] for r in rows} == {EventType.PURCHASE}
    again = await shop.load(path, map=ORDER_MAP, type_="purchase")
    assert (again.accepted, again.duplicate) == (0, 4)
    more = shop.file("more.csv", ORDERS + "b3,h3,9,1,1,2017-03-06 00:00:00\n")
    more_report = await shop.load(more, map=ORDER_MAP, type_="purchase")
    assert (more_report.accepted, more_report.duplicate) == (1, 4)
    # An order that was imported is a duplicate for the tracker too.
    live = Event(
        merchant=shop.merchant,
        type=EventType.PURCHASE,
        action="purchase",
        time=NOW,
        received=NOW,
        shopper=Shopper("c", "h1"),
        fingerprint=fingerprint.of_order(shop.merchant, "b1"),
        order_id="b1",
        lines=(Line(item_id="7"),),
    )
    appended = await EventLog(shop.database).append([live])
    assert appended.receipts[0].outcome is Outcome.DUPLICATE


async def test_the_order_of_files_and_days_does_not_matter(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several commits, and an order whose rows are far from each other."""
    monkeypatch.setattr(event_import, "CHUNK_ROWS", 3)
    rows = [f"o{n % 7},u{n % 7},{n},2017-02-{1 + n % 20:02}T00:00:00Z" for n in range(40)]
    path = shop.file("o.csv", "order_id,user_id,item_id,time\n" + "\n".join(rows) + "\n")
    report = await shop.load(path, type_="purchase")
    assert (report.accepted, report.duplicate) == (40, 0)
    assert sorted(int(r["item_id"]) for r in await shop.rows()) == list(range(40))
    assert (await shop.load(path, type_="purchase")).duplicate == 40


async def test_clicks_of_jsonl_with_types_of_the_shops_own(shop: Shop) -> None:
    lines = """{"visitor": 5, "what": "view", "itemid": 7, "ts": 1420070400000, "client": 5.0}
{"visitor": 5, "what": "AddToCart", "itemid": 7.0, "ts": 1420070401500}

{"visitor": 5, "what": "view", "itemid": 7, "ts": 1420070400000}
{broken
{"visitor": 6, "what": "dance", "itemid": 7, "ts": 1420070400000}
{"visitor": null, "what": "view", "itemid": 7, "ts": 1420070400000}
{"visitor": 6, "what": "view", "ts": 1420070400000}
{"visitor": 6, "what": "view", "itemid": 1, "ts": "soon"}
[1]
"""
    path = shop.file("events.jsonl.gz", lines)
    options = {
        "map": "client_id=visitor,type=what,item_id=itemid,time=ts",
        "types": {"addtocart": "cart"},
    }
    report = await shop.load(path, **options)
    assert (report.read, report.accepted, report.rejected) == (9, 3, 6)
    assert [(row.row, row.reason.split(":")[0]) for row in report.rejected_rows] == [
        (5, "is no JSON object"),
        (6, "type"),
        (7, "client_id, user_id"),
        (8, "item_id"),
        (9, "time"),
        (10, "is no JSON object"),
    ]
    # Two rows that say the same are two events, and stay two.
    rows = await shop.rows()
    assert [(r["type"], r["item_id"], r["client_id"]) for r in rows] == [
        (EventType.VIEW, "7", "5"),
        (EventType.VIEW, "7", "5"),
        (EventType.CART, "7", "5"),
    ]
    assert rows[2]["occurred_at"].timestamp() == 1420070401.5
    again = await shop.load(path, **options)
    assert (again.accepted, again.duplicate) == (0, 3)


async def test_own_ids_and_parquet_types(shop: Shop) -> None:
    naive = dt.datetime.fromisoformat("2017-07-01T12:00:00.25")
    table = pa.table(
        {
            "id": [1, 2, 2, 3],
            "user_id": [10.0, 10.0, None, 11.0],
            "client_id": pa.array(["a", "a", "b", None]).dictionary_encode(),
            "item_id": pa.array([1, 2, 3, 4], pa.int32()),
            "time": pa.array([naive] * 4, pa.timestamp("ns")),
            "type": ["view", "click", "click", "conversion"],
            "conversion_type": [None, None, None, "wishlist"],
            "term": [None, "red\x00 shirt", None, None],
            "unused": [[1], [2], [3], [4]],
        }
    )
    path = shop.file("e.parquet", table)
    report = await shop.load(path, timezone="Europe/Berlin")
    assert (report.accepted, report.duplicate, report.rejected) == (4, 0, 0)
    rows = await shop.rows()
    assert rows[0]["occurred_at"].isoformat() == "2017-07-01T10:00:00.250000+00:00"
    assert [r["user_id"] for r in rows] == ["10", "10", None, "11"]
    assert [r["term"] for r in rows] == [None, "red shirt", None, None]
    assert rows[3]["conversion_type"] == "wishlist"
    async with shop.database.merchant(shop.merchant) as connection:
        known = await (await raw(connection)).fetch(
            "SELECT client_id, user_id FROM shopper_identity"
        )
    assert [tuple(row) for row in known] == [("a", "10")]
    assert (await shop.load(path, timezone="Europe/Berlin")).duplicate == 4


async def test_a_broken_csv_line_is_named_and_the_others_are_kept(shop: Shop) -> None:
    lines = [f"u{n},{n},2017-01-01T00:00:00Z" for n in range(1, 10_001)]
    lines[4999] = "u5000,5000"
    lines[6999] = 'u7000,"7,000",2017-01-01T00:00:00Z,more'
    lines[7999] = "u8000,8000,2017-13-01"
    path = shop.file("v.csv", "user_id,item_id,time\n" + "\n".join(lines) + "\n")
    report = await shop.load(path, type_="view")
    assert (report.read, report.accepted, report.rejected) == (10_000, 9_997, 3)
    assert [row.row for row in report.rejected_rows] == [5000, 7000, 8000]
    assert report.rejected_rows[0].reason == "has 2 columns, the header has 3"
    assert "time: must be" in report.rejected_rows[2].reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("u,,2017-01-01,1,1", "item_id: is missing"),
        (",i,2017-01-01,1,1", "client_id, user_id: one of them is needed"),
        ("u,i,,1,1", "time: must be"),
        ("u,i,1999-12-31,1,1", "time: lies before the year 2000"),
        ("u,i,2026-01-02,1,1", "time: lies in the future"),
        ("u,i,2017-01-01,-1,1", "quantity: must be a number"),
        ("u,i,2017-01-01,x,1", "quantity: must be a number"),
        ("u,i,2017-01-01,1,nan", "revenue: must be a number"),
        (f"u,{'i' * 257},2017-01-01,1,1", "item_id: has more than 256"),
    ],
)
async def test_a_wrong_value_is_named(shop: Shop, row: str, reason: str) -> None:
    path = shop.file("v.csv", f"user_id,item_id,time,quantity,revenue\n{row}\nu,i,2017-01-01,1,1\n")
    report = await shop.load(path, type_="view")
    assert (report.accepted, report.rejected) == (1, 1)
    assert report.rejected_rows[0].row == 1
    assert report.rejected_rows[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", "user_id,item\n", {"type_": "view"}, "has no column item_id|time"),
        ("a.csv", "user_id,time\n", {}, "no column type"),
        ("a.csv", "item_id,time\n", {"type_": "view"}, "client_id or user_id"),
        ("a.csv", "user_id,time\n", {"type_": "view", "map": "item_id=sku"}, "sku (for item_id)"),
        ("a.csv", "", {"type_": "view"}, "has no column"),
        ("a.parquet", b"no parquet", {"type_": "view"}, "cannot be read"),
        ("a.xlsx", b"", {"type_": "view"}, "must end in .csv"),
        ("a.csv", "x\n", {"type_": "dance"}, "'dance' is none of"),
        ("a.csv", "x\n", {"map": "colour=x"}, "'colour' is no field"),
        ("a.csv", "x\n", {"type_": "view", "timezone": "Mars/Olympus"}, "there is no"),
    ],
)
async def test_a_file_that_does_not_fit_is_refused_and_nothing_changes(
    shop: Shop, name: str, content: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await shop.load(shop.file(name, content), **options)
    assert any(part in refused.value.message for part in message.split("|"))
    assert await shop.rows() == []


async def test_a_parquet_with_wrong_columns_names_those_it_has(shop: Shop) -> None:
    path = shop.file("a.parquet", pa.table({"household": [1], "sku": [2]}))
    with pytest.raises(InvalidInput) as refused:
        await shop.load(path, type_="purchase", map="user_id=household")
    assert "has no column time" in refused.value.message
    assert "it has household, sku" in refused.value.message
