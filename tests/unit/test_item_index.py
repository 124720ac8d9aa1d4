"""The item index: rows, columns, changes that become visible at once, and the near-cache."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.catalogue import ItemFeatures, ItemId, Variation
from app.domain.item_index import ItemIndex, value_text
from app.domain.rendered import ENTRY_OVERHEAD, RenderedItems, render
from vitrine_sdk import kernel


def index_of(*items: ItemFeatures, max_bytes: int = 1 << 20) -> ItemIndex:
    index = ItemIndex(RenderedItems(max_bytes))
    index.apply([index.prepare(items)], 1)
    return index


def item(item_id: str, **fields: Any) -> ItemFeatures:
    attributes = fields.pop("attributes", {})
    return ItemFeatures(
        id=ItemId(item_id), version=1, name=item_id.upper(), attributes=attributes, **fields
    )


def test_rows_are_stable_and_unknown_ids_are_minus_one() -> None:
    index = index_of(item("a"), item("b"))
    assert index.rows(["b", "nope", "a"]).tolist() == [1, -1, 0]
    index.apply([index.prepare([item("c"), item("a")])], 2)
    assert index.rows(["a", "b", "c"]).tolist() == [0, 1, 2]
    assert [index.ids[row] for row in range(len(index))] == ["a", "b", "c"]


def test_nothing_of_a_change_is_visible_before_it_is_applied() -> None:
    index = index_of(item("a", price=1.0, attributes={"color": ("red",)}), item("gone"))
    change = index.prepare(
        [item("a", price=2.0, attributes={"color": ("blue",)}), item("b", price=3.0)],
        deleted=[ItemId("gone")],
    )
    assert index.price[0] == 1.0
    assert index.values(0, "color") == ("red",)
    assert index.available[: len(index)].tolist() == [True, True, False]
    assert json.loads((index.rendered.get(index.base) or b"") + b"}")["value"] == "A"

    assert index.apply([change], 7) == 3
    assert index.version == 7
    assert index.price[:3].tolist()[0] == 2.0
    assert index.values(0, "color") == ("blue",)
    assert index.available[: len(index)].tolist() == [True, False, True]
    assert index.item_count == 2
    assert index.rendered.get(index.base + 1) is None, "a deleted item is shown no more"


def test_an_attribute_that_an_item_lost_is_gone() -> None:
    index = index_of(item("a", attributes={"color": ("red",), "size": ("L", "M")}))
    index.apply([index.prepare([item("a", attributes={"size": ("M",)})])], 2)
    assert index.values(0, "color") == ()
    assert index.values(0, "size") == ("M",)


def test_a_deleted_item_that_comes_back_has_its_row_and_only_its_new_values() -> None:
    index = index_of(item("a", attributes={"color": ("red",)}))
    index.apply([index.prepare([], deleted=[ItemId("a")])], 2)
    assert not index.available[0]
    index.apply([index.prepare([item("a", attributes={"size": ("L",)})])], 3)
    assert index.available[0]
    assert (index.values(0, "color"), index.values(0, "size")) == ((), ("L",))


def test_values_of_every_type_are_found_by_their_text() -> None:
    index = index_of(
        item("a", attributes={"n": (5.0,), "flag": (True,), "mixed": (1.0, "one", True)}),
        item("b", attributes={"n": ("5",), "flag": (False,), "mixed": ("one",)}),
    )
    number = index.column("n")
    assert number is not None
    assert number.codes[:2].tolist() == [1, 1], "5.0 and '5' are one value"
    assert index.values(0, "flag") == ("true",)
    assert index.values(0, "mixed") == ("1", "one", "true")
    mixed = index.column("mixed")
    assert mixed is not None
    assert mixed.has_any(["one"])[mixed.codes[:2]].tolist() == [True, True]
    assert mixed.has_any(["1"])[mixed.codes[:2]].tolist() == [True, False]
    assert mixed.between(0, 2)[mixed.codes[:2]].tolist() == [True, False]
    assert [mixed.values[v] for v in mixed.firsts()[mixed.codes[:2]]] == ["1", "one"]


def test_unchanged_since_tells_only_of_the_rows_asked() -> None:
    index = index_of(item("a"), item("b"))
    before = index.revision
    index.apply([index.prepare([item("b")])], 2)
    assert index.unchanged_since(np.array([0], np.int32), before)
    assert not index.unchanged_since(np.array([0, 1], np.int32), before)
    assert index.unchanged_since(np.array([0, 1], np.int32), index.revision)


def test_unknown_rows_are_never_available_and_reserved_ones_not_yet() -> None:
    index = index_of(item("a"))
    reserved = index.reserve(["a", *(f"later-{i}" for i in range(700))])
    assert reserved.tolist() == list(range(701))
    assert index.available[index.rows(["a", "later-3", "never"])].tolist() == [True, False, False]
    assert index.item_count == 1
    index.apply([index.prepare([item("later-3")])], 2)
    assert index.available[index.rows(["later-3"])].tolist() == [True]
    full = index_of(*(item(str(i)) for i in range(255)))
    assert not full.available[-1]
    full.apply([full.prepare([item("one-more")])], 2)
    assert full.available[:256].all()
    assert not full.available[-1]


def test_a_column_with_too_many_values_closes_and_says_so(monkeypatch: Any) -> None:
    monkeypatch.setattr("app.domain.item_index.MAX_VALUES", 3)
    index = index_of(
        *(item(str(i), attributes={"sku": (f"s{i}",), "ok": ("x",)}) for i in range(9))
    )
    assert index.closed_columns() == ["sku"]
    assert index.values(0, "sku") == ()
    assert index.values(0, "ok") == ("x",)
    sku = index.column("sku")
    assert sku is not None
    assert not sku.codes.any(), "nor is one left of before it closed"
    index.apply([index.prepare([item("new", attributes={"sku": ("s0",)})])], 2)
    assert index.closed_columns() == ["sku"]


def test_the_rendered_item_is_what_the_wire_shows() -> None:
    features = item(
        "a",
        data={"url": "/a", "_cost": 3},
        variations=(Variation(id="a-1", item_id=ItemId("a"), name="A small", data={"size": "S"}),),
    )
    assert json.loads(render(features) + b"}") == {
        "value": "A",
        "data": {"id": "a", "variation_id": "a-1", "url": "/a"},
        "variations": [{"value": "A small", "data": {"variation_id": "a-1", "size": "S"}}],
    }


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 200), st.booleans()), min_size=1, max_size=300
    ),
    st.integers(400, 6_000),
)
def test_the_near_cache_never_exceeds_its_bound_and_never_lies(
    steps: list[tuple[int, int, bool]], bound: int
) -> None:
    cache, truth = RenderedItems(bound), {}
    largest = 0
    for key, size, put in steps:
        if put:
            truth[key] = bytes([key]) * size
            largest = max(largest, size + ENTRY_OVERHEAD)
            cache.put(key, truth[key])
        else:
            assert cache.get(key) in (None, truth.get(key))
        assert cache.held_bytes <= max(bound, 2 * largest)
    for key, found in zip(truth, cache.get_many(list(truth)), strict=True):
        assert found in (None, truth[key])
    for key in truth:
        cache.drop(key)
    assert (len(cache), cache.held_bytes) == (0, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "drop", "lay", "read"]),
            st.dictionaries(
                st.integers(0, 200), st.one_of(st.none(), st.binary(max_size=9)), max_size=90
            ),
        ),
        max_size=12,
    ),
    st.sampled_from([0, 5, 1_000]),
)
def test_what_is_laid_over_the_near_cache_counts_at_once(
    steps: list[tuple[str, dict[int, bytes | None]]], small: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.domain.rendered._SMALL", small)  # what is larger is a layer of its own
        lay_over(steps)


def lay_over(steps: list[tuple[str, dict[int, bytes | None]]]) -> None:
    cache, truth = RenderedItems(1 << 20), dict[int, bytes]()
    for step, change in steps:
        for key, value in change.items():
            if step == "put" and value is not None:
                cache.put(key, value)
            elif step == "drop":
                cache.drop(key)
            if step in ("put", "lay") and value is not None:
                truth[key] = value
            elif step in ("drop", "lay"):
                truth.pop(key, None)
        if step == "lay":
            cache.lay_over(dict(change))
        keys = list(range(0, 200, 7))
        assert cache.holds(keys) == [key in truth for key in keys]
        if step == "read":
            assert cache.get_many(keys) == [truth.get(key) for key in keys]
    while cache._layers:
        cache.get_many([1])
    assert len(cache) == len(truth)
    assert [cache.get(key) for key in truth] == list(truth.values())


def test_a_change_that_was_compared_before_is_the_same_change() -> None:
    before = [item(f"i{n}", price=1.0, attributes={"a": (n,), "b": (n % 3,)}) for n in range(9)]
    after = [
        item(
            f"i{n}",
            price=2.0,
            available=n != 3,
            attributes={"a": (n,), "b": ((n + 1 if n == 4 else n) % 3,), "c": (n,) * (n == 5)},
        )
        for n in range(11)
    ]
    found = []
    for ahead in (False, True):
        index = index_of(*before)
        change = index.prepare(after, [ItemId("i8")])
        if ahead:
            steps = sum(1 for _ in index.compare(change))
            assert steps == 3
            assert set(change.columns) == {"b", "c"}  # of `a` nothing differs
        index.apply([change], 2)
        shown = [{name: index.values(row, name) for name in "abc"} for row in range(len(index))]
        length = len(index)
        found.append([shown, index.price[:length], index.available[:length], index.moved[:length]])
    assert np.flatnonzero(found[0][3] == 2).tolist() == [3, 4, 5, 8, 9, 10]
    np.testing.assert_equal(found[0], found[1])


def test_a_large_catalogue_fills_the_near_cache_and_pushes_nothing_out() -> None:
    cache = RenderedItems(200_000)
    index = ItemIndex(cache)
    for start in range(0, 2000, 50):
        part = index.prepare([item(f"item-{n:04}") for n in range(start, start + 50)])
        index.apply([part], start + 1)
    assert cache.let_go == 0
    assert 0.8 * 200_000 < cache.held_bytes < 200_000
    assert cache.holds([index.base]) == [True]


@given(st.sets(st.integers(0, 8)), st.lists(st.integers(0, 9), max_size=6))
def test_what_rows_show_is_had_whole_or_not_at_all(held: set[int], asked: list[int]) -> None:
    base = 7 << 32
    rows = np.array(asked, np.int32)
    for compiled in {None, kernel.compiled}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "compiled", compiled)
            cache = RenderedItems(9 * (1 + ENTRY_OVERHEAD))
            for row in held:
                cache.put(base + row, b"%d" % row)
            shown = cache.shown(base, rows)
            assert shown == ([b"%d" % row for row in asked] if held.issuperset(asked) else None)
            for row in range(100, 100 + 9 - len(set(asked))):  # what was shown is let go last
                cache.put(base + row, b"x")
            if shown is not None:
                assert cache.shown(base, rows) == shown


def test_what_is_read_stays_in_the_near_cache() -> None:
    cache = RenderedItems(10 * (100 + ENTRY_OVERHEAD))
    for key in range(100):
        cache.put(key, b"x" * 100)
        assert cache.get(0) is not None, "the item that everyone asks for is not let go"
    assert cache.let_go > 0


@given(st.one_of(st.integers(-(10**9), 10**9).map(float), st.floats(allow_nan=False)))
def test_the_text_of_a_number_is_that_number(number: float) -> None:
    assert float(value_text(number)) == number
