"""A shopper's history from Redis' entries to a model's: the kernel and its twins say the same."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.catalogue import ItemId
from app.domain.event import HistoryEntry
from app.domain.item_index import ItemIndex
from app.domain.past import Past
from app.domain.rendered import RenderedItems
from app.domain.row_lookup import DictLookup, row_lookup
from app.redis.history_reader import past
from app.services.chain import _history as seen
from app.services.shopper_history import NOTHING, Recent, known
from vitrine_sdk import EventType, Needs, kernel

ids = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
) | st.integers(0, 10**9).map(str)
times = (
    st.floats(0, 4e9)
    | st.integers(0, 4 * 10**9).map(float)
    | st.integers(0, 4 * 10**12).map(lambda milliseconds: milliseconds / 1000)
)
entries = st.builds(
    HistoryEntry,
    ids.map(ItemId),
    st.sampled_from(EventType),
    times,
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
needs_kernel = pytest.mark.skipif(kernel.history is None, reason="no kernel was built")


@pytest.fixture
def without_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "history", None)
        yield


def columns(one: Past) -> tuple[object, ...]:
    arrays = one.ends, one.types, one.times
    return one.ids, *(array.tolist() for array in arrays), *(array.dtype for array in arrays)


@needs_kernel
@settings(max_examples=300)
@given(
    lists=st.lists(st.lists(entries, min_size=1, max_size=30), max_size=2), limit=st.integers(1, 40)
)
def test_entries_are_read_alike(lists: list[list[HistoryEntry]], limit: int) -> None:
    written = [[msgspec.json.encode(entry) for entry in one] for one in lists]
    found = past(written, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "history", None)
        assert columns(found) == columns(past(written, limit))
    assert len(found) == min(limit, sum(map(len, lists)))


@needs_kernel
@pytest.mark.parametrize(
    "entry",
    [
        b'["a\\"b",1,5.0,null]',
        b'["a",1,1e9,null]',
        b'["a",1,-5.0,null]',
        b'["a", 1,5.0,null]',
        b'["a",1,5.0]',
        b'["a",1,5.0,null,7]',
    ],
)
def test_what_is_written_in_another_way_is_decoded(entry: bytes) -> None:
    compiled = kernel.history
    assert compiled is not None
    usual = b'["b",2,1700000000.25,"r\\"1"]'
    assert compiled.columns([[usual]], 5)[0] == b"b"
    assert compiled.columns([[usual, entry]], 5) is None
    assert past([[usual, entry]], 5).types.tolist() == [2, 1]


@needs_kernel
@pytest.mark.parametrize(
    "broken", [b"[", b'["a"]', b'["a",1,', b'["a",9,5.0,null]', b'["a",1,5.0,nul']
)
def test_what_is_broken_is_an_error_and_no_more(broken: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        past([[broken]], 5)


@needs_kernel
@given(known_=st.lists(ids, unique=True, max_size=600), others=st.lists(ids, max_size=20))
def test_rows_are_found_alike(known_: list[str], others: list[str]) -> None:
    one: list[str] = []
    other: list[str] = []
    lookup, twin = row_lookup(one), DictLookup(other)
    assert not isinstance(lookup, DictLookup)
    for id_ in [*known_, *known_[:3]]:
        assert lookup.add(id_) == twin.add(id_)
    assert one == other == known_
    asked = [*known_, *others]
    expected = [known_.index(id_) if id_ in known_ else -1 for id_ in asked]
    packed = Past.of([HistoryEntry(ItemId(id_), EventType.VIEW, 0.0) for id_ in asked])
    for each in (lookup, twin):
        assert each.rows(asked).tolist() == [each.row(id_) for id_ in asked] == expected
        assert each.packed(packed.ids, packed.ends).tolist() == expected
        for ends in ([-1], [2, 1], [len(packed.ids) + 1]):
            with pytest.raises(IndexError):
                each.packed(packed.ids, np.array(ends, np.int32))


@needs_kernel
def test_ids_that_are_no_text_are_unknown() -> None:
    lookup = row_lookup([])
    lookup.add("é")
    assert lookup.row("\udce9") == -1
    with pytest.raises(UnicodeEncodeError):
        lookup.add("\udce9")
    assert lookup.packed(b"\xe9", np.array([1], np.int32)).tolist() == [-1]
    with pytest.raises(ValueError, match="before there is a table"):
        row_lookup(["a"])


@needs_kernel
def test_ids_of_the_same_hash_are_two() -> None:
    """The kernel's own hash, eight bytes at a time: a search for such ids takes no time."""

    def mixed(value: int) -> int:
        for _ in range(2):
            value = (value ^ value >> 32) * 0xD6E8FEB86659FD93 % 2**64
        return value ^ value >> 32

    def halfway(half: bytes) -> int:
        return mixed(16 * 0x9E3779B97F4A7C15 % 2**64 ^ int.from_bytes(half, "little"))

    first = b"aaaaaaaa"
    for n in range(100_000):
        second = f"{n:08}".encode()
        other = (halfway(first) ^ halfway(second)).to_bytes(8, "little")
        if other.isascii():
            break
    alike = [(first + bytes(8)).decode(), (second + other).decode()]
    lookup = row_lookup([])
    packed = Past.of([HistoryEntry(ItemId(id_), EventType.VIEW, 0.0) for id_ in alike])
    lookup.add(alike[0])
    assert lookup.packed(packed.ids, packed.ends).tolist() == [0, 0], "else they are not alike"
    assert lookup.rows(alike).tolist() == [0, -1]
    lookup.add(alike[1])
    assert lookup.rows(alike).tolist() == [0, 1]
    assert lookup.packed(packed.ids, packed.ends).tolist() == [0, 1]


@needs_kernel
def test_a_lookup_grows_without_losing_a_row() -> None:
    found: list[str] = []
    lookup = row_lookup(found)
    assert [lookup.add(f"item-{n}") for n in range(20_000)] == list(range(20_000))
    assert lookup.rows([f"item-{n}" for n in range(20_001)]).tolist() == [*range(20_000), -1]
    assert len(found) == 20_000


@needs_kernel
@pytest.mark.parametrize("seed", range(20))
def test_a_model_sees_alike_what_it_knows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(seed)
    count, now = int(dice.integers(1, 60)), 1_000
    model: Any = SimpleNamespace(
        needs=Needs(history=int(dice.integers(1, 40))),
        # The last row is "unknown", and so are those that came after the model.
        positions=np.append(dice.integers(-1, 30, 50), -1).astype(np.int32),
    )
    recent = Recent(
        dice.integers(0, 70, count).astype(np.int32),
        dice.integers(0, 8, count).astype(np.int8),
        np.sort(dice.integers(0, 1_100, count))[::-1].astype(np.int64),  # some are of tomorrow
    )
    found = seen(model, recent, now)
    monkeypatch.setattr(kernel, "history", None)
    twin = seen(model, recent, now)
    for name in ("items", "types", "ages"):
        one, other = getattr(found, name), getattr(twin, name)
        assert (one.tolist(), one.dtype) == (other.tolist(), other.dtype)
        assert not one.flags.writeable
    assert len(found) <= model.needs.history
    assert (found.items >= 0).all()
    assert (found.ages >= 0).all()


@pytest.mark.usefixtures("without_kernel")
def test_a_catalogue_without_a_kernel_finds_its_rows_too() -> None:
    check_index()


def test_a_catalogue_finds_the_items_of_a_history() -> None:
    check_index()


def check_index() -> None:
    index = ItemIndex(RenderedItems(1 << 20))
    index.reserve([f"i{n}" for n in range(1_000)])
    events = [
        HistoryEntry(ItemId(id_), EventType.VIEW, 100.5 - place)
        for place, id_ in enumerate(("i7", "gone", "i999"))
    ]
    recent = known(Past.of(events), index)
    assert recent.rows.tolist() == [7, 999]
    assert recent.times.tolist() == [100, 98]
    assert not recent.times.flags.writeable
    assert known(Past.of(events[1:2]), index) is NOTHING
    assert known(Past.of(()), index) is NOTHING
    assert len(known(Past.of(events).latest(1), index)) == 1
    assert Past.of(events).latest(9).ids == b"i7gonei999"
