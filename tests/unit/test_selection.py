"""Selection: what must hold of every list, whatever strategies offer and requests ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.catalogue import ItemFeatures, ItemId
from app.domain.expression import AnyOf, CompiledExpression
from app.domain.item_index import ItemIndex
from app.domain.rendered import RenderedItems
from app.domain.selection import Exclusions, LeftOut, Selection
from vitrine_sdk import Candidates, kernel

ITEMS = 24
RED = AnyOf("color", ("red",))


@pytest.fixture(scope="module", autouse=True, params=["kernel", "twin"])
def how_it_is_chosen(request: pytest.FixtureRequest) -> Iterator[None]:
    """By the compiled kernel, and without one."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "twin":
            patch.setattr(kernel, "compiled", None)
        elif kernel.compiled is None:
            pytest.skip("no kernel was built")
        yield


def index_of(available: list[bool], red: list[bool]) -> ItemIndex:
    index = ItemIndex(RenderedItems(1 << 16))
    items = [
        ItemFeatures(
            id=ItemId(str(n)),
            version=1,
            name="",
            available=available[n],
            attributes={"color": ("red" if red[n] else "blue",)},
        )
        for n in range(len(available))
    ]
    index.apply([index.prepare(items)], 1)
    return index


def offered(rows: list[int]) -> tuple[np.ndarray[Any, Any], Candidates]:
    array = np.array(rows, np.int32)
    scores = np.linspace(1, 0.5, len(rows), dtype=np.float32)
    return array, Candidates(array, scores, np.zeros(len(rows), np.uint8))


flags = st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS)
row_lists = st.lists(st.integers(-1, ITEMS - 1), max_size=ITEMS).map(
    lambda rows: list(dict.fromkeys(rows))
)


@settings(max_examples=150)
@given(
    available=flags,
    red=flags,
    chain=st.lists(row_lists, min_size=1, max_size=3),
    excluded=st.dictionaries(
        st.sampled_from([LeftOut.SEED, LeftOut.SEEN, LeftOut.BOUGHT]), row_lists, max_size=3
    ),
    filtered=st.booleans(),
    want=st.integers(1, 12),
)
def test_a_list_is_what_qualifies_in_the_chains_order(
    available: list[bool],
    red: list[bool],
    chain: list[list[int]],
    excluded: dict[LeftOut, list[int]],
    filtered: bool,
    want: int,
) -> None:
    index = index_of(available, red)
    exclusions = Exclusions()
    for reason, rows in excluded.items():
        exclusions.add(np.array(rows, np.int32), reason)
    selection = Selection(
        index,
        want,
        filters=CompiledExpression(RED, index) if filtered else None,
        exclusions=exclusions,
    )
    for source, rows in enumerate(chain):
        selection.offer(*offered(rows), source, want - selection.count)

    def qualifies(row: int) -> bool:
        return (
            row >= 0
            and available[row]
            and (red[row] or not filtered)
            and not any(row in rows for rows in excluded.values())
        )

    expected: list[tuple[int, int]] = []
    for source, rows in enumerate(chain):
        for row in rows:
            if len(expected) < want and qualifies(row) and row not in [e[0] for e in expected]:
                expected.append((row, source))
    pool = selection.result()
    assert list(zip(pool.rows.tolist(), pool.sources.tolist(), strict=True)) == expected
    assert selection.count == len(expected)
    assert not index.marks.any(), "the scratch column is left clean"
    assert set(selection.examined().tolist()) == {row for rows in chain for row in rows}
    admitted = selection.admits(np.arange(ITEMS, dtype=np.int32)).tolist()
    assert admitted == [qualifies(row) for row in range(ITEMS)]


@given(available=flags, red=flags, rows=row_lists, seeds=row_lists, seen=row_lists)
def test_every_candidate_is_kept_or_counted_once(
    available: list[bool], red: list[bool], rows: list[int], seeds: list[int], seen: list[int]
) -> None:
    index = index_of(available, red)
    exclusions = Exclusions()
    exclusions.add(np.array(seeds, np.int32), LeftOut.SEED)
    exclusions.add(np.array(seen, np.int32), LeftOut.SEEN)
    selection = Selection(
        index, ITEMS, filters=CompiledExpression(RED, index), exclusions=exclusions
    )
    taken = selection.offer(*offered(rows), 0, ITEMS)
    assert taken + sum(selection.left_out) == len(rows)
    left = [row for row in rows if row >= 0 and available[row] and red[row]]
    assert selection.left_out[LeftOut.SEED] == sum(row in seeds for row in left)
    assert selection.left_out[LeftOut.SEEN] == sum(row in seen and row not in seeds for row in left)


def test_what_is_withdrawn_counts_no_more() -> None:
    index = index_of([True] * 12, [n % 2 == 0 for n in range(12)])
    selection = Selection(index, 5, filters=CompiledExpression(RED, index))
    selection.offer(*offered([0, 1]), 0, 5)
    selection.offer(*offered([2, 3]), 1, 4)
    selection.withdraw(1)
    selection.offer(*offered([2, 3, 4, 5]), 1, 4)
    assert selection.result().rows.tolist() == [0, 2, 4]
    assert selection.left_out[LeftOut.FILTERED] == 3
    assert selection.examined().tolist() == [0, 1, 2, 3, 4, 5]


def test_more_is_asked_for_where_something_chooses() -> None:
    index = index_of([True] * 3, [True] * 3)
    exclusions = Exclusions()
    exclusions.add(np.array([1, 2], np.int32), LeftOut.SEEN)
    assert Selection(index, 10).limit(5) == 20
    assert Selection(index, 10, exclusions=exclusions).limit(5) == 22
    assert Selection(index, 10, filters=CompiledExpression(RED, index)).limit(5) == 50
