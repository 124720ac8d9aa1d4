"""What a shopper did lately, in columns: as it is read for recommendations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from app.domain.event import HistoryEntry
from vitrine_sdk import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A shopper's latest events, newest first; h of them."""

    ids: bytes
    """The items' ids, one after the other, as UTF-8."""
    ends: IntArray  # h: where in `ids` each ends
    types: npt.NDArray[np.int8]  # h, vitrine_sdk.EventType
    times: npt.NDArray[np.int64]  # h, Unix seconds

    def __len__(self) -> int:
        return len(self.ends)

    @classmethod
    def of(cls, entries: Sequence[HistoryEntry]) -> Past:
        if not entries:
            return NO_PAST
        ids = [entry.item_id.encode() for entry in entries]
        return cls(
            b"".join(ids),
            np.fromiter(map(len, ids), np.int32, len(ids)).cumsum(dtype=np.int32),
            # Through bytes: numbers of an enumeration one by one take four times as long.
            np.frombuffer(bytes([entry.type for entry in entries]), np.int8),
            np.array([entry.time for entry in entries], np.float64).astype(np.int64),
        )

    def latest(self, count: int) -> Past:
        """At most so many of them."""
        if count >= len(self):
            return self
        return Past(self.ids, self.ends[:count], self.types[:count], self.times[:count])


NO_PAST: Final = Past(b"", np.empty(0, np.int32), np.empty(0, np.int8), np.empty(0, np.int64))
