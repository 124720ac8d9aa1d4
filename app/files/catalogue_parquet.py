"""A Parquet file's rows as catalogue records: columns are those of a CSV file, but typed."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from app.domain.catalogue import Kind
from app.services.catalogue_columns import BrokenFile, Columns
from app.services.catalogue_rows import Row, table_row

MAGIC: Final = b"PAR1"
_ROWS_AT_ONCE: Final = 1_000


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def parquet_rows(
    path: Path, kind: Kind, *, partial: bool, mapping: Mapping[str, str] | None = None
) -> Iterator[Row]:
    """The rows of a file; a row's `line` is its number, from 1.

    Args:
        partial: as a PATCH takes them: only the id is required.
        mapping: field -> column, where the file calls a field otherwise.

    Raises:
        BrokenFile: it is no Parquet that can be read, or lacks a column; then it lists the columns
            that were found and those that are wanted.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = Columns(path.name, kind, names, partial=partial, mapping=mapping)
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield table_row(columns, [_value(cell) for cell in cells], number)
    except (pa.ArrowException, OSError) as error:
        raise BrokenFile(path.name, "is not a Parquet file that can be read") from error


def _value(cell: Any) -> Any:
    """A cell as JSON has it; what JSON has not becomes text, and what is not a number nothing."""
    if isinstance(cell, str | int | None):
        return cell
    if isinstance(cell, float | decimal.Decimal):
        return float(cell) if math.isfinite(cell) else None
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, list):
        # A map's rows are pairs.
        if cell and all(isinstance(one, tuple) for one in cell):
            return {str(name): _value(value) for name, value in cell}
        return [_value(one) for one in cell]
    if isinstance(cell, dict):
        return {name: _value(value) for name, value in cell.items()}
    return str(cell)
