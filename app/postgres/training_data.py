"""The catalogue and the event log as the columns that a fit learns from.

Events leave PostgreSQL by COPY into a file and are coded from there a block at a time, so that
neither the rows nor their texts are ever all in memory: what stays is about 40 bytes an event.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.catalogue import Section
from app.domain.merchant import MerchantId
from app.postgres.database import Database, raw
from app.postgres.tables import section as section_table
from app.postgres.training_items import read_items
from app.services.train import Progress, TrainingSet
from vitrine_sdk import Events, TrainingData

SESSION_GAP: Final = 30 * 60
"""Seconds without an event after which a shopper's next one opens a new visit, where the events
do not say which visit they belong to."""

_BLOCK_BYTES: Final = 8 << 20

# A user's events on every client, what came before the log-in included, are one shopper's. An
# order that names nobody is a shopper of its own.
_EVENTS: Final = """
SELECT coalesce('u:' || e.user_id, 'u:' || i.user_id, 'c:' || e.client_id, 'o:' || e.order_id),
       e.item_id,
       e.type,
       date_part('epoch', e.occurred_at)::bigint,
       e.quantity,
       e.revenue,
       CASE WHEN e.type = 4 AND e.order_id IS NOT NULL THEN 'o' || e.order_id
            WHEN e.session IS NOT NULL THEN 's' || coalesce(e.client_id, '') || ':' || e.session
       END,
       e.term
  FROM event e
  LEFT JOIN shopper_identity i
    ON i.merchant_id = e.merchant_id AND i.client_id = e.client_id AND e.user_id IS NULL
 WHERE e.merchant_id = $1 AND e.section = $2 AND e.learn AND e.occurred_at <= to_timestamp($3)
"""

_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
_COLUMNS: Final = {
    "shopper": _TEXT,
    "item": _TEXT,
    "type": pa.int8(),
    "time": pa.int64(),
    "quantity": pa.float32(),
    "revenue": pa.float32(),
    "session": _TEXT,
    "term": _TEXT,
}


class TrainingDataReader:
    """
    Args:
        scratch: a directory for the events on their way; None: the system's.
    """

    def __init__(self, database: Database, scratch: Path | None = None) -> None:
        self._database = database
        self._scratch = scratch

    async def read(
        self, merchant: MerchantId, section: Section, until: float, progress: Progress
    ) -> TrainingSet:
        """Everything of a section up to `until` (Unix seconds) that may be learned from.

        Of a log that ended before, `now` is its last event: windows count back from there, so that
        an imported log of some years ago is learned from as it was then.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="events-", dir=self._scratch) as directory:
            file = Path(directory) / "events.csv"
            async with self._database.merchant(merchant, statement_timeout=0) as connection:
                version = await connection.scalar(
                    sa.select(section_table.c.catalogue_version).where(
                        section_table.c.merchant_id == merchant, section_table.c.name == section
                    )
                )
                items = await read_items(connection, merchant, section)
                progress(f"{len(items):,} items of section {section}")
                await _copy_events(connection, file, merchant, section, until)
            events, unknown = await asyncio.to_thread(_code, file, items.ids)
        progress(f"{len(events):,} events of {events.shoppers:,} shoppers")
        now = int(events.time.max()) if len(events) else int(until)
        # No item is of the future: those of an old log were imported after it.
        items = replace(items, created=np.minimum(items.created, now))
        return TrainingSet(
            data=TrainingData(items=items, events=events, now=now),
            section=section,
            catalogue_version=version or 0,
            unknown_items=unknown,
        )


async def _copy_events(
    connection: AsyncConnection,
    file: Path,
    merchant: MerchantId,
    section: Section,
    until: float,
) -> None:
    driver = await raw(connection)
    await driver.copy_from_query(_EVENTS, merchant, section, until, output=file, format="csv")


def _code(file: Path, ids: Sequence[str]) -> tuple[Events, int]:
    """A file of events coded, and how many of them name an item that is unknown. Equal rows in any
    order give equal arrays: fits are repeatable, and PostgreSQL promises no order."""
    blocks, unknown = _blocks(file, ids)
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


def _blocks(file: Path, ids: Sequence[str]) -> tuple[dict[str, list[Any]], int]:
    """The file's columns, a block a list entry, items already as positions; and how many rows name
    an item that is unknown."""
    blocks: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    unknown = 0
    if file.stat().st_size == 0:
        return blocks, unknown
    known = pa.array(ids, pa.string())
    reader = pyarrow.csv.open_csv(
        file,
        read_options=pyarrow.csv.ReadOptions(
            column_names=list(_COLUMNS), block_size=_BLOCK_BYTES, use_threads=True
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=_COLUMNS,
            null_values=[""],  # as COPY writes NULL; an empty text is quoted
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    for batch in reader:
        for name in _COLUMNS:
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
