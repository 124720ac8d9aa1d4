"""The values of a capped attribute that items have, as numbers."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.item_index import ItemIndex, value_text
from app.domain.rule_action import AtMost
from vitrine_sdk import IntArray


class CapValues:
    """Of one index. What a code stands for is looked up once."""

    def __init__(self, index: ItemIndex) -> None:
        self._index = index
        self._of: dict[tuple[str, frozenset[str]], dict[int, tuple[int, ...]]] = {}

    def of(self, cap: AtMost, rows: IntArray) -> Sequence[tuple[int, ...]]:
        """For each row the values that the cap limits, by value code."""
        column = self._index.columns.get(cap.attribute)
        if column is None or column.closed:
            return [()] * len(rows)
        limited = frozenset(map(value_text, cap.values))
        known = self._of.setdefault((cap.attribute, limited), {0: ()})
        found = []
        for code in column.codes[rows].tolist():
            values = known.get(code)
            if values is None:
                values = known[code] = tuple(
                    value
                    for value in column.value_codes_of(code).tolist()
                    if not limited or column.values[value] in limited
                )
            found.append(values)
        return found
