"""Public data sets' files, read into one `Log`: a catalogue and events, as training sees them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from app.domain.errors import InvalidInput
from vitrine_sdk import Events, EventType, Facet, Items, TrainingData

DAY = 86_400
EPOCH = 1_700_000_000  # "now" of files that have no time: their order is their only clock
SECONDS_BETWEEN = 30  # two clicks of a session whose file has no time


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """Everything that a data set's files say."""

    data: TrainingData  # all events
    held_out: Sequence[tuple[Sequence[int], Sequence[int]]] = ()
    """The data set's own test split, where it has one: (what came before, what was chosen)."""
    shoppers: Sequence[int] = ()
    """Whose they are, a code of `data.events.shopper`; empty: nobody's the data knows."""


def read(format: str, paths: Sequence[Path], columns: Mapping[str, str]) -> Log:  # noqa: A002
    """Read files of a format that `FORMATS` names.

    Args:
        columns: for `events` and `purchases`, the file's name for each of our columns.

    Raises:
        InvalidInput: an unknown format, a missing file, or a line that does not parse.
    """
    if format not in FORMATS:
        raise InvalidInput.field("format", f"must be one of {', '.join(sorted(FORMATS))}")
    for path in paths:
        if not path.is_file():
            raise InvalidInput.field("path", f"there is no file {path}")
    return FORMATS[format](paths, columns)


def _sequences(paths: Sequence[Path], columns: Mapping[str, str]) -> Log:  # noqa: ARG001
    """`user item item …`, a line a user, oldest first. A second file, if given, is the test split:
    the items that each user went on to choose."""
    lines = _numbers(paths[0])
    users = {line[0]: code for code, line in enumerate(lines)}
    later = _numbers(paths[1]) if len(paths) > 1 else []
    top = max(max(line) for line in [*(row[1:] for row in lines), *(r[1:] for r in later)] if line)
    lengths = np.array([len(line) - 1 for line in lines])
    item = np.array([i for line in lines for i in line[1:]], np.int32)
    shopper = np.repeat(np.arange(len(lines), dtype=np.int32), lengths)
    # The last event of each user is a day old, the one before two days.
    age = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(item))
    data = _data(top + 1, shopper, item, EventType.PURCHASE, EPOCH - age * DAY)
    known = [row for row in later if len(row) > 1 and row[0] in users]
    return Log(
        data,
        [(lines[users[row[0]]][1:], row[1:]) for row in known],
        [users[row[0]] for row in known],
    )


def _sessions(paths: Sequence[Path], columns: Mapping[str, str]) -> Log:  # noqa: ARG001
    """`item item …`, a line a session, oldest first. A second file, if given, is the test split:
    `item item …<TAB>next item`."""
    lines = _numbers(paths[0])
    held_out = []
    if len(paths) > 1:
        for number, text in enumerate(paths[1].read_text().splitlines(), 1):
            prefix, tab, target = text.partition("\t")
            if not tab:
                raise InvalidInput.field("path", f"{paths[1].name} line {number}: no tab")
            held_out.append(([int(part) for part in prefix.split()], [int(target)]))
    top = max(max(line) for line in lines)
    top = max([top, *(max(*prefix, *target) for prefix, target in held_out)])
    lengths = np.array([len(line) for line in lines])
    item = np.array([i for line in lines for i in line], np.int32)
    shopper = np.repeat(np.arange(len(lines), dtype=np.int32), lengths)
    # Sessions of 90 days, evenly; only their order is known.
    start = EPOCH - 90 * DAY + (np.arange(len(lines)) * (90 * DAY) // max(len(lines), 1))
    within = np.arange(len(item)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    time = np.minimum(start[shopper] + within * SECONDS_BETWEEN, EPOCH - 1)
    data = _data(top + 1, shopper, item, EventType.VIEW, time, session=shopper)
    return Log(data, held_out)


def _events(paths: Sequence[Path], columns: Mapping[str, str]) -> Log:
    """Tab-separated with a heading; columns user, item, timestamp (Unix seconds), event (view,
    cart, buy). A second file, if given: `user<TAB>item`, a held-out buy."""
    names = {"user": "user", "item": "item", "timestamp": "timestamp", "event": "event", **columns}
    rows = paths[0].read_text().splitlines()
    heading = rows[0].split("\t")
    missing = [name for name in names.values() if name not in heading]
    if missing:
        raise InvalidInput.field("columns", f"{paths[0].name} has no column {missing[0]!r}")
    at = {ours: heading.index(theirs) for ours, theirs in names.items()}
    cells = [row.split("\t") for row in rows[1:]]
    kinds = {"view": EventType.VIEW, "click": EventType.CLICK, "cart": EventType.CART}
    kinds |= {"addtocart": EventType.CART, "buy": EventType.PURCHASE}
    kinds |= {"purchase": EventType.PURCHASE, "transaction": EventType.PURCHASE}
    unknown = sorted({cell[at["event"]] for cell in cells} - set(kinds))
    if unknown:
        raise InvalidInput.field("event", f"{unknown[0]!r} is none of {', '.join(sorted(kinds))}")
    users = _codes(cell[at["user"]] for cell in cells)
    later = [row.split("\t") for row in paths[1].read_text().splitlines()] if paths[1:] else []
    ids = _codes([*(cell[at["item"]] for cell in cells), *(row[1] for row in later)])
    data = _data(
        len(ids),
        np.array([users[cell[at["user"]]] for cell in cells], np.int32),
        np.array([ids[cell[at["item"]]] for cell in cells], np.int32),
        np.array([kinds[cell[at["event"]]] for cell in cells], np.int8),
        np.array([int(cell[at["timestamp"]]) for cell in cells]),
        ids=list(ids),
    )
    later = [row for row in later if row[0] in users]
    return Log(data, [((), [ids[row[1]]]) for row in later], [users[row[0]] for row in later])


PURCHASE_COLUMNS: Final = {
    "order": "order_id",
    "user": "user_id",
    "item": "item_id",
    "time": "time",
    "quantity": "quantity",
    "revenue": "revenue",
    "price": "price",
    "name": "name",
    "group": "group",
}


def _purchases(paths: Sequence[Path], columns: Mapping[str, str]) -> Log:
    """Purchase lines as Parquet or CSV; a second file describes the items. `columns` maps ours
    (`PURCHASE_COLUMNS`) to the files'; `group` may name several, joined by "/", from the widest to
    the most specific; `only` is a pattern that a product's id matches from its start, so that
    postage is none. Lines without user, or with quantity or money of 0 or less, are left out."""
    names = {**PURCHASE_COLUMNS, **columns}
    only = names.pop("only", "")
    unknown = set(columns) - {*PURCHASE_COLUMNS, "only"}
    if unknown:
        raise InvalidInput.field("columns", f"there is no column {sorted(unknown)[0]!r}")
    table = _table(paths[0])
    for needed in ("order", "user", "item", "time", "quantity"):
        if names[needed] not in table:
            raise InvalidInput.field(
                "columns", f"{paths[0].name} has no column {names[needed]!r}: say {needed}=…"
            )
    quantity = np.asarray(table[names["quantity"]], np.float64)
    if names["revenue"] in table:
        revenue = np.asarray(table[names["revenue"]], np.float64)
    else:
        revenue = quantity * np.asarray(table[names["price"]], np.float64)
    keep = (quantity > 0) & (revenue > 0) & _known(table[names["user"]])
    if only:
        product = re.compile(only)
        keep &= np.array([bool(product.match(one)) for one in _text(table[names["item"]])])
    users = np.unique(_text(table[names["user"]])[keep], return_inverse=True)[1]
    orders = np.unique(_text(table[names["order"]])[keep], return_inverse=True)[1]
    lines = _text(table[names["item"]])[keep]
    seconds = table[names["time"]][keep].astype("datetime64[s]").astype(np.int64)
    described = _table(paths[1]) if len(paths) > 1 else {k: v[keep] for k, v in table.items()}
    listed = _text(described[names["item"]])
    ids, first = _distinct(listed, described, names["name"])
    at = np.minimum(np.searchsorted(ids, lines), len(ids) - 1)
    item = np.where(ids[at] == lines, at, -1).astype(np.int32)
    unit = np.full(len(ids), np.nan, np.float32)
    paid = item >= 0
    unit[item[paid]] = (revenue[keep] / quantity[keep])[paid]
    group_columns = [part for part in names["group"].split("/") if part in described]
    return Log(
        _data(
            len(ids),
            users.astype(np.int32),
            item,
            EventType.PURCHASE,
            seconds,
            session=orders.astype(np.int32),
            quantity=quantity[keep],
            revenue=revenue[keep],
            ids=[str(one) for one in ids],
            names=_names(described, names["name"], first),
            price=unit,
            groups=_groups([_text(described[part])[first] for part in group_columns], len(ids)),
        )
    )


def _table(path: Path) -> dict[str, npt.NDArray[Any]]:
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    table = csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def _text(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return column.astype(str)


def _distinct(
    listed: npt.NDArray[Any], described: Mapping[str, npt.NDArray[Any]], name: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The distinct ids, ascending, and for each a row that describes it: of several descriptions
    the most frequent, as a file of purchase lines has many."""
    titles = _text(described[name]) if name in described else np.zeros(len(listed), "U1")
    pairs = np.char.add(np.char.add(listed, "\t"), titles)
    _, first, count = np.unique(pairs, return_index=True, return_counts=True)
    order = np.lexsort((first, -count, listed[first]))
    ids = listed[first][order]
    leading = np.concatenate(([True], ids[1:] != ids[:-1])) if len(ids) else np.empty(0, bool)
    return ids[leading], first[order][leading]


def _known(column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    text = column.astype(str)
    return ~np.isin(text, ["None", "nan", ""])


def _names(
    described: Mapping[str, npt.NDArray[Any]], column: str, first: npt.NDArray[np.int64]
) -> list[str]:
    parts = [described[part] for part in column.split("/") if part in described]
    if not parts:
        return [""] * len(first)
    return [
        " ".join(str(part[row]) for part in parts if part[row] is not None).strip()
        for row in first.tolist()
    ]


def _groups(levels: Sequence[npt.NDArray[Any]], n: int) -> Facet:
    """Each level is named by its whole path, so that "other" of two departments are two."""
    paths: list[list[str]] = [[] for _ in range(n)]
    for level in levels:
        for path, name in zip(paths, level.tolist(), strict=True):
            if name not in ("None", "nan", ""):
                path.append(f"{path[-1]}/{name}" if path else name)
    table = _codes(name for path in paths for name in path)
    return Facet(
        list(table),
        np.concatenate(([0], np.cumsum([len(path) for path in paths]))).astype(np.int64),
        np.array([table[name] for path in paths for name in path], np.int32),
    )


def _data(
    n: int,
    shopper: npt.NDArray[np.int32],
    item: npt.NDArray[np.int32],
    kind: npt.NDArray[np.int8] | EventType,
    time: npt.NDArray[Any],
    *,
    session: npt.NDArray[np.int32] | None = None,
    quantity: npt.NDArray[Any] | None = None,
    revenue: npt.NDArray[Any] | None = None,
    ids: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    price: npt.NDArray[np.float32] | None = None,
    groups: Facet | None = None,
) -> TrainingData:
    """Columns in the contract's types and order; what the file lacks, with the contract's
    values for "unknown"."""
    m = len(item)
    types = np.full(m, int(kind), np.int8) if isinstance(kind, EventType) else kind
    if session is None:  # a visit: the same shopper, at most half an hour of silence
        order = np.lexsort((time, shopper))
        pause = (np.diff(time[order]) > 1800) | (np.diff(shopper[order]) != 0)
        session = np.empty(m, np.int32)
        session[order] = np.concatenate(([0], np.cumsum(pause)))[:m]
    order = np.lexsort((np.arange(m), session, time, shopper))
    ones = np.ones(m, np.float32)
    none = Facet([], np.zeros(n + 1, np.int64), np.empty(0, np.int32))
    items = Items(
        ids=[str(i) for i in range(n)] if ids is None else ids,
        names=[""] * n if names is None else names,
        available=np.ones(n, np.bool_),
        price=np.full(n, np.nan, np.float32) if price is None else price,
        created=np.zeros(n, np.int64),
        groups=none if groups is None else groups,
        facets={},
    )
    events = Events(
        shopper=shopper[order].astype(np.int32),
        item=item[order].astype(np.int32),
        type=types[order],
        time=time[order].astype(np.int64),
        quantity=(ones if quantity is None else quantity[order]).astype(np.float32),
        revenue=(ones * 0 if revenue is None else revenue[order]).astype(np.float32),
        session=session[order].astype(np.int32),
        term=np.full(m, -1, np.int32),
        terms=[],
        shoppers=int(shopper.max(initial=-1)) + 1,
    )
    return TrainingData(items, events, int(time.max(initial=0)) + 1)


def _numbers(path: Path) -> list[list[int]]:
    rows = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            row = [int(part) for part in text.split()]
        except ValueError:
            raise InvalidInput.field(
                "path", f"{path.name} line {number}: item ids must be whole numbers"
            ) from None
        if row:
            rows.append(row)
    if not rows:
        raise InvalidInput.field("path", f"{path.name} is empty")
    return rows


def _codes(values: Iterable[str]) -> dict[str, int]:
    table: dict[str, int] = {}
    for value in values:
        table.setdefault(value, len(table))
    return table


FORMATS: Final[Mapping[str, Callable[[Sequence[Path], Mapping[str, str]], Log]]] = {
    "sequences": _sequences,
    "sessions": _sessions,
    "events": _events,
    "purchases": _purchases,
}
