"""Expressions: what parses, what does not and how it says so, and that a mask over rows means what
the expression says of one item."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.catalogue import FacetValue, ItemFeatures, ItemId
from app.domain.errors import InvalidInput, TooLarge
from app.domain.expression import (
    And,
    AnyOf,
    Between,
    CompiledExpression,
    Expression,
    Expressions,
    Not,
    Or,
    conjunction,
    matches,
    parse_expression,
    parse_filters,
    to_document,
)
from app.domain.item_index import ItemIndex, value_text
from app.domain.rendered import RenderedItems

NAMES = ("color", "size", "weight")
Attributes = dict[str, tuple[FacetValue, ...]]


def index_of(*attributes: Attributes) -> ItemIndex:
    index = ItemIndex(RenderedItems(1 << 16))
    index.apply([index.prepare(items_of(attributes))], 1)
    return index


def items_of(attributes: tuple[Attributes, ...] | list[Attributes]) -> list[ItemFeatures]:
    items = []
    for i, of_item in enumerate(attributes):
        rest = dict(of_item)
        price = rest.pop("price", (None,))[0]
        items.append(
            ItemFeatures(
                id=ItemId(str(i)), version=1, name="", attributes=rest, price=price  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return items


def rows_of(expression: Expression, index: ItemIndex) -> list[int]:
    return np.flatnonzero(CompiledExpression(expression, index).mask_all()).tolist()


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"color": ("red",)}, [0, 2]),
        ({"color": ("red", "blue")}, [0, 1, 2]),
        ({"color": ("red",), "size": ("L",)}, [2]),
        ({"group_id": ("shoes",)}, [0, 1]),
        ({"group_id": ("boots",)}, [1]),
        ({"price": ("10-20",)}, [0, 1]),
        ({"price": ("-inf-10",)}, [0]),
        ({"price": ("10.5-inf",)}, [1, 2]),
        ({"price": ("10-10", "30-40")}, [0, 2]),
        ({"price": ("19.99",)}, [1]),
        ({"age": ("3-5",)}, [0]),  # the text that an item has, not a range
        ({"age": ("4-9",)}, [2]),
        ({"new": ("true",)}, [1]),
        ({"stock": ("-5--1",)}, [2]),
        ({"nothing_like_it": ("x",)}, []),
    ],
)
def test_filters(filters: dict[str, tuple[str, ...]], expected: list[int]) -> None:
    index = index_of(
        {"color": ("red",), "group_id": ("shoes",), "price": (10.0,), "age": ("3-5",)},
        {
            "color": ("blue", "green"),
            "group_id": ("boots", "shoes"),
            "price": (19.99,),
            "new": (True,),
        },
        {"color": ("red",), "size": ("L",), "price": (30.0,), "age": (4.0,), "stock": (-2.0,)},
    )
    assert rows_of(parse_filters(filters), index) == expected


def test_an_unknown_attribute_is_reported_until_an_item_has_it() -> None:
    index = index_of({"color": ("red",)})
    compiled = CompiledExpression(parse_filters({"size": ("L",), "price": ("1-2",)}), index)
    assert compiled.unknown() == ["size"]
    assert not compiled.mask_all().any()
    index.apply([index.prepare(items_of([{"size": ("L",), "price": (1.5,)}]))], 2)
    assert compiled.unknown() == []
    assert compiled.mask_all().tolist() == [True]


def test_a_new_value_is_seen_by_what_was_compiled_before() -> None:
    index = index_of({"color": ("red",)})
    compiled = CompiledExpression(AnyOf("color", ("blue", "red")), index)
    assert compiled.mask_all().tolist() == [True]
    extra = ItemFeatures(
        id=ItemId("new"), version=2, name="", attributes={"color": ("green", "blue")}
    )
    index.apply([index.prepare([extra])], 2)
    assert compiled.mask_all().tolist() == [True, True]


@pytest.mark.parametrize(
    ("document", "at"),
    [
        ([], ""),
        ({}, ""),
        ({"name": "a"}, ""),
        ({"name": "a", "value": "b", "range": [1, 2]}, ""),
        ({"and": []}, "/and"),
        ({"and": {}}, "/and"),
        ({"or": [{"name": "a", "value": "b"}, 3]}, "/or/1"),
        ({"not": []}, "/not"),
        ({"name": "", "value": "b"}, "/name"),
        ({"name": 3, "value": "b"}, "/name"),
        ({"name": "a", "value": None}, "/value"),
        ({"name": "a", "value": "x" * 1001}, "/value"),
        ({"name": "a", "value": 10**400}, "/value"),
        ({"name": "a", "range": [1]}, "/range"),
        ({"name": "a", "range": ["inf", 1]}, "/range/0"),
        ({"name": "a", "range": [1, "10"]}, "/range/1"),
        ({"name": "a", "range": [1, True]}, "/range/1"),
        ({"name": "a", "range": [1, 10**400]}, "/range/1"),
        ({"not": {"name": "a", "range": [2, 1]}}, "/not/range"),
        ({"and": [{"name": "a", "value": "b"}] * 201}, "/and"),
        (
            {"and": [{"or": [{"name": "a", "value": "b"}] * 150}] * 2},
            "/and/1/or/50",
        ),
    ],
)
def test_a_wrong_expression_names_its_place(document: Any, at: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_expression(document)
    assert [error.field for error in caught.value.errors] == ["pre_filter_expression" + at]


def test_a_deep_expression_is_refused() -> None:
    document: Any = {"name": "a", "value": "b"}
    for _ in range(9):
        document = {"not": document}
    assert rows_of(parse_expression(document), index_of({"a": ("b",)})) == []
    with pytest.raises(InvalidInput, match="nested more than 10 deep"):
        parse_expression({"not": document})


@pytest.mark.parametrize("filters", [{"": ("a",)}, {"a": ()}, {"a": ("",)}, {"a": ("20-10",)}])
def test_a_wrong_filter_names_itself(filters: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_filters(filters)
    assert [error.field for error in caught.value.errors] == [f"filters[{next(iter(filters))}]"]


def test_too_many_filters_are_too_large() -> None:
    with pytest.raises(TooLarge):
        parse_filters({"a": tuple(map(str, range(201)))})


def test_a_bounded_number_of_expressions_stays_compiled() -> None:
    expressions = Expressions(index_of({"a": ("0",)}), limit=3)
    first = expressions.compiled(AnyOf("a", ("0",)))
    for i in range(1, 6):
        expressions.compiled(AnyOf("a", (str(i),)))
        assert expressions.compiled(AnyOf("a", ("0",))) is first
    assert len(expressions) == 3


values = st.sampled_from(("a", "b", "10", "5", 5.0, -1.5, 7.25, True, False))
attribute_sets = st.dictionaries(
    st.sampled_from(NAMES), st.lists(values, min_size=1, max_size=3).map(tuple)
)
bounds = st.one_of(
    st.sampled_from((-math.inf, math.inf)), st.integers(-10, 12), st.floats(-10, 12)
).map(float)
terms = st.one_of(
    st.builds(
        AnyOf,
        st.sampled_from((*NAMES, "unknown")),
        st.lists(values.map(value_text), min_size=1, max_size=2).map(tuple),
    ),
    st.tuples(st.sampled_from((*NAMES, "unknown")), bounds, bounds)
    .filter(lambda t: t[1] <= t[2] and t[1] != math.inf and t[2] != -math.inf)
    .map(lambda t: Between(*t)),
)
expressions = st.recursive(
    terms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(tuple).map(And),
        st.lists(inner, min_size=1, max_size=3).map(tuple).map(Or),
        inner.map(Not),
    ),
    max_leaves=8,
)


@given(st.lists(attribute_sets, min_size=1, max_size=12), expressions)
def test_the_mask_says_of_each_row_what_the_expression_says_of_its_item(
    items: list[Attributes], expression: Expression
) -> None:
    index = index_of(*items)
    expected = [
        matches(
            expression,
            {name: tuple(map(value_text, values)) for name, values in attributes.items()},
        )
        for attributes in items
    ]
    compiled = CompiledExpression(expression, index)
    assert compiled.mask_all().tolist() == expected
    rows = np.arange(len(items), dtype=np.int32)[::-1]
    assert compiled.mask(rows).tolist() == expected[::-1]


@given(expressions)
def test_an_expression_written_out_means_the_same_when_it_is_read(expression: Expression) -> None:
    again = parse_expression(to_document(expression))
    assert to_document(again) == to_document(expression)
    assert conjunction([None, expression]) == expression
    assert conjunction([]) is None
