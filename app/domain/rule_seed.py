"""What rules compare with the request's seed items and with what the shopper did."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from app.domain import rule_action as act
from app.domain.item_index import PRICE, Column, ItemIndex, Table
from app.domain.rule_activation import Facts
from app.domain.rule_program import Relative
from vitrine_sdk import BoolArray, FloatArray, IntArray

GROUP: Final = "group_id"
MAX_TABLE_BYTES: Final = 16 * 1024 * 1024
"""Of the tables that are remembered, one a set of the seeds' values."""


class SeedComparison:
    """Compares items of one index. Its tables are remembered while the column stays as it is."""

    def __init__(self, index: ItemIndex) -> None:
        self._index = index
        self._tables: dict[tuple[str, tuple[int, ...]], Table] = {}
        self._bytes = 0
        self._counts: dict[str, tuple[int, npt.NDArray[np.int64]]] = {}

    def kept(self, action: Relative, rows: IntArray, facts: Facts) -> BoolArray | None:
        """Which rows the action leaves in; None: all, for there is nothing to compare with."""
        match action:
            case act.LeaveOut():
                acted = facts.acts.rows_of(action.what, action.days)
                return np.isin(rows, acted, invert=True) if len(acted) else None
            case act.PriceOfSeed():
                return self._within(action, rows, facts.seeds)
            case act.SameAsSeed():
                return self._shares(action.attribute, action.bands, rows, facts.seeds)
            case act.DifferentFromSeed():
                shares = self._shares(action.attribute, action.bands, rows, facts.seeds)
                return None if shares is None else ~shares

    def _within(self, action: act.PriceOfSeed, rows: IntArray, seeds: IntArray) -> BoolArray | None:
        prices = self._prices(seeds)
        if not len(prices):
            return None
        price = self._index.price[rows]
        kept = ~np.isnan(price)
        if action.at_least is not None:
            kept &= price >= np.float32(action.at_least * float(prices.min()))
        if action.at_most is not None:
            kept &= price <= np.float32(action.at_most * float(prices.max()))
        return kept

    def _prices(self, rows: IntArray) -> FloatArray:
        prices = self._index.price[rows]
        known: FloatArray = prices[~np.isnan(prices)]
        return known

    def _shares(
        self, attribute: str, bands: act.Bands, rows: IntArray, seeds: IntArray
    ) -> BoolArray | None:
        if attribute == PRICE:
            prices = self._prices(seeds)
            if not len(prices):
                return None
            # A bound belongs to the band below it.
            bounds = np.array(bands, np.float32)
            price = self._index.price[rows]
            band = np.searchsorted(bounds, price)
            return np.isin(band, np.searchsorted(bounds, prices)) & ~np.isnan(price)
        column = self._index.columns.get(attribute)
        codes = () if column is None else tuple(sorted(set(column.codes[seeds].tolist()) - {0}))
        if column is None or not codes:
            return None
        return self._table(attribute, column, codes)[column.codes[rows]]

    def _table(self, attribute: str, column: Column, codes: tuple[int, ...]) -> Table:
        key = (attribute, codes)
        # Which group is the most specific may change with the catalogue.
        table = self._tables.get(key)
        if table is not None and len(table) == column.size and not self._moved(attribute):
            return table
        values: set[int] = set()
        for code in codes:
            own = column.value_codes_of(code)
            values.update((self._rarest(column, own) if attribute == GROUP else own).tolist())
        flags = np.zeros(len(column.values), np.bool_)
        flags[list(values)] = True
        table = column.where_values(flags)
        if self._bytes > MAX_TABLE_BYTES:
            self._tables.clear()
            self._bytes = 0
        self._tables[key] = table
        self._bytes += table.nbytes
        return table

    def _moved(self, attribute: str) -> bool:
        """Whether the groups' sizes are those of an older catalogue; then all is forgotten."""
        if attribute != GROUP:
            return False
        known = self._counts.get(GROUP)
        if known is not None and known[0] == self._index.revision:
            return False
        index = self._index
        count = len(index)
        column = index.columns[GROUP]
        present = index.present[:count]
        counts = np.bincount(column.codes[:count][present], minlength=column.size)
        self._counts[GROUP] = (index.revision, counts)
        self._tables = {key: t for key, t in self._tables.items() if key[0] != GROUP}
        self._bytes = sum(table.nbytes for table in self._tables.values())
        return True

    def _rarest(self, column: Column, values: IntArray) -> IntArray:
        """Of an item's groups, the one with the fewest items: the most specific one."""
        self._moved(GROUP)
        counts = self._counts[GROUP][1]
        sizes = []
        for value in values.tolist():
            table = column.has_any((column.values[value],))
            sizes.append(int(counts[table[: len(counts)]].sum()) if len(counts) else 0)
        smallest = min(sizes)
        return values[[size == smallest for size in sizes]]
