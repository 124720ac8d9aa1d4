"""The newest items of a catalogue that match: what slots and shares take where the strategies
brought too few."""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

from app.domain.item_index import ItemIndex
from app.domain.rule_table import ItemTest
from vitrine_sdk import IntArray

LIMIT: Final = 500
"""So many are looked through for those that the request allows."""

MAX_REMEMBERED: Final = 256

PART: Final = 4_096
"""Ids that are hashed between two requests: a millisecond."""


class NewestItems:
    """Newest first; of the same second, in an order that is the same in every process."""

    def __init__(self, index: ItemIndex) -> None:
        self._index = index
        self.shuffle: npt.NDArray[np.uint32] = np.empty(0, np.uint32)
        """One a row, as far as they are ready; the same for all of the index's rules."""
        self._known: dict[tuple[int, int], tuple[int, IntArray]] = {}

    def matching(self, test: ItemTest, minute: int) -> IntArray:
        """Rows of available items, at most LIMIT.

        Args:
            minute: of now, counted from 1970.
        """
        index = self._index
        key = (id(test), 0 if test.timeless else minute)
        known = self._known.get(key)
        if known is not None and known[0] == index.revision:
            return known[1]
        rows = np.flatnonzero(index.available[: len(index)]).astype(np.int32)
        rows = rows[test.evaluate(rows, minute * 60.0)]
        if len(rows) > LIMIT:
            created = index.created[rows]
            oldest = np.partition(created, -LIMIT)[-LIMIT]
            sure = rows[created > oldest]
            same = rows[created == oldest]
            missing = LIMIT - len(sure)
            if missing < len(same):
                same = same[np.argpartition(self._order(same), missing - 1)[:missing]]
            rows = np.concatenate((sure, same))
        rows = rows[np.lexsort((self._order(rows), -index.created[rows]))]
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[key] = (index.revision, rows)
        return rows

    def catch_up(self) -> bool:
        """Make ready for some of the rows that were added; whether that is done for all."""
        ids = self._index.ids
        have = len(self.shuffle)
        some = ids[have : have + PART]
        if some:
            fresh = np.fromiter((zlib.crc32(i.encode()) for i in some), np.uint32, len(some))
            self.shuffle = np.concatenate((self.shuffle, fresh))
        return have + len(some) == len(ids)

    def _order(self, rows: IntArray) -> npt.NDArray[np.uint32]:
        while not self.catch_up():
            pass
        return self.shuffle[rows]
