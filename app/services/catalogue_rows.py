"""A file's rows, read as a stream: CSV (RFC 4180, with a header), JSONL and JSON."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, Literal

import msgspec

from app.domain.catalogue import Kind, Record
from app.domain.catalogue_input import parse_record, readable_id
from app.domain.errors import InvalidInput
from app.services.catalogue_columns import BrokenFile, Columns

MAX_LINE_BYTES: Final = 1024 * 1024
MAX_COLUMNS: Final = 1_000
_MAX_JSON_BYTES: Final = 64 * 1024 * 1024  # a JSON file cannot be read as a stream
_BOM: Final = b"\xef\xbb\xbf"

Format = Literal["csv", "jsonl", "json"]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was received."""

    stored: str  # where it is kept
    name: str  # as the client called it: shown, never opened
    kind: Kind | None = None  # None: an archive, whose members' names tell


@dataclass(frozen=True, slots=True)
class Source:
    """One file of records."""

    name: str
    kind: Kind
    format: Format
    stream: IO[bytes]


@dataclass(frozen=True, slots=True)
class Row:
    """What a row of a file is: records (an item group may hold others), or why it is refused."""

    line: int
    records: Sequence[Record] = ()
    reason: str | None = None
    id: str | None = None  # of a refused one, where it could be read


def read_rows(
    source: Source, *, partial: bool, mapping: Mapping[str, str] | None = None
) -> Iterator[Row]:
    """The rows of a file.

    Args:
        partial: as a PATCH takes them: only the id is required.
        mapping: field -> column (of JSONL: key), where a file calls a field otherwise.

    Raises:
        BrokenFile: it cannot be read to its end. What came before does not count.
    """
    if source.format == "csv":
        return _csv(source, partial, mapping)
    if mapping:
        return _mapped_jsonl(source, partial, mapping)
    return _json(source, partial) if source.format == "json" else _jsonl(source, partial)


class _Lines:
    """Lines of bounded length as text; remembers where there were bytes that are no UTF-8."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._first = True
        self.number = 0
        self.undecodable = False

    def __iter__(self) -> Iterator[str]:
        while line := next_line(self._source, self.number + 1):
            self.number += 1
            if self._first:
                line = line.removeprefix(_BOM)
                self._first = False
            try:
                yield line.decode()
            except UnicodeDecodeError:
                self.undecodable = True
                yield line.decode("utf-8", "replace")


def next_line(source: Source, number: int) -> bytes:
    """The next line; b"" at the end."""
    line = source.stream.readline(MAX_LINE_BYTES + 1)
    if len(line) > MAX_LINE_BYTES:
        raise BrokenFile(
            source.name,
            f"is longer than {MAX_LINE_BYTES:,} bytes: do lines end with a line feed?",
            number,
        )
    return line


def _csv(source: Source, partial: bool, mapping: Mapping[str, str] | None) -> Iterator[Row]:
    lines = _Lines(source)
    reader = csv.reader(iter(lines), strict=True)
    columns: Columns | None = None
    while True:
        start = lines.number + 1
        lines.undecodable = False
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise BrokenFile(source.name, f"is broken CSV: {_csv_trouble(error)}", start) from None
        if not cells:
            continue
        if columns is None:
            if lines.undecodable:
                raise BrokenFile(source.name, "is not UTF-8", start)
            columns = _header(source, cells, start, partial, mapping)
            continue
        yield _csv_row(columns, cells, start, lines.undecodable)
    if columns is None:
        raise BrokenFile(source.name, "is empty: a header with the columns is wanted")


def _header(
    source: Source,
    cells: list[str],
    line: int,
    partial: bool,
    mapping: Mapping[str, str] | None,
) -> Columns:
    if len(cells) > MAX_COLUMNS:
        raise BrokenFile(source.name, f"has more than {MAX_COLUMNS:,} columns", line)
    if len(cells) == 1 and any(mark in cells[0] for mark in ";\t"):
        raise BrokenFile(source.name, "has a header without commas: separate with commas", line)
    return Columns(source.name, source.kind, cells, partial=partial, mapping=mapping)


def _csv_row(columns: Columns, cells: list[str], line: int, undecodable: bool) -> Row:
    if undecodable:
        return Row(line, reason="is not UTF-8", id=columns.id_of(cells))
    if len(cells) != len(columns.names):
        reason = (
            f"has {len(cells)} fields, the header has {len(columns.names)}:"
            " is a comma or a quote missing or too much?"
        )
        # Which of them is the id cannot be known for sure, so that it is none.
        return Row(line, reason=reason)
    return table_row(columns, cells, line)


def table_row(columns: Columns, cells: Sequence[Any], line: int) -> Row:
    """The row of a table that has as many cells as columns."""
    try:
        return Row(line, (columns.record(cells),))
    except InvalidInput as error:
        return Row(line, reason=error.message.removeprefix("/"), id=columns.id_of(cells))


def _csv_trouble(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text or "field larger" in text:
        return "a quote is opened here and not closed"
    if "expected after" in text:
        return 'a quote within a quoted field: write it twice ("")'
    return text


def _jsonl(source: Source, partial: bool) -> Iterator[Row]:
    number = 0
    while line := next_line(source, number + 1):
        number += 1
        raw = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
        if raw:
            yield _json_row(source.kind, number, raw, partial)


def _mapped_jsonl(source: Source, partial: bool, mapping: Mapping[str, str]) -> Iterator[Row]:
    """JSON lines as rows of a table: keys are columns."""
    number = 0
    known: dict[tuple[str, ...], Columns] = {}
    while line := next_line(source, number + 1):
        number += 1
        raw = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
        if not raw:
            continue
        try:
            row = msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            yield Row(number, reason="is not a JSON object")
            continue
        keys = tuple(row)
        columns = known.get(keys)
        if columns is None:
            own = {field: key for field, key in mapping.items() if key in row}
            try:
                columns = Columns(source.name, source.kind, keys, partial=partial, mapping=own)
            except BrokenFile as error:
                yield Row(number, reason=error.reason)
                continue
            if len(known) < MAX_COLUMNS:
                known[keys] = columns
        yield table_row(columns, list(row.values()), number)


def _json(source: Source, partial: bool) -> Iterator[Row]:
    body = source.stream.read(_MAX_JSON_BYTES + 1)
    if len(body) > _MAX_JSON_BYTES:
        raise BrokenFile(
            source.name, f"has more than {_MAX_JSON_BYTES:,} bytes: as JSONL it may have more"
        )
    try:
        lists = msgspec.json.decode(body.removeprefix(_BOM), type=dict[str, list[msgspec.Raw]])
        raws = lists[source.kind]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        raise BrokenFile(
            source.name, f'is not JSON of the form {{"{source.kind}": [...]}}'
        ) from None
    line, at = 1, 0
    for raw in raws:
        record = bytes(raw)
        found = body.find(record, at)
        line += body.count(b"\n", at, found)
        at = found
        yield _json_row(source.kind, line, record, partial)


def _json_row(kind: Kind, line: int, raw: bytes, partial: bool) -> Row:
    try:
        return Row(line, parse_record(kind, raw, partial=partial))
    except InvalidInput as error:
        found = readable_id(raw)
        return Row(
            line,
            reason=error.message.removeprefix("/"),
            id=found if isinstance(found, str) else None,
        )
