"""Files of events, opened: CSV, JSONL and Parquet as Arrow columns, in bounded memory."""

from __future__ import annotations

import csv
import gzip
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from app.domain.errors import InvalidInput
from app.domain.merchant import MerchantId
from app.files.event_columns import EventColumns, RawRows
from app.services.import_events import FIELDS, Batch, RejectedRow

BATCH: Final = 65_536  # rows


class EventFile:
    """Implements `services.import_events.EventFile`.

    Args:
        mapping: field → column; a field that is not mapped is read from a column of its name.
        types: what the file calls a type → its name here; `type` alone: every row is of it.
        timezone: of times that do not say theirs.
    """

    def __init__(
        self,
        path: Path,
        merchant: MerchantId,
        *,
        mapping: Mapping[str, str] | None = None,
        type_: str | None = None,
        types: Mapping[str, str] | None = None,
        timezone: str = "UTC",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._mapping = {field: field for field in FIELDS} | dict(mapping or {})
        self._mapped = frozenset(mapping or {})
        self._events = EventColumns(
            merchant, type_=type_, types=types or {}, timezone=timezone, now=now
        )

    def batches(self) -> Iterator[Batch]:
        """See `services.import_events.EventFile`."""
        for raw in self._open():
            yield self._events.check(raw)

    # Reading

    def _open(self) -> Iterator[RawRows]:
        name = self._path.name.lower().removesuffix(".gz")
        try:
            if name.endswith((".parquet", ".pq")):
                return self._parquet()
            if name.endswith((".csv", ".tsv")):
                return self._csv("\t" if name.endswith(".tsv") else ",")
            if name.endswith((".jsonl", ".ndjson", ".json")):
                return self._json_lines()
        except (OSError, pa.ArrowException) as error:
            raise InvalidInput.field("file", f"{self._path.name} cannot be read: {error}") from None
        raise InvalidInput.field(
            "file", f"{self._path.name}: the name must end in .csv, .tsv, .jsonl or .parquet"
        )

    def _columns(self, names: Sequence[str]) -> dict[str, str]:
        """Field → column, of those that the file has.

        Raises:
            InvalidInput: one that is needed, or was mapped, is not there.
        """
        present = set(names)
        found = {f: column for f, column in self._mapping.items() if column in present}
        missing = [f"{self._mapping[f]} (for {f})" for f in self._mapped if f not in found]
        if "time" not in found and "time" not in self._mapped:
            missing.append("time")
        if self._events.needs_type and "type" not in found and "type" not in self._mapped:
            missing.append("type (or say one type for all)")
        if "client_id" not in found and "user_id" not in found:
            missing.append("client_id or user_id")
        if missing:
            raise InvalidInput.field(
                "map",
                f"{self._path.name} has no column {', '.join(missing)}; "
                f"it has {', '.join(names[:50])}",
            )
        return found

    def _parquet(self) -> Iterator[RawRows]:
        file = pq.ParquetFile(self._path)
        columns = self._columns(file.schema_arrow.names)
        return self._parquet_batches(file, columns)

    def _parquet_batches(self, file: Any, columns: Mapping[str, str]) -> Iterator[RawRows]:
        first = 1
        for batch in file.iter_batches(batch_size=BATCH, columns=sorted(set(columns.values()))):
            numbers = np.arange(first, first + batch.num_rows)
            yield RawRows({f: batch.column(c) for f, c in columns.items()}, numbers, ())
            first += batch.num_rows

    def _csv(self, delimiter: str) -> Iterator[RawRows]:
        with self._text() as lines:
            head = lines.readline().decode("utf-8-sig", "replace")
        names = next(csv.reader([head.rstrip("\r\n")], delimiter=delimiter), [])
        columns = self._columns(names)
        return self._csv_batches(names, columns, delimiter)

    def _csv_batches(
        self, names: Sequence[str], columns: Mapping[str, str], delimiter: str
    ) -> Iterator[RawRows]:
        broken: list[RejectedRow] = []

        def skip(row: Any) -> str:
            reason = f"has {row.actual_columns} columns, the header has {row.expected_columns}"
            broken.append(RejectedRow(row.number - 1, reason))  # the header is row 1
            return "skip"

        wanted = sorted(set(columns.values()))
        with self._text() as stream:
            reader = pyarrow.csv.open_csv(
                stream,
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False,
                    block_size=8 * 1024 * 1024,
                    column_names=list(names),
                    skip_rows=1,
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=wanted,
                    column_types={name: pa.string() for name in wanted},
                    strings_can_be_null=True,
                    null_values=[""],
                ),
            )
            first = 1
            for batch in reader:
                here, broken[:] = list(broken), ()
                gaps = sorted(row.row for row in here)
                numbers = _numbers(first, batch.num_rows, gaps)
                yield RawRows({f: batch.column(c) for f, c in columns.items()}, numbers, here)
                first += batch.num_rows + len(here)

    def _json_lines(self) -> Iterator[RawRows]:
        return self._json_batches()

    def _json_batches(self) -> Iterator[RawRows]:
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        columns: dict[str, str] | None = None
        with self._text() as lines:
            rows: list[dict[str, Any]] = []
            numbers: list[int] = []
            broken: list[RejectedRow] = []
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                try:
                    rows.append(decode(line))
                    numbers.append(number)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    broken.append(RejectedRow(number, f"is no JSON object: {error}"))
                if len(rows) + len(broken) >= BATCH:
                    columns = columns or self._columns(_names(rows))
                    yield _of_objects(rows, numbers, broken, columns)
                    rows, numbers, broken = [], [], []
            if rows or broken:
                columns = columns or self._columns(_names(rows))
                yield _of_objects(rows, numbers, broken, columns)

    def _text(self) -> IO[bytes]:
        if self._path.name.lower().endswith(".gz"):
            return gzip.open(self._path)  # type: ignore[return-value]  # it reads as one
        return self._path.open("rb")


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _of_objects(
    rows: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
    broken: Sequence[RejectedRow],
    columns: Mapping[str, str],
) -> RawRows:
    def text(value: Any) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value)

    arrays = {
        field: pa.array([text(row.get(column)) for row in rows], pa.string())
        for field, column in columns.items()
    }
    return RawRows(arrays, np.array(numbers, np.int64), broken)


def _numbers(first: int, count: int, gaps: Sequence[int]) -> npt.NDArray[np.int64]:
    """Row numbers from `first` on that leave out `gaps`."""
    every = np.arange(first, first + count + len(gaps))
    return every[~np.isin(every, gaps)][:count]
