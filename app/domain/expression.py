"""Expressions over items' attributes: parsed from a request's `filters` and
`pre_filter_expression`, and compiled to a mask over the rows of an item index.

The wire's forms::

    {"name": "color", "value": "red"}              {"and": [...]}   {"or": [...]}
    {"name": "price", "range": [10, "inf"]}        {"not": {...}}

`filters[color]=red&filters[color]=blue` means any of a name's values, all of the names. A value
such as `10-20`, `-inf-5` or `5-inf` is a range, unless the attribute has exactly that text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from app.domain.errors import InvalidInput, TooLarge
from app.domain.item_index import PRICE, Column, ItemIndex, Table, value_text
from vitrine_sdk import BoolArray, IntArray

MAX_DEPTH: Final = 10
MAX_TERMS: Final = 200
MAX_TEXT: Final = 1_000
"""Longest name or value, in characters."""
MAX_NUMBER: Final = 1e300

_RANGE = re.compile(r"(-inf|-?\d+(?:\.\d+)?)-(inf|\+inf|-?\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The attribute has at least one of the values (as `value_text` writes them)."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """The attribute has a value that is a number, low <= value <= high."""

    name: str
    low: float
    high: float
    text: str | None = None
    """As a filter wrote it; an attribute that has this very text among its values means that."""


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Expression


Expression = AnyOf | Between | And | Or | Not


def parse_filters(filters: Mapping[str, Sequence[str]], parameter: str = "filters") -> Expression:
    """The expression that a request's `filters` (at least one) mean.

    Raises:
        InvalidInput: naming the parameter, e.g. `filters[price]`.
    """
    if sum(map(len, filters.values())) > MAX_TERMS:
        raise TooLarge.field(parameter, f"at most {MAX_TERMS} values")
    parts = [_filter(name, values, f"{parameter}[{name}]") for name, values in filters.items()]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def parse_expression(document: Any, parameter: str = "pre_filter_expression") -> Expression:
    """The expression that a JSON document means.

    Raises:
        InvalidInput: with a pointer to the wrong part, e.g. `pre_filter_expression/and/1/range`.
    """
    return _Parser(parameter).parse(document, "", 1)


def conjunction(parts: Sequence[Expression | None]) -> Expression | None:
    """All of the parts that there are; None where there is none."""
    present = tuple(part for part in parts if part is not None)
    if len(present) < 2:
        return present[0] if present else None
    return And(present)


def to_document(expression: Expression) -> dict[str, Any]:
    """The expression in the wire's form; `parse_expression` reads it back."""
    match expression:
        case AnyOf(name, values):
            terms = [{"name": name, "value": value} for value in values]
            return terms[0] if len(terms) == 1 else {"or": terms}
        case Between(name, low, high):
            return {
                "name": name,
                "range": [
                    "-inf" if low == -math.inf else low,
                    "inf" if high == math.inf else high,
                ],
            }
        case And(parts):
            return {"and": [to_document(part) for part in parts]}
        case Or(parts):
            return {"or": [to_document(part) for part in parts]}
        case Not(part):
            return {"not": to_document(part)}


def names(expression: Expression) -> Iterator[str]:
    """Every attribute that the expression asks for, repeated ones too."""
    match expression:
        case AnyOf(name) | Between(name):
            yield name
        case And(parts) | Or(parts):
            for part in parts:
                yield from names(part)
        case Not(part):
            yield from names(part)


def matches(expression: Expression, attributes: Mapping[str, Sequence[str]]) -> bool:
    """Whether one thing's attributes satisfy the expression: for what has no row, such as a
    variation. `CompiledExpression` says the same of rows."""
    match expression:
        case AnyOf(name, values):
            return not set(values).isdisjoint(attributes.get(name, ()))
        case Between(name, low, high, text):
            values = tuple(attributes.get(name, ()))
            return text in values or any(low <= number <= high for number in _numbers(values))
        case And(parts):
            return all(matches(part, attributes) for part in parts)
        case Or(parts):
            return any(matches(part, attributes) for part in parts)
        case Not(part):
            return not matches(part, attributes)


class CompiledExpression:
    """An expression bound to an index. Follows the index as it changes."""

    def __init__(self, expression: Expression, index: ItemIndex) -> None:
        self.expression = expression
        self._index = index
        self._evaluate = _compile(expression, index)
        self._names = tuple(dict.fromkeys(names(expression)))
        self._all: BoolArray | None = None
        self._all_of = (-1, -1)

    def mask(self, rows: IntArray) -> BoolArray:
        """Which of the rows satisfy the expression. A row of -1 has an arbitrary answer."""
        return self._evaluate(rows)

    def mask_all(self) -> BoolArray:
        """The same of every row of the index; made once a revision. Write to no element of it."""
        index = self._index
        if self._all is None or self._all_of != (index.revision, len(index)):
            self._all = self._evaluate(slice(len(index)))
            self._all_of = (index.revision, len(index))
        return self._all

    def unknown(self) -> list[str]:
        """Attributes that no item has, or that have too many values to filter by."""
        columns = self._index.columns
        return [
            name
            for name in self._names
            if name != PRICE and ((column := columns.get(name)) is None or column.closed)
        ]


class Expressions:
    """The compiled expressions of one index: the latest `limit` of them."""

    def __init__(self, index: ItemIndex, limit: int = 256) -> None:
        self._index = index
        self._limit = limit
        self._compiled: dict[Expression, CompiledExpression] = {}

    def __len__(self) -> int:
        return len(self._compiled)

    def compiled(self, expression: Expression) -> CompiledExpression:
        found = self._compiled.pop(expression, None)
        if found is None:
            found = CompiledExpression(expression, self._index)
            if len(self._compiled) >= self._limit:
                del self._compiled[next(iter(self._compiled))]
        self._compiled[expression] = found  # the latest used is the last to be let go
        return found


Rows = IntArray | slice  # a slice of all rows costs no look-up of each


class _Term:
    """A leaf: a table of flags over a column's codes, made again when the column has new codes."""

    __slots__ = ("_column", "_index", "_table", "_term")

    def __init__(self, term: AnyOf | Between, index: ItemIndex) -> None:
        self._term = term
        self._index = index
        self._column: Column | None = None
        self._table: Table = np.zeros(0, np.bool_)

    def __call__(self, rows: Rows) -> BoolArray:
        column = self._index.columns.get(self._term.name)
        if column is None:
            return np.zeros(len(self._index.changed[rows]), np.bool_)
        if column is not self._column or len(self._table) != column.size:
            self._column, self._table = column, self._tabulate(column)
        return self._table[column.codes[rows]]

    def _tabulate(self, column: Column) -> Table:
        term = self._term
        if isinstance(term, AnyOf):
            return column.has_any(term.values)
        if term.text is not None and (exact := column.has_any((term.text,))).any():
            return exact
        return column.between(term.low, term.high)


class _PriceTerm:
    """A leaf over the column of prices."""

    __slots__ = ("_index", "_ranges")

    def __init__(self, term: AnyOf | Between, index: ItemIndex) -> None:
        self._index = index
        # Prices are float32: bounds are rounded likewise, so that 19.99 is at most 19.99.
        self._ranges = [
            (np.float32(low), np.float32(high))
            for low, high in (
                [(term.low, term.high)]
                if isinstance(term, Between)
                else [(number, number) for number in _numbers(term.values)]
            )
        ]

    def __call__(self, rows: Rows) -> BoolArray:
        price = self._index.price[rows]
        mask = np.zeros(len(price), np.bool_)
        for low, high in self._ranges:
            mask |= (price >= low) & (price <= high)
        return mask


class _All:
    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Evaluator]) -> None:
        self._parts = parts

    def __call__(self, rows: Rows) -> BoolArray:
        mask = self._parts[0](rows)
        for part in self._parts[1:]:
            mask &= part(rows)
        return mask


class _Any:
    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Evaluator]) -> None:
        self._parts = parts

    def __call__(self, rows: Rows) -> BoolArray:
        mask = self._parts[0](rows)
        for part in self._parts[1:]:
            mask |= part(rows)
        return mask


class _Inverse:
    __slots__ = ("_part",)

    def __init__(self, part: Evaluator) -> None:
        self._part = part

    def __call__(self, rows: Rows) -> BoolArray:
        return ~self._part(rows)


Evaluator = _Term | _PriceTerm | _All | _Any | _Inverse


def _compile(expression: Expression, index: ItemIndex) -> Evaluator:
    match expression:
        case AnyOf(name) | Between(name):
            return (_PriceTerm if name == PRICE else _Term)(expression, index)
        case And(parts):
            return _All([_compile(part, index) for part in parts])
        case Or(parts):
            return _Any([_compile(part, index) for part in parts])
        case Not(part):
            return _Inverse(_compile(part, index))


def _filter(name: str, values: Sequence[str], parameter: str) -> Expression:
    if not name:
        raise InvalidInput.field(parameter, "an attribute's name is needed: filters[color]=red")
    if not values:
        raise InvalidInput.field(parameter, "at least one value is needed")
    texts = []
    ranges = []
    for value in values:
        if not value:
            raise InvalidInput.field(parameter, "a value must not be empty")
        if len(value) > MAX_TEXT:
            raise TooLarge.field(parameter, f"at most {MAX_TEXT} characters a value")
        found = _RANGE.fullmatch(value)
        if found is None:
            texts.append(value)
        else:
            low, high = float(found[1]), float(found[2])
            if low > high:
                raise InvalidInput.field(
                    parameter, f"the range {value} ends before it begins; write low-high"
                )
            ranges.append(Between(name, low, high, value))
    parts: list[Expression] = [AnyOf(name, tuple(texts))] if texts else []
    parts.extend(ranges)
    return parts[0] if len(parts) == 1 else Or(tuple(parts))


def _numbers(values: Sequence[str]) -> list[float]:
    numbers = []
    for value in values:
        try:
            numbers.append(float(value))
        except ValueError:
            continue
    return numbers


def _bounded(value: str | float) -> bool:
    return len(value) <= MAX_TEXT if isinstance(value, str) else abs(value) < MAX_NUMBER


class _Parser:
    def __init__(self, parameter: str) -> None:
        self._parameter = parameter
        self._terms = 0

    def parse(self, node: Any, at: str, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise self._wrong(at, f"nested more than {MAX_DEPTH} deep")
        if not isinstance(node, dict):
            raise self._wrong(at, "must be an object")
        keys = set(node)
        if keys == {"name", "value"} or keys == {"name", "range"}:
            return self._term(node, at)
        if keys == {"not"}:
            return Not(self.parse(node["not"], f"{at}/not", depth + 1))
        if len(keys) == 1 and keys <= {"and", "or"}:
            (kind,) = keys
            return self._group(kind, node[kind], f"{at}/{kind}", depth)
        raise self._wrong(
            at, 'must be {"and": [...]}, {"or": [...]}, {"not": ...}, {"name", "value"} or '
            '{"name", "range"}'
        )  # fmt: skip

    def _group(self, kind: str, parts: Any, at: str, depth: int) -> Expression:
        if not isinstance(parts, list) or not parts:
            raise self._wrong(at, "must be a list of at least one expression")
        if len(parts) > MAX_TERMS:
            raise self._wrong(at, f"at most {MAX_TERMS} parts")
        parsed = tuple(self.parse(part, f"{at}/{i}", depth + 1) for i, part in enumerate(parts))
        return And(parsed) if kind == "and" else Or(parsed)

    def _term(self, node: dict[str, Any], at: str) -> Expression:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._wrong(at, f"more than {MAX_TERMS} terms in all")
        name = node["name"]
        if not isinstance(name, str) or not 0 < len(name) <= MAX_TEXT:
            raise self._wrong(f"{at}/name", "must be an attribute's name")
        if "value" in node:
            value = node["value"]
            if not isinstance(value, str | int | float | bool) or not _bounded(value):
                raise self._wrong(f"{at}/value", "must be a text, a number, true or false")
            return AnyOf(name, (value_text(value),))
        bounds = node["range"]
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise self._wrong(f"{at}/range", "must be [low, high]")
        low = self._bound(bounds[0], "-inf", f"{at}/range/0")
        high = self._bound(bounds[1], "inf", f"{at}/range/1")
        if low > high:
            raise self._wrong(f"{at}/range", "ends before it begins; write [low, high]")
        return Between(name, low, high)

    def _bound(self, bound: Any, infinity: str, at: str) -> float:
        if bound in (infinity, f"+{infinity}"):
            return float(infinity)
        if (
            isinstance(bound, int | float)
            and not isinstance(bound, bool)
            and abs(bound) < MAX_NUMBER
        ):
            return float(bound)
        raise self._wrong(at, f'must be a number or "{infinity}"')

    def _wrong(self, at: str, message: str) -> InvalidInput:
        return InvalidInput.field(self._parameter + at, message)
