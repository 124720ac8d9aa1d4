"""`variations_map`: an item's variations, grouped and summed up as a request wants them.

The wire's form (Constructor's clients, `VariationsMap`)::

    {"group_by": [{"name": "color", "field": "data.color"}],
     "filter_by": {"field": "data.size", "value": "L"},
     "values": {"sizes": {"aggregation": "all", "field": "data.size"}},
     "dtype": "object"}

`dtype` "object" nests the groups by their values ({"red": {"sizes": [...]}}), "array" lists them
([{"color": "red", "sizes": [...]}]). Without `group_by` all variations are one group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from app.domain.errors import InvalidInput

MAX_DEPTH: Final = 8

Aggregation = Literal["first", "min", "max", "all", "count", "field_count", "value_count"]
Field = Annotated[str, msgspec.Meta(min_length=1, max_length=250)]
Scalar = str | float | bool


class GroupBy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Field
    field: Field


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    aggregation: Aggregation
    field: Field | None = None  # all but `count` need it
    value: Scalar | None = None  # of `value_count`


class FilterBy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of: field and value, field and range, and, or, not."""

    field: Field | None = None
    value: Scalar | None = None
    range: tuple[float | Literal["-inf"], float | Literal["inf", "+inf"]] | None = None
    all_of: Annotated[tuple[FilterBy, ...], msgspec.Meta(max_length=50)] | None = msgspec.field(
        default=None, name="and"
    )
    any_of: Annotated[tuple[FilterBy, ...], msgspec.Meta(max_length=50)] | None = msgspec.field(
        default=None, name="or"
    )
    none_of: FilterBy | None = msgspec.field(default=None, name="not")


class VariationsMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    values: Annotated[dict[Field, Value], msgspec.Meta(min_length=1, max_length=50)]
    dtype: Literal["array", "object"]
    group_by: Annotated[tuple[GroupBy, ...], msgspec.Meta(max_length=5)] = ()
    filter_by: FilterBy | None = None


def parse_variations_map(document: Any) -> VariationsMap:
    """
    Raises:
        InvalidInput: naming the parameter and what is wrong with it.
    """
    try:
        parsed = msgspec.convert(document, VariationsMap)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _wrong(str(error)) from None
    for name, value in parsed.values.items():
        if value.aggregation != "count" and value.field is None:
            raise _wrong(f"values[{name}] needs a `field`")
        if value.aggregation == "value_count" and value.value is None:
            raise _wrong(f"values[{name}] counts a value and needs `value`")
    if parsed.filter_by is not None:
        _check(parsed.filter_by, 1)
    return parsed


def map_variations(variations: Sequence[Mapping[str, Any]], wanted: VariationsMap) -> Any:
    """The map of an item's variations, each as the wire shows it ({"value", "data": {...}})."""
    if wanted.filter_by is not None:
        variations = [v for v in variations if _holds(wanted.filter_by, v)]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for variation in variations:
        keys = tuple(_first(variation, group.field) for group in wanted.group_by)
        groups.setdefault(keys, []).append(variation)
    if not wanted.group_by:
        groups = {(): list(variations)}
    if wanted.dtype == "array":
        return [
            {
                **{group.name: key for group, key in zip(wanted.group_by, keys, strict=True)},
                **_values(members, wanted.values),
            }
            for keys, members in groups.items()
        ]
    mapped: dict[str, Any] = {}
    for keys, members in groups.items():
        level = mapped
        for key in keys:
            level = level.setdefault(_text(key), {})
        level.update(_values(members, wanted.values))
    return mapped


def _values(members: Sequence[Mapping[str, Any]], values: Mapping[str, Value]) -> dict[str, Any]:
    return {name: _AGGREGATE[value.aggregation](members, value) for name, value in values.items()}


def _found(members: Iterable[Mapping[str, Any]], field: str | None) -> list[Any]:
    return [value for member in members for value in _lookup(member, field)]


def _distinct(members: Sequence[Mapping[str, Any]], value: Value) -> list[Any]:
    found = {msgspec.json.encode(one): one for one in _found(members, value.field)}
    return list(found.values())


def _least(members: Sequence[Mapping[str, Any]], value: Value) -> Any:
    return min(_numbers(members, value), default=None)


def _most(members: Sequence[Mapping[str, Any]], value: Value) -> Any:
    return max(_numbers(members, value), default=None)


def _numbers(members: Sequence[Mapping[str, Any]], value: Value) -> list[float]:
    return [
        one
        for one in _found(members, value.field)
        if isinstance(one, int | float) and not isinstance(one, bool)
    ]


_AGGREGATE: Final[Mapping[str, Callable[[Sequence[Mapping[str, Any]], Value], Any]]] = {
    "first": lambda members, value: next(iter(_found(members, value.field)), None),
    "min": _least,
    "max": _most,
    "all": _distinct,
    "count": lambda members, value: len(members),  # noqa: ARG005
    "field_count": lambda members, value: sum(
        1 for member in members if _lookup(member, value.field)
    ),
    "value_count": lambda members, value: sum(
        1 for member in members if _same(value.value, _lookup(member, value.field))
    ),
}


def _lookup(variation: Mapping[str, Any], field: str | None) -> list[Any]:
    """Values at a path such as "data.price" or "data.facets.color"; a list counts as its values."""
    at: Any = variation
    for step in (field or "").split("."):
        if isinstance(at, Mapping):
            at = at.get(step)
        elif isinstance(at, list):  # facets: [{"name", "values"}]
            at = next(
                (one.get("values") for one in at if isinstance(one, Mapping) and
                 one.get("name") == step), None,
            )  # fmt: skip
        else:
            return []
    if at is None:
        return []
    return at if isinstance(at, list) else [at]


def _first(variation: Mapping[str, Any], field: str) -> Any:
    value = next(iter(_lookup(variation, field)), None)
    return value if isinstance(value, str | int | float | bool | None) else _text(value)


def _holds(test: FilterBy, variation: Mapping[str, Any]) -> bool:
    if test.all_of is not None:
        return all(_holds(part, variation) for part in test.all_of)
    if test.any_of is not None:
        return any(_holds(part, variation) for part in test.any_of)
    if test.none_of is not None:
        return not _holds(test.none_of, variation)
    found = _lookup(variation, test.field)
    if test.range is None:
        return _same(test.value, found)
    low, high = map(float, test.range)
    return any(
        low <= one <= high
        for one in found
        if isinstance(one, int | float) and not isinstance(one, bool)
    )


def _same(value: Scalar | None, found: Sequence[Any]) -> bool:
    wanted = _text(value)
    return any(_text(one) == wanted for one in found)


def _text(value: Any) -> str:
    """5.0 and 5 are one value, and so are true and "true"."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return msgspec.json.encode(value).decode()


def _check(test: FilterBy, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _wrong(f"filter_by is nested more than {MAX_DEPTH} deep")
    kinds = [
        test.field is not None and (test.value is None) != (test.range is None),
        test.all_of is not None,
        test.any_of is not None,
        test.none_of is not None,
    ]
    if sum(kinds) != 1 or (test.field is not None and not kinds[0]):
        raise _wrong("filter_by must be one of: field and value, field and range, and, or, not")
    for part in (*(test.all_of or ()), *(test.any_of or ())):
        _check(part, depth + 1)
    if test.none_of is not None:
        _check(test.none_of, depth + 1)


def _wrong(message: str) -> InvalidInput:
    return InvalidInput.field("variations_map", message)
