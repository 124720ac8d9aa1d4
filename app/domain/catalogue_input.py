"""Catalogue records as they come from outside: validated, every error named by JSON pointer.

Only what Vitrine reads is checked in `data`; the rest is the shop's own and served as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from app.domain.catalogue import (
    MAX_DATA_BYTES,
    MAX_GROUPS,
    MAX_ID_LENGTH,
    MAX_NAME_LENGTH,
    Kind,
    Record,
)
from app.domain.errors import FieldError, InvalidInput, TooLarge
from app.domain.item_features import amount, facets_of

MAX_DEPTH: Final = 32
"""Levels of nesting that `data`, or a tree of item groups, may have."""
MAX_ERRORS: Final = 100
"""Wrong fields that one answer lists."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
Score = Annotated[float, msgspec.Meta(ge=-1, le=500_000_000)]


class ItemInput(msgspec.Struct, forbid_unknown_fields=True):
    """An item of a call's body. `name` may be left out in a PATCH."""

    id: Id
    name: Name | None = None
    suggested_score: Score | None = None
    data: dict[str, Any] | None = None


class IdInput(msgspec.Struct):
    """A record that is to be deleted."""

    id: Id


class VariationInput(msgspec.Struct, forbid_unknown_fields=True):
    """A variation of a call's body. `item_id` may be left out in a PATCH."""

    id: Id
    item_id: Id | None = None
    name: Name | None = None
    suggested_score: Score | None = None
    data: dict[str, Any] | None = None


class ItemGroupInput(msgspec.Struct, forbid_unknown_fields=True):
    """An item group of a call's body, with its children below it."""

    id: Id
    name: Name | None = None
    parent_id: Id | msgspec.UnsetType | None = msgspec.UNSET
    parent_ids: list[Id] | None = None  # at most one: a group has one place in the tree
    data: dict[str, Any] | None = None
    children: list[Any] | None = None


_DECODERS: Final[Mapping[Kind, msgspec.json.Decoder[Any]]] = {
    Kind.ITEMS: msgspec.json.Decoder(ItemInput),
    Kind.VARIATIONS: msgspec.json.Decoder(VariationInput),
    Kind.ITEM_GROUPS: msgspec.json.Decoder(ItemGroupInput),
}
_TYPES: Final[Mapping[Kind, type[Any]]] = {
    Kind.ITEMS: ItemInput,
    Kind.VARIATIONS: VariationInput,
    Kind.ITEM_GROUPS: ItemGroupInput,
}
_IDS: Final = msgspec.json.Decoder(IdInput)
_OBJECTS: Final = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode

# What PostgreSQL cannot keep (NUL), and half a character; only where the JSON has such an escape.
_ODD_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCRIPT = re.compile(r"\s*(?:javascript|vbscript)\s*:", re.IGNORECASE)
_AT = re.compile(r"^(?P<detail>.*?) - at `(?:key in )?\$(?P<path>[^`]*)`$", re.DOTALL)
_FIELD = re.compile(r"^Object (?P<how>missing required|contains unknown) field `(?P<name>.*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def parse_records(
    kind: Kind, raws: Sequence[bytes], *, partial: bool, start: int = 0
) -> list[Record]:
    """The records of a part of a call's list, `start` being the first one's place in the list.

    Args:
        partial: as PATCH gives them: only the id is required.

    Raises:
        InvalidInput: naming every wrong field (the first 100) as "/items/3/data/price".
    """
    records: list[Record] = []
    errors: list[FieldError] = []
    for number, raw in enumerate(raws, start):
        at = f"/{kind}/{number}"
        try:
            records.extend(parse_record(kind, raw, partial=partial, at=at))
        except InvalidInput as error:
            errors.extend(FieldError(at + wrong.field, wrong.message) for wrong in error.errors)
            if len(errors) >= MAX_ERRORS:
                break
    if errors:
        raise wrong_fields(errors)
    return records


def parse_record(kind: Kind, raw: bytes, *, partial: bool, at: str = "") -> list[Record]:
    """The record that a JSON object is; an item group comes with all that is below it.

    Args:
        at: where in the input the object is: put before each record's own `pointer`.

    Raises:
        InvalidInput: with pointers into the object.
    """
    try:
        given = _DECODERS[kind].decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidInput.field(*_located(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else "not valid JSON"
        raise InvalidInput.field("", f"is {why}") from None
    if _ODD_ESCAPE.search(raw):
        _refuse_odd_text(msgspec.json.decode(raw), "")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        _refuse_depth(given.data, "/data", MAX_DEPTH)
    return _records(kind, given, partial, at)


def record_from_fields(kind: Kind, fields: Mapping[str, Any], *, partial: bool) -> Record:
    """The record of a file's row, its values already of the wire's types.

    Raises:
        InvalidInput: with pointers as if the row were a JSON object.
    """
    try:
        given = msgspec.convert(fields, _TYPES[kind])
    except msgspec.ValidationError as error:
        raise InvalidInput.field(*_located(str(error))) from None
    try:
        odd = _ODD_ESCAPE.search(_encode(fields)) is not None
    except UnicodeEncodeError:
        odd = True
    if odd:
        _refuse_odd_text(fields, "")
    return _records(kind, given, partial, "")[0]


def parse_id(raw: bytes) -> str:
    """The id of a record that is to be deleted; its other fields do not count.

    Raises:
        InvalidInput: with pointers into the object.
    """
    try:
        return _IDS.decode(raw).id
    except msgspec.ValidationError as error:
        raise InvalidInput.field(*_located(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput.field("", "is not valid JSON") from None


def readable_id(raw: bytes) -> Any:
    """The id of a record that may be wrong otherwise; None where there is none."""
    try:
        return _OBJECTS.decode(raw).get("id")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def wrong_fields(errors: Sequence[FieldError], total: int | None = None) -> InvalidInput:
    """One error that names them (the first 100), and the first in words.

    Args:
        total: how many there are, where `errors` are only the first of them.
    """
    first = errors[0]
    message = f"{first.field}: {first.message}"
    more = (len(errors) if total is None else total) - 1
    if more:
        message += f" (and {more:,} more)"
    return InvalidInput(message, tuple(errors[:MAX_ERRORS]))


def refuse_repeated(records: Iterable[Record]) -> None:
    """A call may give each id once: which of two counts would be chance.

    Raises:
        InvalidInput
    """
    first: dict[str, Record] = {}
    for record in records:
        before = first.setdefault(record.id, record)
        if before is not record:
            raise InvalidInput.field(
                f"{record.pointer}/id", f"is the same as {before.pointer}/id: give each id once"
            )


def _records(kind: Kind, given: Any, partial: bool, at: str) -> list[Record]:
    errors: list[FieldError] = []
    _check_texts(given, errors)
    if kind is Kind.ITEM_GROUPS:
        records: list[Record] = []
        _flatten(given, None, at, "", partial, 1, records, errors)
    else:
        parent = given.item_id if kind is Kind.VARIATIONS else None
        if kind is Kind.ITEMS and given.name is None and not partial:
            errors.append(FieldError("/name", "is required"))
        if kind is Kind.VARIATIONS and parent is None and not partial:
            errors.append(FieldError("/item_id", "is required: the item that it is a form of"))
        data = given.data or {}
        _check_data(data, errors)
        records = [_record(given, data, parent, parent is not None, partial, errors, at)]
    if errors:
        raise wrong_fields(errors)
    return records


def _record(
    given: Any,
    data: dict[str, Any],
    parent: str | None,
    has_parent: bool,
    partial: bool,
    errors: list[FieldError],
    at: str,
    pointer: str = "",
) -> Record:
    removed = tuple(name for name, value in data.items() if value is None)
    if removed:
        data = {name: value for name, value in data.items() if value is not None}
    encoded = _encode(data)
    if len(encoded) > MAX_DATA_BYTES:
        errors.append(
            FieldError(
                f"{pointer}/data", f"has {len(encoded):,} bytes, more than {MAX_DATA_BYTES:,}"
            )
        )
    return Record(
        id=given.id,
        name=given.name,
        suggested_score=getattr(given, "suggested_score", None),
        parent=parent,
        has_parent=has_parent,
        data=encoded,
        removed=removed if partial else (),
        pointer=at + pointer,
    )


def _flatten(
    given: ItemGroupInput,
    above: str | None,
    at: str,
    pointer: str,
    partial: bool,
    depth: int,
    records: list[Record],
    errors: list[FieldError],
) -> None:
    if depth > MAX_DEPTH:
        raise TooLarge.field(pointer, f"is more than {MAX_DEPTH} levels deep")
    if len(records) >= MAX_GROUPS:
        raise TooLarge.field(pointer, f"more than {MAX_GROUPS:,} item groups in one call")
    parent, has_parent = _parent_of(given, above, pointer, errors)
    if given.name is None and not partial:
        errors.append(FieldError(f"{pointer}/name", "is required"))
    records.append(
        _record(given, given.data or {}, parent, has_parent, partial, errors, at, pointer)
    )
    for number, child in enumerate(given.children or ()):
        below = f"{pointer}/children/{number}"
        try:
            inner = msgspec.convert(child, ItemGroupInput)
        except msgspec.ValidationError as error:
            field, message = _located(str(error))
            errors.append(FieldError(below + field, message))
        else:
            _check_texts(inner, errors, below)
            _flatten(inner, given.id, at, below, partial, depth + 1, records, errors)


def _parent_of(
    given: ItemGroupInput, above: str | None, pointer: str, errors: list[FieldError]
) -> tuple[str | None, bool]:
    """The group's parent, and whether the input says anything of it."""
    stated: list[str | None] = [] if above is None else [above]
    if given.parent_id is not msgspec.UNSET:
        stated.append(given.parent_id)
    if given.parent_ids is not None:
        if len(given.parent_ids) > 1:
            errors.append(
                FieldError(f"{pointer}/parent_ids", "a group has one parent: leave only one")
            )
        stated.append(given.parent_ids[0] if given.parent_ids else None)
    if len(set(stated)) > 1:
        errors.append(FieldError(f"{pointer}/parent_id", "is not the group that it is below"))
    parent = stated[0] if stated else None
    if parent == given.id:
        errors.append(FieldError(f"{pointer}/parent_id", "a group cannot be its own parent"))
    return parent, bool(stated)


def _check_texts(given: Any, errors: list[FieldError], pointer: str = "") -> None:
    if _CONTROL.search(given.id) or given.id != given.id.strip():
        errors.append(
            FieldError(f"{pointer}/id", "has control characters, or spaces at an end: leave them")
        )
    if given.name is not None and not given.name.strip():
        errors.append(FieldError(f"{pointer}/name", "is blank"))


def _check_data(data: dict[str, Any], errors: list[FieldError]) -> None:
    """What Vitrine reads of an item's or a variation's data."""
    errors.extend(
        FieldError(f"/data/{name}", "must be a number of at least 0, such as 12.99")
        for name in ("price", "sale_price")
        if data.get(name) is not None and amount(data[name]) is None
    )
    errors.extend(
        FieldError(f"/data/{name}", "must be true or false")
        for name in ("active", "deactivated")
        if not isinstance(data.get(name), bool | None)
    )
    for name in ("url", "image_url"):
        value = data.get(name)
        if value is not None and not isinstance(value, str):
            errors.append(FieldError(f"/data/{name}", "must be a string"))
        elif value is not None and _SCRIPT.match(value):
            errors.append(FieldError(f"/data/{name}", "must be an address, not a script"))
    groups = data.get("group_ids")
    if groups is not None and not (
        isinstance(groups, list)
        and all(isinstance(group, str) and 0 < len(group) <= MAX_ID_LENGTH for group in groups)
    ):
        errors.append(FieldError("/data/group_ids", "must be a list of item groups' ids (strings)"))
    if data.get("facets") is not None and facets_of(data["facets"]) is None:
        errors.append(
            FieldError(
                "/data/facets",
                'must be {"colour": ["red"]} or [{"name": "colour", "values": ["red"]}], the'
                " values strings, numbers or booleans",
            )
        )


def _refuse_odd_text(value: Any, pointer: str) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise InvalidInput.field(pointer, "has the character U+0000: leave it out")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput.field(pointer, "has half of a surrogate pair: send whole characters")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            at = f"{pointer}/{_escaped(name)}"
            _refuse_odd_text(name, at)
            _refuse_odd_text(inner, at)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _refuse_odd_text(inner, f"{pointer}/{number}")


def _refuse_depth(value: Any, pointer: str, left: int) -> None:
    if left < 0:
        raise TooLarge.field(pointer, f"is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_depth(inner, f"{pointer}/{_escaped(name)}", left - 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _refuse_depth(inner, f"{pointer}/{number}", left - 1)


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def _located(message: str) -> tuple[str, str]:
    """JSON pointer and detail of one of msgspec's messages."""
    found = _AT.match(message)
    detail, path = (found["detail"], found["path"]) if found else (message, "")
    steps = [name or index for name, index in _STEP.findall(path)]
    if field := _FIELD.match(detail):
        steps.append(field["name"])
        detail = (
            "is required"
            if field["how"].startswith("missing")
            else "there is no such field: what is the shop's own goes into data"
        )
    else:
        detail = detail[:1].lower() + detail[1:]
    return "".join("/" + _escaped(step) for step in steps), detail
