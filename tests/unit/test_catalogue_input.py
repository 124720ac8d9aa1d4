"""Records from outside: what is taken, what is refused, and under which name."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.catalogue import MAX_DATA_BYTES, Kind, Record
from app.domain.catalogue_input import (
    parse_id,
    parse_record,
    parse_records,
    record_from_fields,
    refuse_repeated,
)
from app.domain.errors import InvalidInput


def wrong(kind: Kind, value: Any, *, partial: bool = False) -> list[tuple[str, str]]:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(InvalidInput) as caught:
        parse_record(kind, raw, partial=partial)
    return [(error.field, error.message) for error in caught.value.errors]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"name": "x"}, "/id"),
        ({"id": 7, "name": "x"}, "/id"),
        ({"id": "", "name": "x"}, "/id"),
        ({"id": "x" * 251, "name": "x"}, "/id"),
        ({"id": "a\nb", "name": "x"}, "/id"),
        ({"id": " a", "name": "x"}, "/id"),
        ({"id": "1"}, "/name"),
        ({"id": "1", "name": "  "}, "/name"),
        ({"id": "1", "name": "x", "prize": 3}, "/prize"),
        ({"id": "1", "name": "x", "suggested_score": -2}, "/suggested_score"),
        ({"id": "1", "name": "x", "data": []}, "/data"),
        ({"id": "1", "name": "x", "data": {"price": -1}}, "/data/price"),
        ({"id": "1", "name": "x", "data": {"price": "cheap"}}, "/data/price"),
        ({"id": "1", "name": "x", "data": {"sale_price": True}}, "/data/sale_price"),
        ({"id": "1", "name": "x", "data": {"active": "yes"}}, "/data/active"),
        ({"id": "1", "name": "x", "data": {"url": " JavaScript:alert(1)"}}, "/data/url"),
        ({"id": "1", "name": "x", "data": {"group_ids": "a"}}, "/data/group_ids"),
        ({"id": "1", "name": "x", "data": {"facets": {"a": {"b": 1}}}}, "/data/facets"),
        ({"id": "1", "name": "x", "data": {"facets": [{"values": ["a"]}]}}, "/data/facets"),
        ({"id": "1", "name": "x", "data": {"a/b~c": ["\x00"]}}, "/data/a~1b~0c/0"),
        ({"id": "1", "name": "x", "data": {"t": "x" * MAX_DATA_BYTES}}, "/data"),
        (b'{"id": "1", "name": "x", "data": {"a": "\\ud800 "}}', ""),
        (b'{"id": "1"', ""),
        (b'{"id": "\xff"}', ""),
        ([1], ""),
    ],
)
def test_a_wrong_item_is_refused_by_the_name_of_its_field(value: Any, field: str) -> None:
    errors = wrong(Kind.ITEMS, value)
    assert [pointer for pointer, _ in errors] == [field]
    assert all(message for _, message in errors)


def test_every_wrong_field_of_a_call_is_named() -> None:
    raws = [b'{"id": "1", "name": "x"}', b'{"name": "x"}', b'{"id": "3", "data": {"price": "x"}}']
    with pytest.raises(InvalidInput) as caught:
        parse_records(Kind.ITEMS, raws, partial=False, start=10)
    assert [error.field for error in caught.value.errors] == [
        "/items/11/id",
        "/items/12/name",
        "/items/12/data/price",
    ]


def test_nested_data_is_bounded() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    ((field, message),) = wrong(Kind.ITEMS, {"id": "1", "name": "x", "data": {"deep": deep}})
    assert field.startswith("/data/deep/0")
    assert "32 levels" in message
    ((field, message),) = wrong(Kind.ITEMS, b'{"id": "1", "data": {"a": ' + b"[" * 100_000)
    assert (field, message) == ("", "is nested too deep")


def test_a_whole_record_forgets_nulls_and_a_part_removes_them() -> None:
    raw = b'{"id": "1", "name": "x", "data": {"a": null, "b": 2}}'
    (whole,) = parse_record(Kind.ITEMS, raw, partial=False)
    assert (msgspec.json.decode(whole.data), whole.removed) == ({"b": 2}, ())
    (part,) = parse_record(Kind.ITEMS, raw, partial=True)
    assert (msgspec.json.decode(part.data), part.removed) == ({"b": 2}, ("a",))


def test_a_variation_says_its_item() -> None:
    assert wrong(Kind.VARIATIONS, {"id": "1"})[0][0] == "/item_id"
    (part,) = parse_record(Kind.VARIATIONS, b'{"id": "1"}', partial=True)
    assert part.has_parent is False


def test_children_of_a_group_become_groups_below_it() -> None:
    records = parse_record(
        Kind.ITEM_GROUPS,
        b'{"id": "a", "name": "A", "children": [{"id": "b", "name": "B",'
        b' "children": [{"id": "c", "name": "C"}]}]}',
        partial=False,
        at="/x",
    )
    assert [(record.id, record.parent, record.pointer) for record in records] == [
        ("a", None, "/x"),
        ("b", "a", "/x/children/0"),
        ("c", "b", "/x/children/0/children/0"),
    ]


def test_what_is_wrong_below_a_group_is_named() -> None:
    tree = {"id": "a", "name": "A", "children": [{"id": "b"}, {"id": 3, "name": "x"}]}
    assert [field for field, _ in wrong(Kind.ITEM_GROUPS, tree)] == [
        "/children/0/name",
        "/children/1/id",
    ]
    assert wrong(Kind.ITEM_GROUPS, {"id": "a", "name": "A", "parent_id": "a"})[0][0] == "/parent_id"
    two = {"id": "a", "name": "A", "parent_ids": ["b", "c"]}
    assert wrong(Kind.ITEM_GROUPS, two)[0][0] == "/parent_ids"


def test_an_id_may_come_once() -> None:
    records = [Record(id=name, pointer=f"/items/{n}") for n, name in enumerate("aba")]
    refuse_repeated(records[:2])
    with pytest.raises(InvalidInput, match="/items/2/id: is the same as /items/0/id"):
        refuse_repeated(records)


def test_a_deletion_needs_nothing_but_the_id() -> None:
    assert parse_id(b'{"id": "1", "name": null, "whatever": 3}') == "1"
    with pytest.raises(InvalidInput) as caught:
        parse_id(b"{}")
    assert caught.value.errors[0].field == "/id"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["id", "name", "item_id", "parent_id", "parent_ids", "children", "data", "suggested_score",
     "price", "facets", "group_ids", "active"]
)  # fmt: skip


@given(
    kind=st.sampled_from(Kind),
    value=st.dictionaries(FIELDS, JSON | st.dictionaries(FIELDS, JSON)) | JSON,
    partial=st.booleans(),
)
def test_no_json_does_worse_than_be_refused(kind: Kind, value: Any, partial: bool) -> None:
    raw = json.dumps(value).encode()
    for parse in (
        lambda: parse_record(kind, raw, partial=partial),
        lambda: [record_from_fields(kind, value, partial=partial)],
    ):
        try:
            records = parse()
        except InvalidInput:
            continue
        for record in records:
            assert b"\\u0000" not in record.data
            json.loads(record.data)


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_be_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_record(Kind.ITEMS, b"x" + raw, partial=False)
