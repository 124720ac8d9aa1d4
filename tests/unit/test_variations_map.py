"""Variations, mapped as a request wants them."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.errors import InvalidInput
from app.domain.variations_map import map_variations, parse_variations_map

VARIATIONS = [
    {"value": "a", "data": {"variation_id": "1", "size": "S", "price": 10, "deal": True}},
    {"value": "b", "data": {"variation_id": "2", "size": "M", "price": 12.0}},
    {
        "value": "c",
        "data": {
            "variation_id": "3",
            "size": "S",
            "price": 9,
            "facets": [{"name": "fit", "values": ["slim", "long"]}],
        },
    },
]


def mapped(**wanted: Any) -> Any:
    wanted.setdefault("values", {"ids": {"aggregation": "all", "field": "data.variation_id"}})
    wanted.setdefault("dtype", "array")
    return map_variations(VARIATIONS, parse_variations_map(wanted))


def test_without_groups_all_are_one() -> None:
    assert mapped() == [{"ids": ["1", "2", "3"]}]
    assert mapped(dtype="object") == {"ids": ["1", "2", "3"]}


def test_nested_groups() -> None:
    groups = [
        {"name": "size", "field": "data.size"},
        {"name": "deal", "field": "data.deal"},
    ]
    assert mapped(dtype="object", group_by=groups) == {
        "S": {"true": {"ids": ["1"]}, "null": {"ids": ["3"]}},
        "M": {"null": {"ids": ["2"]}},
    }
    assert mapped(group_by=groups)[0] == {"size": "S", "deal": True, "ids": ["1"]}


@pytest.mark.parametrize(
    ("filter_by", "ids"),
    [
        ({"field": "data.size", "value": "S"}, ["1", "3"]),
        ({"field": "data.price", "value": 12}, ["2"]),
        ({"field": "data.price", "range": ["-inf", 10]}, ["1", "3"]),
        ({"field": "data.price", "range": [10, "inf"]}, ["1", "2"]),
        ({"field": "data.facets.fit", "value": "long"}, ["3"]),
        ({"not": {"field": "data.deal", "value": True}}, ["2", "3"]),
        (
            {
                "and": [
                    {"field": "data.size", "value": "S"},
                    {
                        "or": [
                            {"field": "data.deal", "value": True},
                            {"field": "data.price", "value": 1},
                        ]
                    },
                ]
            },
            ["1"],
        ),
    ],
)
def test_filters(filter_by: Any, ids: list[str]) -> None:
    assert mapped(filter_by=filter_by) == [{"ids": ids}]


@pytest.mark.parametrize(
    ("aggregation", "field", "expected"),
    [
        ("first", "data.size", "S"),
        ("all", "data.size", ["S", "M"]),
        ("min", "data.price", 9),
        ("max", "data.price", 12),
        ("min", "data.size", None),
        ("count", "data.size", 3),
        ("field_count", "data.deal", 1),
        ("value_count", "data.size", 2),
        ("first", "data.none.such", None),
    ],
)
def test_aggregations(aggregation: str, field: str, expected: Any) -> None:
    value = {"aggregation": aggregation, "field": field, "value": "S"}
    assert mapped(values={"x": value}) == [{"x": expected}]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"values": {}, "dtype": "array"},
        {"values": {"a": {"aggregation": "count"}}, "dtype": "list"},
        {"values": {"a": {"aggregation": "first"}}, "dtype": "array"},
        {"values": {"a": {"aggregation": "value_count", "field": "x"}}, "dtype": "array"},
        {"values": {"a": {"aggregation": "count"}}, "dtype": "array", "filter_by": {}},
        {"values": {"a": {"aggregation": "count"}}, "dtype": "array",
         "filter_by": {"field": "a", "value": 1, "range": [1, 2]}},
        {"values": {"a": {"aggregation": "count"}}, "dtype": "array",
         "filter_by": {"field": "a", "and": []}},
        {"values": {"a": {"aggregation": "count"}}, "dtype": "array", "more": 1},
    ],
)  # fmt: skip
def test_a_wrong_map_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_variations_map(wrong)
    assert [error.field for error in caught.value.errors] == ["variations_map"]


def test_a_deep_filter_is_refused() -> None:
    test: Any = {"field": "a", "value": 1}
    for _ in range(8):
        test = {"not": test}
    with pytest.raises(InvalidInput, match="nested"):
        mapped(filter_by=test)
