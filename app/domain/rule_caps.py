"""The values of a capped attribute that items have, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from app.domain.item_index import Column, ItemIndex, value_text
from app.domain.rule_action import AtMost
from vitrine_sdk import IntArray

GROUP: Final = "group_id"

_NONE: Final[frozenset[str]] = frozenset()


class RowValues(Sequence[tuple[int, ...]]):
    """The limited values of rows, looked up as they are asked for."""

    __slots__ = ("_codes", "_column", "_known", "_limited", "_nearest")

    def __init__(
        self,
        codes: list[int],
        column: Column,
        known: dict[int, tuple[int, ...]],
        limited: frozenset[str],
        *,
        nearest: bool,
    ) -> None:
        self._codes = codes
        self._column = column
        self._known = known
        self._limited = limited
        self._nearest = nearest  # of an item's values, only the first counts

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, place: int) -> tuple[int, ...]:  # type: ignore[override]  # no slices
        code = self._codes[place]
        values = self._known.get(code)
        if values is None:
            column, limited = self._column, self._limited
            every = column.value_codes_of(code).tolist()
            if not limited:
                # The nearest group stands first, and those above it behind.
                values = tuple(every[:1] if self._nearest else every)
            else:
                values = tuple(value for value in every if column.values[value] in limited)
            self._known[code] = values
        return values


CapTable = tuple[IntArray, IntArray, IntArray, IntArray]
"""The column's codes by row; by code, where its limited values begin and end; those; a zero by
value, to count in."""


class CapValues:
    """Of one index. What a code stands for is looked up once."""

    def __init__(self, index: ItemIndex) -> None:
        self._index = index
        self._tables: dict[int, tuple[tuple[int, int], IntArray, IntArray, IntArray]] = {}
        self._of: dict[tuple[str, frozenset[str]], dict[int, tuple[int, ...]]] = {}

    def table(self, cap: AtMost) -> CapTable | None:
        """The same of all rows, for the kernel; None: the cap limits nothing."""
        column = self._index.columns.get(cap.attribute)
        if column is None or column.closed:
            return None
        # Rules live as long as this does, so a cap's identity is its own; as its scratch must be.
        table = self._tables.get(id(cap))
        known = (column.size, len(column.values))
        if table is None or table[0] != known:
            limited = frozenset(map(value_text, cap.values)) if cap.values else _NONE
            offsets, values = column.cells(first_only=cap.attribute == GROUP and not limited)
            if limited:
                offsets, values = _only(column, limited, offsets, values)
            scratch = np.zeros(len(column.values), np.int32)
            table = self._tables[id(cap)] = (known, offsets, values, scratch)
        return (column.codes, *table[1:])

    def of(self, cap: AtMost, rows: IntArray) -> Sequence[tuple[int, ...]]:
        """For each row the values that the cap limits, by value code."""
        column = self._index.columns.get(cap.attribute)
        if column is None or column.closed:
            return [()] * len(rows)
        limited = frozenset(map(value_text, cap.values)) if cap.values else _NONE
        known = self._of.setdefault((cap.attribute, limited), {0: ()})
        return RowValues(
            column.codes[rows].tolist(), column, known, limited, nearest=cap.attribute == GROUP
        )


def _only(
    column: Column, limited: frozenset[str], offsets: IntArray, values: IntArray
) -> tuple[IntArray, IntArray]:
    """The cells whose values are among the limited ones."""
    wanted = np.array([text in limited for text in column.values], np.bool_)[values]
    before = np.concatenate(([0], wanted.cumsum())).astype(np.int32)
    return before[offsets], values[wanted]
