"""A section of a catalogue in process: columns over rows, for filters, rules and rendering.

A row belongs to one item for the life of the process. Attributes are dictionary-encoded: every
distinct set of values has a code, a row holds one int32 an attribute, and a predicate is a table of
flags over codes that numpy takes by the rows' codes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from app.domain.catalogue import FacetValue, ItemFeatures, ItemId, Section
from app.domain.item_change import PreparedChange, merged
from app.domain.merchant import MerchantId
from app.domain.rendered import BASE_SHIFT, ENTRY_OVERHEAD, RenderedItems, render
from app.domain.row_lookup import row_lookup
from vitrine_sdk import BoolArray, FloatArray, IntArray

Table = BoolArray  # one flag a code of a column

MAX_VALUES = 250_000
"""Distinct sets of values that a column keeps. A column that would need more is closed: it matches
nothing, and says so by `Column.closed`."""

NOT_INDEXED: Final = frozenset({"url", "image_url", "description"})
"""Shown, never filtered by: each item has its own."""

PRICE: Final = "price"  # an attribute with a column of its own

NO_ROWS: Final = np.empty(0, np.int32)
NO_ROWS.setflags(write=False)

_FIRST_CAPACITY = 256


def value_text(value: FacetValue) -> str:
    """A value as filters write it: 5.0 is "5", True is "true"."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _number(text: str) -> float:
    """The number that a text is; nan where it is none."""
    try:
        number = float(text)
    except ValueError:
        return float("nan")
    return number if abs(number) != float("inf") else float("nan")


class Column:
    """One attribute of every row. Code 0 is "has none"."""

    __slots__ = ("_lookup", "_numbers", "_owners", "_texts", "_value_codes", "_values", "closed",
                 "codes", "size")  # fmt: skip

    def __init__(self, capacity: int) -> None:
        self.codes: IntArray = np.zeros(capacity, np.int32)
        self.size = 1  # number of codes
        self.closed = False  # too many distinct values: see MAX_VALUES
        self._lookup: dict[tuple[str, ...], int] = {(): 0}
        self._value_codes: dict[str, int] = {}
        self._texts: list[str] = []
        self._numbers = array("d")  # one a value
        # Parallel, sorted by owner: the value codes of each code.
        self._owners = array("i")
        self._values = array("i")

    def encode(self, values: Sequence[FacetValue]) -> int:
        """The code of a set of values, made where it is new."""
        code = self._lookup.get(values)  # type: ignore[call-overload]  # a tuple of texts, mostly
        if code is not None:
            return int(code)
        texts = tuple(dict.fromkeys(map(value_text, values)))
        code = self._lookup.get(texts)
        if code is not None:
            return int(code)
        if self.closed:
            return 0
        if self.size >= MAX_VALUES:
            self._close()
            return 0
        code = self.size
        self.size += 1
        value_codes = [self._value_code(text) for text in texts]
        self._owners.extend(repeat(code, len(value_codes)))
        self._values.extend(value_codes)
        self._lookup[tuple(self._texts[v] for v in value_codes)] = code
        return code

    def has_any(self, texts: Iterable[str]) -> Table:
        """Codes that have at least one of the values."""
        wanted = [v for v in map(self._value_codes.get, texts) if v is not None]
        if not wanted:
            return np.zeros(self.size, np.bool_)
        values = _view(self._values, np.int32)
        return self._owned(values == wanted[0] if len(wanted) == 1 else np.isin(values, wanted))

    def between(self, low: float, high: float) -> Table:
        """Codes with a value v that is a number and low <= v <= high."""
        numbers = _view(self._numbers, np.float64)
        return self.where_values((numbers >= low) & (numbers <= high))

    def where_values(self, flags: BoolArray) -> Table:
        """Codes with at least one value whose flag (one a value, as in `values`) is set."""
        return self._owned(flags[_view(self._values, np.int32)])

    @property
    def values(self) -> Sequence[str]:
        """Every distinct value, by value code."""
        return self._texts

    @property
    def numbers(self) -> npt.NDArray[np.float64]:
        """The number that each value is, by value code; nan where it is none."""
        return np.array(self._numbers, np.float64)

    def value_codes_of(self, code: int) -> npt.NDArray[np.int32]:
        """Value codes of a code: the indices into `values`."""
        owners = _view(self._owners, np.int32)
        start, end = np.searchsorted(owners, [code, code + 1])
        return np.array(self._values[int(start) : int(end)], np.int32)

    def values_of(self, code: int) -> tuple[str, ...]:
        return tuple(self._texts[v] for v in self.value_codes_of(code).tolist())

    def firsts(self) -> IntArray:
        """The first value's code of each code; -1 for "has none"."""
        firsts = np.full(self.size, -1, np.int32)
        # Written backwards, so that the first value of each code is the last to be written.
        firsts[_view(self._owners, np.int32)[::-1]] = _view(self._values, np.int32)[::-1]
        return firsts

    def cells(self, *, first_only: bool) -> tuple[IntArray, IntArray]:
        """Value codes of all codes: those of code `c` are ``values[offsets[c]:offsets[c + 1]]``.

        Args:
            first_only: of each code its first value alone.
        """
        counts = np.bincount(_view(self._owners, np.int32), minlength=self.size)
        ends = counts.cumsum()
        values = np.array(self._values, np.int32)
        if first_only:
            values = values[(ends - counts)[counts > 0]]
            ends = (counts > 0).cumsum()
        return np.concatenate(([0], ends)).astype(np.int32), values

    def grow(self, capacity: int) -> None:
        self.codes = _grown(self.codes, capacity, 0)

    def _owned(self, hits: BoolArray) -> Table:
        table = np.zeros(self.size, np.bool_)
        table[_view(self._owners, np.int32)[hits]] = True
        return table

    def _value_code(self, text: str) -> int:
        code = self._value_codes.get(text)
        if code is None:
            code = self._value_codes[text] = len(self._texts)
            self._texts.append(text)
            self._numbers.append(_number(text))
        return code

    def _close(self) -> None:
        codes = self.codes
        Column.__init__(self, 0)
        self.codes, self.closed = codes, True
        self.codes[:] = 0


class ItemIndex:
    """The items of one section, in columns.

    Arrays have one element a row and are longer than `len(index)`: rows beyond are unused, and the
    last one always, so that row -1 (unknown) is not available. They are replaced when they grow, so
    read them from the index in each request, and write to none.

    Not thread-safe: everything happens on the event loop's thread.
    """

    _indexes = 0

    def __init__(self, rendered: RenderedItems) -> None:
        ItemIndex._indexes += 1
        self.base = ItemIndex._indexes << BASE_SHIFT
        """Added to a row it is the item's key in `rendered`."""
        self.rendered = rendered
        self.version = 0
        """The catalogue version that it shows."""
        self.revision = 0
        """Grows with every change that became visible."""
        self.ids: list[ItemId] = []
        self.columns: dict[str, Column] = {}
        self._rows = row_lookup(cast("list[str]", self.ids))
        self._capacity = _FIRST_CAPACITY
        self.present: BoolArray = np.zeros(_FIRST_CAPACITY, np.bool_)
        """The item is in the catalogue."""
        self.available: BoolArray = np.zeros(_FIRST_CAPACITY, np.bool_)
        """The item is in the catalogue and may be recommended."""
        self.price: FloatArray = np.full(_FIRST_CAPACITY, np.nan, np.float32)
        """nan where unknown."""
        self.created: npt.NDArray[np.int64] = np.zeros(_FIRST_CAPACITY, np.int64)
        """Unix seconds at which the item was first seen."""
        self.changed: IntArray = np.zeros(_FIRST_CAPACITY, np.int32)
        """The `revision` that changed the row last."""
        self.moved: IntArray = np.zeros(_FIRST_CAPACITY, np.int32)
        """The `revision` that changed more of it than its price and what shows of it."""
        self.marks: npt.NDArray[np.uint8] = np.zeros(_FIRST_CAPACITY, np.uint8)
        """Scratch: zero whenever nobody computes with it. Who writes clears what was written."""

    def __len__(self) -> int:
        """Number of rows, those of deleted items included."""
        return len(self.ids)

    @property
    def item_count(self) -> int:
        """Items that are in the catalogue."""
        return int(np.count_nonzero(self.present))

    def row(self, item_id: str) -> int:
        """The item's row, -1 where it has none."""
        return self._rows.row(item_id)

    def rows(self, ids: Sequence[str]) -> IntArray:
        """The items' rows, -1 for those that have none."""
        if not ids:
            return NO_ROWS
        return self._rows.rows(ids)

    def packed_rows(self, joined: bytes, ends: IntArray) -> IntArray:
        """The same for ids that stand one after the other, as UTF-8.

        Args:
            ends: where in `joined` each ends.
        """
        return self._rows.packed(joined, ends)

    def column(self, name: str) -> Column | None:
        """The attribute's column; None where no item has it. `price` is not one of them."""
        return self.columns.get(name)

    def values(self, row: int, name: str) -> tuple[str, ...]:
        """An item's values of an attribute, as filters write them."""
        if name == PRICE:
            price = float(self.price[row])
            return () if price != price else (value_text(round(price, 4)),)
        column = self.columns.get(name)
        return () if column is None else column.values_of(int(column.codes[row]))

    def reserve(self, ids: Sequence[str]) -> IntArray:
        """The items' rows, made for those that have none: a model may know items that the catalogue
        has not, or not yet. Such rows are not present and not available."""
        row_for = self._row_for
        return np.fromiter((row_for(ItemId(i)) for i in ids), np.int32, len(ids))

    def prepare(
        self, features: Sequence[ItemFeatures], deleted: Sequence[ItemId] = ()
    ) -> PreparedChange:
        """Make a part of a change ready; nothing of it is visible before `apply`.

        Costs some 10 µs an item: give it chunks, and let requests run between them. An item may
        come again in a later part of the same change; the later one counts.
        """
        count = len(features)
        rows = np.fromiter((self._row_for(f.id) for f in features), np.int32, count)
        fresh = ~self.present[rows]
        columns = {name: np.zeros(count, np.int32) for name in self.columns}
        for i, item in enumerate(features):
            self._encode(item.attributes, i, count, columns)
        change = PreparedChange(
            rows=rows,
            fresh=fresh,
            available=np.fromiter((f.available for f in features), np.bool_, count),
            price=np.fromiter(
                (np.nan if f.price is None else f.price for f in features), np.float32, count
            ),
            created=np.fromiter((f.created for f in features), np.int64, count),
            columns=columns,
            deleted=(gone := self.rows(deleted))[gone >= 0],
        )
        self._prepare_rendered(features, change)
        self._write(change, fresh)
        return change

    def apply(self, changes: Sequence[PreparedChange], version: int) -> int:
        """Make a prepared change visible, whole and at once. Returns the number of rows that it
        touched. Call it between two requests: it does not wait for anything. What can be done
        before is: one change that was compared takes some 20 ns a row."""
        self.revision += 1
        self.version = version
        change = merged(changes)  # a part by itself costs as much as thousands of rows
        if change.differs is None:
            for _ in self.compare(change):
                pass
        seen = ~change.fresh
        self.moved[change.rows[change.fresh]] = self.revision
        self.moved[change.rows[seen][change.differs]] = self.revision
        self.moved[change.deleted] = self.revision
        self._write(change, seen)
        self.present[change.rows] = True
        self.available[change.rows] = change.available
        self.present[change.deleted] = False
        self.available[change.deleted] = False
        self.changed[change.rows] = self.revision
        self.changed[change.deleted] = self.revision
        self.rendered.lay_over(change.rendered)
        return len(change)

    def compare(self, change: PreparedChange) -> Iterator[None]:
        """Find out, a column a step, what of a whole change differs from what is visible by more
        than prices. Columns in which nothing does are left out of it. For no other change to come
        between this and `apply`."""
        seen = ~change.fresh
        rows = change.rows[seen]
        differs: BoolArray = self.available[rows] != change.available[seen]
        differs |= self.created[rows] != change.created[seen]
        for name, codes in list(change.columns.items()):
            column = self.columns[name]
            if not column.closed:
                different = column.codes[rows] != codes[seen]
                if different.any():
                    differs |= different
                else:
                    del change.columns[name]
            yield
        change.differs = differs

    def unchanged_since(self, rows: IntArray, revision: int) -> bool:
        """Whether none of the rows (all >= 0) changed after `revision`."""
        return revision == self.revision or not len(rows) or bool(
            self.changed[rows].max() <= revision
        )  # fmt: skip

    def unmoved_since(self, rows: IntArray, revision: int) -> bool:
        """Whether no more than prices, and what shows of the items, changed after `revision`."""
        return not len(rows) or bool(self.moved[rows].max() <= revision)

    def closed_columns(self) -> list[str]:
        """Attributes with too many distinct values to filter by."""
        return [name for name, column in self.columns.items() if column.closed]

    def _row_for(self, item_id: ItemId) -> int:
        row = self._rows.add(item_id)
        if row + 1 >= self._capacity:  # the last one stays free: it answers for row -1
            self._grow(2 * self._capacity)
        return row

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        self.present = _grown(self.present, capacity, False)
        self.available = _grown(self.available, capacity, False)
        self.price = _grown(self.price, capacity, np.nan)
        self.created = _grown(self.created, capacity, 0)
        self.changed = _grown(self.changed, capacity, 0)
        self.moved = _grown(self.moved, capacity, 0)
        self.marks = np.zeros(capacity, np.uint8)
        for column in self.columns.values():
            column.grow(capacity)

    def _encode(
        self,
        attributes: Mapping[str, tuple[FacetValue, ...]],
        i: int,
        count: int,
        columns: dict[str, IntArray],
    ) -> None:
        for name, values in attributes.items():
            codes = columns.get(name)
            if codes is None:
                if name == PRICE or name in NOT_INDEXED:
                    continue
                self.columns[name] = Column(self._capacity)
                codes = columns[name] = np.zeros(count, np.int32)
            codes[i] = self.columns[name].encode(values)

    def _prepare_rendered(self, features: Sequence[ItemFeatures], change: PreparedChange) -> None:
        """Warm, so that an answer needs no Redis, but only into free room: what is read counts more
        than what is new. Rows that nobody sees yet are put into their place at once."""
        rows, fresh = change.rows.tolist(), change.fresh.tolist()
        staged = 0  # bytes that will be laid over the cache
        for item, row, is_fresh in zip(features, rows, fresh, strict=True):
            key = self.base + row
            rendered = render(item) if self.rendered.room > staged else None
            if not is_fresh:
                change.rendered[key] = rendered
                staged += 0 if rendered is None else len(rendered) + ENTRY_OVERHEAD
            elif rendered is not None:
                self.rendered.put(key, rendered)
            else:
                self.rendered.drop(key)
        for row in change.deleted.tolist():
            change.rendered[self.base + row] = None

    def _write(self, change: PreparedChange, which: BoolArray) -> None:
        if not which.any():
            return
        rows = change.rows[which]
        self.price[rows] = change.price[which]
        self.created[rows] = change.created[which]
        for name, codes in change.columns.items():
            column = self.columns[name]
            # A column that closed meanwhile has no code but 0 any more.
            column.codes[rows] = 0 if column.closed else codes[which]


class ItemIndexes:
    """The indexes of this process, by merchant and section."""

    def __init__(self, rendered: RenderedItems) -> None:
        self.rendered = rendered
        self._indexes: dict[tuple[MerchantId, Section], ItemIndex] = {}

    def get(self, merchant: MerchantId, section: Section) -> ItemIndex:
        """The section's index; an empty one where nothing was heard of it yet."""
        index = self._indexes.get((merchant, section))
        if index is None:
            index = self._indexes[merchant, section] = ItemIndex(self.rendered)
        return index

    def __iter__(self) -> Iterator[tuple[MerchantId, Section]]:
        return iter(list(self._indexes))


def _view(values: array[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """The values as they lie. Not to be kept: while there is a view, the values cannot grow."""
    return np.frombuffer(values, dtype) if values else np.empty(0, dtype)


def _grown(old: npt.NDArray[Any], capacity: int, filler: Any) -> npt.NDArray[Any]:
    new = np.full(capacity, filler, old.dtype)
    new[: len(old)] = old
    return new
