"""Another shop's own files, for `vitrine demo --data PATH`.

PATH is a folder with `items.*` and `events.*` (and `item_groups.*`, where there is a tree), each as
CSV, JSON lines or Parquet, or one file whose columns are those of a data set that is known here
(`KNOWN`: UCI Online Retail).

- items: `id`, `name`, and where there are any `price`, `url`, `image_url`, `group_ids` (several:
  "a|b"); each further column becomes a facet.
- events: `item_id`, `time` (Unix seconds or ISO 8601), `user_id` or `client_id`, and where there
  are any `type` (purchase where the column is missing), `order_id`, `quantity`, `price`.
- item_groups: `id`, `name`, `parent_id`.

Columns of other names are told by `mapping.json` in the folder:
`{"items": {"id": "sku", "name": "title"}, "events": {"item_id": "sku", "time": "at"}}`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from app.cli.demo.shop import EVENTS, GROUPS, ITEMS, PAGES, ShopError, ShopSummary
from app.cli.demo.shop_catalogue import ShopGroup, ShopItem, write_shop_catalogue
from app.cli.demo.supermarket import write_json_lines

_SUFFIXES: Final = (".parquet", ".csv", ".jsonl", ".ndjson")
_ITEM_COLUMNS: Final = ("id", "name", "price", "url", "image_url", "group_ids")
_EVENT_COLUMNS: Final = ("type", "user_id", "client_id", "order_id", "item_id", "quantity", "price")
_ONLINE_RETAIL: Final = frozenset(
    ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")
)
_PRODUCT_CODE: Final = r"^\d{5}[A-Za-z]?$"

Mappings = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class _Shop:
    items: pa.Table
    events: pa.Table  # with `time` as Unix seconds, sorted by it
    groups: pa.Table | None = None
    notes: tuple[str, ...] = ()
    currency: str = "USD"


class FilesSource:
    """The files at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._files = _files(self._path)
        name = re.sub(r"[^a-z0-9]+", "-", self._path.stem.lower()).strip("-") or "shop"
        digest = hashlib.sha256(str(self._path).encode()).hexdigest()[:6]
        self.merchant = f"demo-{name[:40]}-{digest}"
        self._name = self._path.stem.replace("-", " ").replace("_", " ").capitalize()

    def fingerprint(self) -> str:
        parts = [f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in
                 sorted(self._files)]  # fmt: skip
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def prepare(self, folder: Path) -> ShopSummary:
        shop = self._read()
        sold = Counter(shop.events["item_id"].to_pylist())
        groups = _groups(shop.groups)
        items, pages = [], []
        for row in shop.items.to_pylist():
            item, page = _item(row, groups)
            items.append(item)
            pages.append(page)
        pages.sort(key=lambda page: -sold[page[0].id])
        write_json_lines(folder / ITEMS, items)
        write_json_lines(
            folder / GROUPS,
            [{"id": g.id, "name": g.name, "parent_id": g.parent_id} for g in groups.values()],
        )
        write_shop_catalogue(folder / PAGES, pages, groups.values())
        pq.write_table(shop.events, folder / EVENTS)
        known = {item["id"] for item in items}
        strangers = sum(count for id_, count in sold.items() if id_ not in known)
        notes = (*shop.notes, f"{shop.events.num_rows:,} events or lines of orders")
        if strangers:
            notes = (*notes, f"{strangers:,} of them of items that the catalogue does not have")
        return ShopSummary(
            name=self._name,
            about=f"{len(items):,} products from {self._path.name}.",
            currency=shop.currency,
            items=len(items),
            notes=notes,
        )

    def _read(self) -> _Shop:
        by_name = {path.stem: path for path in self._files}
        if "items" in by_name and "events" in by_name:
            mapping = _mapping(self._path / "mapping.json")
            groups = by_name.get("item_groups")
            return _own(
                _table(by_name["items"]),
                _table(by_name["events"]),
                None if groups is None else _table(groups),
                mapping,
            )
        if len(self._files) == 1:
            table = _table(self._files[0])
            if set(table.column_names) >= _ONLINE_RETAIL:
                return _online_retail(table)
            raise ShopError(
                f"{self._files[0]}: its columns are those of no data set that is known here; put"
                " items.* and events.* into a folder (see vitrine demo --help)"
            )
        raise ShopError(
            f"{self._path}: must hold items and events as .csv, .jsonl or .parquet; found "
            + (", ".join(path.name for path in self._files) or "nothing of that kind")
        )


def shop_of_files(path: Path) -> FilesSource:
    """
    Raises:
        ShopError: there is nothing that can be read.
    """
    return FilesSource(path)


def _files(path: Path) -> Sequence[Path]:
    found = [path] if path.is_file() else sorted(path.iterdir())
    found = [each for each in found if each.suffix in _SUFFIXES]
    if not found:
        raise ShopError(f"{path}: holds no .csv, .jsonl or .parquet file")
    return found


def _table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix == ".csv":
            # Ids that look like numbers stay as they are written.
            ids = ("id", "item_id", "user_id", "client_id", "order_id", "group_ids", "parent_id")
            types = dict.fromkeys(ids, pa.string())
            options = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True)
            return pa.csv.read_csv(path, convert_options=options)
        return pa.json.read_json(path)
    except (pa.ArrowException, OSError) as error:
        raise ShopError(f"{path}: cannot be read: {error}") from None


def _mapping(path: Path) -> Mappings:
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mappings)
    except msgspec.MsgspecError as error:
        raise ShopError(f"{path}: {error}") from None


def _own(items: pa.Table, events: pa.Table, groups: pa.Table | None, mapping: Mappings) -> _Shop:
    items = _renamed(items, mapping.get("items", {}), "items", ("id", "name"))
    events = _renamed(events, mapping.get("events", {}), "events", ("item_id", "time"))
    if not {"user_id", "client_id"} & set(events.column_names):
        raise ShopError("events: a column user_id or client_id is missing (see mapping.json)")
    if groups is not None:
        groups = _renamed(groups, mapping.get("item_groups", {}), "item_groups", ("id", "name"))
    columns: dict[str, Any] = {"time": _seconds(events["time"])}
    for name in _EVENT_COLUMNS:
        if name in events.column_names:
            number = name in ("quantity", "price")
            columns[name] = events[name].cast(pa.float64() if number else pa.string())
    purchase = pa.scalar("purchase")
    columns["type"] = (
        pc.fill_null(columns["type"], purchase)
        if "type" in columns
        else pa.repeat(purchase, events.num_rows)
    )
    known = pa.table(columns)
    complete = pc.and_(pc.is_valid(known["item_id"]), pc.is_valid(known["time"]))
    kept = known.filter(complete)
    keys = [("time", "ascending")]
    if "order_id" in columns:
        keys.append(("order_id", "ascending"))
    left_out = known.num_rows - kept.num_rows
    notes = (f"{left_out:,} events without an item or a time left out",) if left_out else ()
    return _Shop(items, kept.sort_by(keys), groups, notes)


def _renamed(
    table: pa.Table, mapping: Mapping[str, str], file: str, required: Sequence[str]
) -> pa.Table:
    for ours, theirs in mapping.items():
        if theirs not in table.column_names:
            raise ShopError(
                f"mapping.json: {file} has no column {theirs!r}, only "
                + ", ".join(table.column_names)
            )
        names = [ours if name == theirs else name for name in table.column_names]
        table = table.rename_columns(names)
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise ShopError(
            f"{file}: the column {missing[0]!r} is missing; found {', '.join(table.column_names)}."
            " Name it in mapping.json"
        )
    return table


def _seconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Unix seconds of numbers, timestamps or ISO 8601 text."""
    try:
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            return pc.floor(column.cast(pa.float64())).cast(pa.int64())
        if pa.types.is_string(column.type):
            column = column.cast(pa.timestamp("us", tz="UTC"))
        return column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    except pa.ArrowException as error:
        raise ShopError(f"events: the column 'time' is no time: {error}") from None


def _groups(table: pa.Table | None) -> dict[str, ShopGroup]:
    if table is None:
        return {}
    groups = {}
    for row in table.to_pylist():
        parent = row.get("parent_id")
        id_ = str(row["id"])
        parent_id = None if parent in (None, "") else str(parent)
        groups[id_] = ShopGroup(id=id_, name=str(row["name"]), parent_id=parent_id)
    return groups


def _item(
    row: Mapping[str, Any], groups: dict[str, ShopGroup]
) -> tuple[dict[str, Any], tuple[ShopItem, tuple[str, ...]]]:
    id_, name = str(row["id"]), str(row["name"] or row["id"])
    given = row.get("group_ids") or ()
    own = [part for part in given.split("|") if part] if isinstance(given, str) else list(given)
    above: list[str] = []
    for group in own:
        at: str | None = group
        while at is not None and at not in above:
            groups.setdefault(at, ShopGroup(id=at, name=at))
            above.append(at)
            at = groups[at].parent_id
    facets = {
        key: str(value)
        for key, value in row.items()
        if key not in _ITEM_COLUMNS and value not in (None, "")
    }
    data: dict[str, Any] = {
        "url": row.get("url") or f"/shop/product/{id_}",
        "group_ids": own,
        "facets": [{"name": key, "values": [value]} for key, value in facets.items()],
    }
    price = row.get("price")
    if price is not None:
        data["price"] = float(price)
    if row.get("image_url"):
        data["image_url"] = row["image_url"]
    shown = ShopItem(
        id=id_,
        name=name,
        price=data.get("price"),
        brand=facets.get("brand"),
        size=facets.get("size"),
        category=groups[own[0]].name if own else facets.get("category"),
    )
    return {"id": id_, "name": name, "data": data}, (shown, tuple(above))


def _online_retail(table: pa.Table) -> _Shop:
    """UCI Online Retail: a gift shop's invoices. Cancellations, bookings that are no product, and
    lines without a customer are left out; of several descriptions the most frequent names the item;
    its price is the median."""
    quantity = table["Quantity"].cast(pa.float64())
    price = table["UnitPrice"].cast(pa.float64())
    code = pc.utf8_upper(table["StockCode"].cast(pa.string()))
    keep = pc.and_(pc.greater(quantity, 0), pc.greater(price, 0))
    keep = pc.and_(keep, pc.match_substring_regex(code, _PRODUCT_CODE))
    named = keep
    keep = pc.and_(keep, pc.is_valid(table["CustomerID"]))
    prices: dict[str, list[float]] = {}
    names: dict[str, Counter[str]] = {}
    described = pa.table({"code": code, "name": table["Description"], "price": price}).filter(named)
    for row in described.to_pylist():
        prices.setdefault(row["code"], []).append(row["price"])
        if row["name"]:
            names.setdefault(row["code"], Counter())[row["name"].strip()] += 1
    ids = list(prices)
    items = pa.table(
        {
            "id": ids,
            "name": [_titled(names[id_]) if id_ in names else id_ for id_ in ids],
            "price": [round(float(np.median(prices[id_])), 2) for id_ in ids],
        }
    )
    customer = table["CustomerID"].cast(pa.float64(), safe=False)
    events = pa.table(
        {
            "time": _seconds(table["InvoiceDate"]),
            "type": pa.repeat(pa.scalar("purchase"), table.num_rows),
            "user_id": pc.cast(customer.cast(pa.int64(), safe=False), pa.string()),
            "order_id": table["InvoiceNo"].cast(pa.string()),
            "item_id": code,
            "quantity": quantity,
            "price": price,
        }
    ).filter(keep)
    left_out = table.num_rows - events.num_rows
    return _Shop(
        items,
        events.sort_by([("time", "ascending"), ("order_id", "ascending")]),
        notes=(f"{left_out:,} lines left out: cancelled, no product, or no customer",),
        currency="GBP",
    )


def _titled(names: Counter[str]) -> str:
    name = re.sub(r"\s+", " ", names.most_common(1)[0][0]).strip()
    return name.capitalize() if name.isupper() else name
