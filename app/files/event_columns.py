"""Columns of events from a file, checked: rows that are no event are named, the others made ready
for the log. Whole columns are worked on at once: a million rows take seconds."""

from __future__ import annotations

import datetime as dt
import hashlib
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from app.domain import fingerprint
from app.domain.catalogue import DEFAULT_SECTION
from app.domain.errors import InvalidInput
from app.domain.merchant import MerchantId
from app.services.import_events import Batch, RejectedRow
from vitrine_sdk import EventType

MAX_ID: Final = 256  # characters
OLDEST: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
AHEAD: Final = dt.timedelta(minutes=5)
TYPES: Final[Mapping[str, EventType]] = {
    type_.name.lower(): type_ for type_ in EventType if type_ is not EventType.OTHER
}
_IDENTIFIERS: Final = (
    *("client_id", "user_id", "section", "item_id", "variation_id", "order_id", "result_id"),
    *("pod_id", "strategy", "conversion_type", "id"),
)
_NUMBERS: Final = ("quantity", "price", "revenue")
_MILLISECONDS_FROM: Final = 1e11  # a larger Unix time is in milliseconds
_MICROSECONDS: Final = pa.timestamp("us", "UTC")

Mask = npt.NDArray[np.bool_]


class RawRows(NamedTuple):
    """Some rows of a file, as it holds them."""

    columns: Mapping[str, pa.Array]  # by field
    numbers: npt.NDArray[np.int64]  # of the rows
    broken: Sequence[RejectedRow]  # rows that could not be read at all


class EventColumns:
    """
    Args:
        type_: what every row is; None: the column `type` says it.
        types: what the file calls a type → its name here.
        timezone: of times that do not say theirs.

    Raises:
        InvalidInput: an unknown type or time zone.
    """

    def __init__(
        self,
        merchant: MerchantId,
        *,
        type_: str | None,
        types: Mapping[str, str],
        timezone: str,
        now: Callable[[], float],
    ) -> None:
        self._merchant = merchant
        self._type = None if type_ is None else _known_type(type_)
        self._types = dict(TYPES)
        self._types |= {name.lower(): _known_type(to) for name, to in types.items()}
        try:
            self._timezone = zoneinfo.ZoneInfo(timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            raise InvalidInput.field("timezone", f"there is no {timezone!r}") from None
        self._now = now

    @property
    def needs_type(self) -> bool:
        """Whether the file must have a column `type`."""
        return self._type is None

    def check(self, raw: RawRows) -> Batch:
        count = len(raw.numbers)
        reasons: list[tuple[Mask, str]] = []  # the first that holds of a row counts
        columns: dict[str, pa.Array] = {}
        for field in _IDENTIFIERS:
            columns[field] = self._identifier(field, raw, reasons)
        for field in _NUMBERS:
            columns[field] = _number(field, raw.columns.get(field), count, reasons)
        columns["session"] = _session(raw.columns.get("session"), count, reasons)
        columns["term"] = _term(raw.columns.get("term"), count)
        columns["at"] = self._time(raw.columns["time"], reasons)
        columns["type"] = self._types_of(raw.columns.get("type"), count, reasons)
        columns["section"] = pc.fill_null(columns["section"], DEFAULT_SECTION)
        columns["quantity"] = pc.fill_null(columns["quantity"], 1.0)
        self._require(columns, reasons)
        wrong = np.zeros(count, np.bool_)
        rejected = list(raw.broken)
        for mask, reason in reasons:
            rejected += [
                RejectedRow(int(raw.numbers[i]), reason) for i in np.flatnonzero(mask & ~wrong)
            ]
            wrong |= mask
        rejected.sort(key=lambda row: row.row)
        table = pa.table(columns)
        if wrong.any():
            table = table.filter(pa.array(~wrong))
        return Batch(self._claims(table), count + len(raw.broken), rejected)

    def _identifier(self, field: str, raw: RawRows, reasons: list[tuple[Mask, str]]) -> pa.Array:
        column = raw.columns.get(field)
        count = len(raw.numbers)
        if column is None:
            return pa.nulls(count, pa.string())
        text = pc.utf8_trim_whitespace(_as_text(column))
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        long = _mask(pc.greater(pc.utf8_length(text), MAX_ID))
        if long.any():
            reasons.append((long, f"{field}: has more than {MAX_ID} characters"))
        nul = _mask(pc.match_substring(text, "\x00"))
        if nul.any():
            reasons.append((nul, f"{field}: holds a NUL character"))
        return text

    def _time(self, column: pa.Array, reasons: list[tuple[Mask, str]]) -> pa.Array:
        at = _moments(column, self._timezone)
        bad = _mask(pc.is_null(at))
        if bad.any():
            reasons.append((bad, "time: must be RFC 3339 or Unix seconds"))
        early = _mask(pc.less(at, pa.scalar(OLDEST, _MICROSECONDS)))
        if early.any():
            reasons.append((early, "time: lies before the year 2000"))
        latest = dt.datetime.fromtimestamp(self._now(), dt.UTC) + AHEAD
        late = _mask(pc.greater(at, pa.scalar(latest, _MICROSECONDS)))
        if late.any():
            reasons.append((late, "time: lies in the future"))
        return at

    def _types_of(
        self, column: pa.Array | None, count: int, reasons: list[tuple[Mask, str]]
    ) -> pa.Array:
        if self._type is not None or column is None:
            return pa.array(np.full(count, self._type, np.int16))
        coded = pc.dictionary_encode(pc.utf8_lower(pc.utf8_trim_whitespace(_as_text(column))))
        codes = pa.array(
            [self._types.get(name or "") for name in coded.dictionary.to_pylist()], pa.int16()
        )
        types = codes.take(coded.indices)
        unknown = _mask(pc.is_null(types))
        if unknown.any():
            known = ", ".join(sorted(self._types))
            reasons.append((unknown, f"type: must be one of {known}"))
        return types

    def _require(self, columns: Mapping[str, pa.Array], reasons: list[tuple[Mask, str]]) -> None:
        nobody = _mask(pc.is_null(columns["client_id"])) & _mask(pc.is_null(columns["user_id"]))
        if nobody.any():
            reasons.append((nobody, "client_id, user_id: one of them is needed"))
        no_item = _mask(pc.is_null(columns["item_id"]))
        no_item &= ~_mask(pc.equal(columns["type"], int(EventType.SEARCH)))
        if no_item.any():
            reasons.append((no_item, "item_id: is missing"))

    def _claims(self, table: pa.Table) -> pa.Table:
        """Adds what makes each row's event count once: an order's, an id's, or all that it says.

        Rows of the last kind that say the same are told apart by their place among their like
        (`counted`), so that the same file gives the same claims.
        """
        count = table.num_rows
        claims = np.full(count, None, object)
        ids, orders = table.column("id"), table.column("order_id")
        purchase = _mask(pc.equal(table.column("type"), int(EventType.PURCHASE)))
        ordered = purchase & _mask(pc.is_valid(orders))
        own = ~ordered & _mask(pc.is_valid(ids))
        for mask, column, of in (
            (ordered, orders, fingerprint.of_order),
            (own, ids, fingerprint.of_id),
        ):
            if mask.any():
                coded = column.combine_chunks().filter(pa.array(mask)).dictionary_encode()
                made = [of(self._merchant, name).hex() for name in coded.dictionary.to_pylist()]
                claims[mask] = np.array(made, object)[coded.indices.to_numpy()]
        rest = ~ordered & ~own
        if rest.any():
            claims[rest] = _hashes(table.filter(pa.array(rest)))
        return (
            table.append_column("claim", pa.array(claims, pa.string()))
            .append_column("forever", pa.array(ordered))
            .append_column("counted", pa.array(rest))
        )


def _known_type(name: str) -> EventType:
    if name.lower() not in TYPES:
        raise InvalidInput.field("type", f"{name!r} is none of {', '.join(sorted(TYPES))}")
    return TYPES[name.lower()]


def _mask(flags: pa.Array | pa.ChunkedArray) -> Mask:
    """Where it is true; null is not."""
    filled = pc.fill_null(flags, False)
    if isinstance(filled, pa.ChunkedArray):
        filled = filled.combine_chunks()
    found: Mask = filled.to_numpy(zero_copy_only=False)
    return found


def _as_text(column: pa.Array) -> pa.Array:
    """Ids that a file holds as numbers: 7 and 7.0 are "7"."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        whole = pc.equal(pc.floor(column), column)
        if pc.all(pc.fill_null(whole, True)).as_py():
            column = pc.cast(column, pa.int64(), safe=False)
    return pc.cast(column, pa.string())


def _number(
    field: str, column: pa.Array | None, count: int, reasons: list[tuple[Mask, str]]
) -> pa.Array:
    if column is None:
        return pa.nulls(count, pa.float64())
    try:
        numbers = pc.cast(column, pa.float64())
    except pa.ArrowInvalid:
        numbers = pa.array([_float(value) for value in column.to_pylist()], pa.float64())
    given = _mask(pc.is_valid(column))
    right = _mask(pc.and_(pc.greater_equal(numbers, 0.0), pc.less_equal(numbers, 1e12)))
    if (given & ~right).any():
        reasons.append((given & ~right, f"{field}: must be a number, not negative"))
    return numbers


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _session(column: pa.Array | None, count: int, reasons: list[tuple[Mask, str]]) -> pa.Array:
    if column is None:
        return pa.nulls(count, pa.int64())
    try:
        return pc.cast(_as_text(column), pa.int64())
    except pa.ArrowInvalid:
        values = [_integer(value) for value in _as_text(column).to_pylist()]
    sessions = pa.array(values, pa.int64())
    wrong = _mask(pc.is_valid(column)) & _mask(pc.is_null(sessions))
    if wrong.any():
        reasons.append((wrong, "session: must be a whole number"))
    return sessions


def _integer(value: str | None) -> int | None:
    try:
        number = int(value or "")
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None


def _term(column: pa.Array | None, count: int) -> pa.Array:
    if column is None:
        return pa.nulls(count, pa.string())
    return pc.utf8_slice_codeunits(pc.replace_substring(_as_text(column), "\x00", ""), 0, 1000)


def _moments(column: pa.Array, timezone: zoneinfo.ZoneInfo) -> pa.Array:
    """UTC microseconds; null where there is no time to be read."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _in_utc(column, timezone)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            return _of_seconds(pc.cast(column, pa.float64()))
        except pa.ArrowInvalid:
            pass
        for type_ in (pa.timestamp("us"), _MICROSECONDS):  # without and with a zone
            try:
                return _in_utc(pc.cast(column, type_), timezone)
            except pa.ArrowInvalid:
                continue
        return pa.array([_moment(value, timezone) for value in column.to_pylist()], _MICROSECONDS)
    return _of_seconds(pc.cast(column, pa.float64()))


def _of_seconds(seconds: pa.Array) -> pa.Array:
    large = pc.greater(pc.abs(seconds), _MILLISECONDS_FROM)
    seconds = pc.if_else(large, pc.divide(seconds, 1000.0), seconds)
    sane = pc.and_(pc.is_finite(seconds), pc.less(pc.abs(seconds), _MILLISECONDS_FROM))
    micros = pc.round(pc.multiply(pc.if_else(sane, seconds, None), 1e6))
    return pc.cast(pc.cast(micros, pa.int64()), _MICROSECONDS)


def _in_utc(column: pa.Array, timezone: zoneinfo.ZoneInfo) -> pa.Array:
    if pa.types.is_date(column.type):
        column = pc.cast(column, pa.timestamp("us"))
    if column.type.tz is None:
        column = pc.cast(column, pa.timestamp("us"), safe=False)
        if str(timezone) == "UTC":
            return pc.cast(column, _MICROSECONDS)
        # An hour that comes twice in autumn is the first, one that spring leaves out the next.
        column = pc.assume_timezone(
            column, str(timezone), ambiguous="earliest", nonexistent="latest"
        )
    return pc.cast(column, _MICROSECONDS, safe=False)


def _moment(text: str | None, timezone: zoneinfo.ZoneInfo) -> dt.datetime | None:
    """For files whose times are not all of one form."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = dt.datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone)).astimezone(dt.UTC)
    if abs(seconds) > _MILLISECONDS_FROM:
        seconds /= 1000.0
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _hashes(table: pa.Table) -> list[str]:
    """A claim a row, of all that it says; its second first (see `domain.fingerprint`)."""
    parts = [
        pc.fill_null(pc.cast(table.column(name), pa.string()), "\x1e")
        for name in table.column_names
    ]
    joined = pc.binary_join_element_wise(*parts, "\x1f").to_pylist()
    seconds = pc.divide(pc.cast(table.column("at"), pa.int64()), 1_000_000).to_pylist()
    return [
        f"{second & 0xFFFFFFFF:08x}{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"
        for second, text in zip(seconds, joined, strict=True)
    ]
