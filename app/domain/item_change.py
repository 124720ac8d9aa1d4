"""A change of the catalogue on its way into an `ItemIndex`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vitrine_sdk import BoolArray, FloatArray, IntArray

_T = TypeVar("_T", bound=np.generic)


@dataclass(slots=True, eq=False)
class PreparedChange:
    """Part of a change of the catalogue, ready for `ItemIndex.apply`. What it says of rows that are
    visible already is staged here; rows that nobody sees yet are filled in place."""

    rows: IntArray  # every row of this part that stays or becomes present
    fresh: BoolArray  # of `rows`: not present when this was prepared
    available: BoolArray
    price: FloatArray
    created: npt.NDArray[np.int64]
    columns: dict[str, IntArray]
    deleted: IntArray
    rendered: dict[int, bytes | None] = field(default_factory=dict)  # see RenderedItems.lay_over
    differs: BoolArray | None = None  # of the rows that are not fresh: see ItemIndex.compare

    def __len__(self) -> int:
        return len(self.rows) + len(self.deleted)


def merged(changes: Sequence[PreparedChange]) -> PreparedChange:
    """Parts of one change as one; of a row that comes in several, the later counts."""
    if len(changes) == 1:
        return changes[0]
    names = dict.fromkeys(name for change in changes for name in change.columns)
    rendered: dict[int, bytes | None] = {}
    for change in changes:
        rendered.update(change.rendered)
    return PreparedChange(
        rows=_joined([change.rows for change in changes], np.int32),
        fresh=_joined([change.fresh for change in changes], np.bool_),
        available=_joined([change.available for change in changes], np.bool_),
        price=_joined([change.price for change in changes], np.float32),
        created=_joined([change.created for change in changes], np.int64),
        columns={
            # What was prepared before a column was known has no value of it.
            name: _joined(
                [
                    np.zeros(len(change.rows), np.int32) if codes is None else codes
                    for change in changes
                    for codes in (change.columns.get(name),)
                ],
                np.int32,
            )
            for name in names
        },
        deleted=_deleted(changes),
        rendered=rendered,
    )


def _deleted(changes: Sequence[PreparedChange]) -> IntArray:
    """Without what a later part brings back."""
    found: list[IntArray] = []
    later: list[IntArray] = []
    for change in reversed(changes):
        gone = change.deleted
        if len(gone) and later:
            gone = gone[~np.isin(gone, np.concatenate(later))]
        found.append(gone)
        if len(change.rows):
            later.append(change.rows)
    return _joined(found, np.int32)


def _joined(parts: Sequence[npt.NDArray[_T]], of: type[_T]) -> npt.NDArray[_T]:
    return np.concatenate(parts) if parts else np.empty(0, of)
