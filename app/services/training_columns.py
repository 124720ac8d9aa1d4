"""Events as the columns that a fit learns from, coded a block at a time, wherever they come from.

Neither the rows nor their texts are ever all in memory: what stays is about 40 bytes an event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from app.domain.catalogue import Section
from app.domain.merchant import MerchantId
from app.services.train import TrainingSet
from vitrine_sdk import Events, Items, TrainingData

SESSION_GAP: Final = 30 * 60
"""Seconds without an event after which a shopper's next one opens a new visit, where the events
do not say which visit they belong to."""

_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
COLUMNS: Final[Mapping[str, Any]] = {
    "shopper": _TEXT,
    "item": _TEXT,
    "type": pa.int8(),
    "time": pa.int64(),
    "quantity": pa.float32(),
    "revenue": pa.float32(),
    "session": _TEXT,
    "term": _TEXT,
}


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCatalogue:
    """What events are read beside."""

    items: Items
    version: int
    users: Mapping[str, str]  # by client id: who logged in on it


class CatalogueSource(Protocol):
    async def catalogue(self, merchant: MerchantId, section: Section) -> TrainingCatalogue:
        """
        Raises:
            Unavailable: the store is away.
        """
        ...


def training_set(
    catalogue: TrainingCatalogue, events: Events, unknown: int, section: Section, until: float
) -> TrainingSet:
    """Of a log that ended before, `now` is its last event: windows count back from there, so that
    an imported log of some years ago is learned from as it was then."""
    now = int(events.time.max()) if len(events) else int(until)
    # No item is of the future: those of an old log were imported after it.
    items = replace(catalogue.items, created=np.minimum(catalogue.items.created, now))
    return TrainingSet(
        data=TrainingData(items=items, events=events, now=now),
        section=section,
        catalogue_version=catalogue.version,
        unknown_items=unknown,
    )


def coded(batches: Iterable[Any], ids: Sequence[str]) -> tuple[Events, int]:
    """Batches of `COLUMNS` coded, and how many rows name an item that is unknown. Equal rows in any
    order give equal arrays: fits are repeatable, and no store promises an order."""
    blocks, unknown = _blocks(batches, ids)
    shopper, shopper_names = _joined(blocks["shopper"])
    # What names nobody at all cannot be learned from.
    named = shopper >= 0
    term, terms = _joined(blocks["term"])
    session, session_names = _joined(blocks["session"])
    columns = {
        "shopper": shopper,
        "time": _concatenated(blocks["time"], np.int64),
        "type": _concatenated(blocks["type"], np.int8),
        "item": _concatenated(blocks["item"], np.int32),
        "session": session,
        "term": term,
        "quantity": _concatenated(blocks["quantity"], np.float32),
        "revenue": _concatenated(blocks["revenue"], np.float32),
    }
    blocks.clear()
    if not named.all():
        columns = {name: column[named] for name, column in columns.items()}
    order = np.lexsort(tuple(reversed(columns.values())))
    columns = {name: column[order] for name, column in columns.items()}
    shoppers, columns["shopper"] = _dense(columns["shopper"], len(shopper_names))
    columns["session"] = _sessions(
        columns["session"], columns["shopper"], columns["time"], len(session_names)
    )
    return Events(terms=terms, shoppers=shoppers, **columns), unknown


def _blocks(batches: Iterable[Any], ids: Sequence[str]) -> tuple[dict[str, list[Any]], int]:
    """The columns, a batch a list entry, items already as positions; and how many rows name an item
    that is unknown."""
    blocks: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    unknown = 0
    known = pa.array(ids, pa.string())
    for batch in batches:
        for name in COLUMNS:
            column = batch.column(name)
            if name == "item":
                positions = _filled(pc.index_in(column.dictionary, value_set=known))
                items = _taken(positions, _filled(column.indices))
                unknown += int(np.count_nonzero(items < 0)) - column.null_count
                blocks[name].append(items)
            elif name in ("shopper", "session", "term"):
                blocks[name].append(column)
            else:
                blocks[name].append(column.to_numpy(zero_copy_only=False))
    return blocks, unknown


def _filled(column: Any) -> npt.NDArray[np.int32]:
    """An Arrow column of numbers with -1 for null."""
    filled = column.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.asarray(filled, np.int32)


def _taken(values: npt.NDArray[np.int32], at: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """`values[at]`, with -1 where `at` is -1."""
    return np.append(values, np.int32(-1))[at]


def _joined(blocks: Sequence[Any]) -> tuple[npt.NDArray[np.int32], list[str]]:
    """Codes into the sorted distinct texts of a column; -1 for null."""
    if not blocks:
        return np.empty(0, np.int32), []
    column = pa.chunked_array(blocks).unify_dictionaries()
    texts = column.chunk(0).dictionary
    order = pc.sort_indices(texts)
    rank = np.empty(len(texts), np.int32)
    rank[order.to_numpy()] = np.arange(len(texts), dtype=np.int32)
    codes = np.concatenate([_filled(chunk.indices) for chunk in column.chunks])
    return _taken(rank, codes), texts.take(order).to_pylist()


def _concatenated(blocks: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate(blocks) if blocks else np.empty(0, dtype)


def _dense(codes: npt.NDArray[np.int32], size: int) -> tuple[int, npt.NDArray[np.int32]]:
    """Codes below `size` renumbered without gaps, in their order; how many there are."""
    used = np.zeros(size, np.bool_)
    used[codes] = True
    numbers = np.cumsum(used, dtype=np.int32) - 1
    return int(np.count_nonzero(used)), numbers[codes].astype(np.int32)


def _sessions(
    named: npt.NDArray[np.int32],
    shopper: npt.NDArray[np.int32],
    time: npt.NDArray[np.int64],
    names: int,
) -> npt.NDArray[np.int32]:
    """Dense session codes, in order of their first event. Rows are sorted by (shopper, time);
    those that name no session are divided where their shopper paused."""
    nameless = np.flatnonzero(named < 0)
    keys = named.astype(np.int64)
    if nameless.size:
        opens = np.ones(nameless.size, np.bool_)
        opens[1:] = (np.diff(shopper[nameless]) != 0) | (np.diff(time[nameless]) > SESSION_GAP)
        keys[nameless] = names + np.cumsum(opens) - 1
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    number = np.empty(first.size, np.int32)
    number[np.argsort(first)] = np.arange(first.size, dtype=np.int32)
    return number[inverse]
