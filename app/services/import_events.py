"""Brings a shop's own event history in from a file: each event once, however often it is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from app.domain.errors import InvalidInput
from app.domain.merchant import MerchantId

FIELDS: Final = (
    *("type", "time", "client_id", "user_id", "session", "section", "item_id", "variation_id"),
    *("quantity", "price", "revenue", "order_id", "result_id", "pod_id", "strategy", "term"),
    *("conversion_type", "id"),
)
"""What a file may tell of an event: one row an event and item. See `vitrine import events`."""

MAX_NAMED: Final = 1000  # rejected rows that a report names


class RejectedRow(NamedTuple):
    row: int  # 1 is the first after a CSV's header; a line of JSONL; a row of Parquet
    reason: str


class Batch(NamedTuple):
    """Some of a file's rows: those that are events, ready to be staged, and the others."""

    staged: Any  # opaque to the service: what an `EventFile` makes and a `Staging` takes
    rows: int
    rejected: Sequence[RejectedRow]


class EventFile(Protocol):
    def batches(self) -> Iterator[Batch]:
        """The file's rows in order, in bounded memory.

        Raises:
            InvalidInput: it is no such file, or a column is missing; raised before any batch.
        """
        ...


class Merged(NamedTuple):
    accepted: int  # rows
    duplicate: int  # rows of events that were there already


class Staging(Protocol):
    async def add(self, batch: Batch) -> None: ...

    def merge(self) -> Any:
        """An async iterator of `Merged`, one a commit: days in their order. What is committed
        stays when the import dies; running it again adds the rest."""
        ...


class EventStore(Protocol):
    def staging(self, merchant: MerchantId) -> AbstractAsyncContextManager[Staging]:
        """A place for rows that are not events yet; gone at the end of the block.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        ...


class ImportReport(msgspec.Struct, kw_only=True):
    read: int = 0  # rows
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    rejected_rows: list[RejectedRow] = []  # the first of them
    seconds: float = 0.0


Progress = Callable[[str, ImportReport], None]
"""Called with what is being done ("read", "store") and the report so far."""


class ImportEvents:
    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def run(
        self,
        merchant: MerchantId,
        file: EventFile,
        *,
        progress: Progress = lambda _stage, _report: None,
        on_rejected: Callable[[RejectedRow], None] = lambda _row: None,
    ) -> ImportReport:
        """Reads the file, then adds the events that are not there yet, day by day.

        Raises:
            InvalidInput: the file cannot be read; nothing was changed.
            Unavailable: PostgreSQL went away; run it again, and what was added stays.
        """
        started = time.perf_counter()
        report = ImportReport()
        async with self._store.staging(merchant) as staging:
            for batch in file.batches():
                await staging.add(batch)
                report.read += batch.rows
                report.rejected += len(batch.rejected)
                for row in batch.rejected:
                    on_rejected(row)
                    if len(report.rejected_rows) < MAX_NAMED:
                        report.rejected_rows.append(row)
                report.seconds = time.perf_counter() - started
                progress("read", report)
            async for merged in staging.merge():
                report.accepted += merged.accepted
                report.duplicate += merged.duplicate
                report.seconds = time.perf_counter() - started
                progress("store", report)
        report.seconds = time.perf_counter() - started
        return report


def parse_mapping(texts: Sequence[str]) -> Mapping[str, str]:
    """`field=column` pairs, comma-separated or one a text.

    Raises:
        InvalidInput: no pair, or no such field.
    """
    mapping: dict[str, str] = {}
    for pair in (part.strip() for text in texts for part in text.split(",")):
        field, separator, column = pair.partition("=")
        if not separator or not column:
            raise InvalidInput.field("map", f"{pair!r} is no field=column")
        if field not in FIELDS:
            raise InvalidInput.field("map", f"{field!r} is no field; known: {', '.join(FIELDS)}")
        mapping[field] = column
    return mapping
