"""Events coded by arrays are what a plain loop over the rows would make of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.plugins.packed_strings import pack_strings, unpack_strings
from app.postgres import training_data
from app.services.training_columns import SESSION_GAP

IDS = ["a", "b", "ü,", 'q"']
TEXTS = st.sampled_from(["x", "", 'a"b', "line\nbreak", "ü,;", "N", "null"])

rows_of = st.lists(
    st.tuples(
        st.sampled_from(["u:1", "u:2", "c:1", None]),
        st.sampled_from([*IDS, "gone", "", None]),
        st.integers(0, 7),
        st.integers(0, 4 * SESSION_GAP),
        st.sampled_from(["s1", "s2", "o1", None]),
        st.none() | TEXTS,
    ),
    max_size=40,
)


def quoted(value: str | None) -> str:
    """As COPY ... CSV writes a text: nothing for NULL."""
    if value is None:
        return ""
    plain = value and not set(value) & set(',"\n\r')
    return value if plain else '"' + value.replace('"', '""') + '"'


def code(rows: list[Any]) -> tuple[Any, int]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "events.csv"
        lines = [
            f"{quoted(who)},{quoted(item)},{kind},{time},1,0.5,{quoted(session)},{quoted(term)}\n"
            for who, item, kind, time, session, term in rows
        ]
        file.write_text("".join(lines), encoding="utf-8", newline="")
        return training_data._code(file, IDS)


def naive_sessions(rows: list[Any]) -> list[Any]:
    """A name for each row's session; rows are sorted by shopper and time."""
    names: list[Any] = []
    last: dict[str, tuple[int, int]] = {}
    for who, _, _, time, session, _ in rows:
        if session is not None:
            names.append(session)
            continue
        before, number = last.get(who, (None, 0))
        if before is not None and time - before > SESSION_GAP:
            number += 1
        last[who] = (time, number)
        names.append((who, number))
    return names


@given(rows_of)
@settings(max_examples=80, deadline=None)
def test_as_a_loop_would(rows: list[Any]) -> None:
    events, unknown = code(rows)
    known = [row for row in rows if row[0] is not None]
    shoppers = sorted({row[0] for row in known})
    assert events.shoppers == len(shoppers)
    assert unknown == sum(row[1] is not None and row[1] not in IDS for row in rows)
    assert list(events.terms) == sorted({row[5] for row in rows if row[5] is not None})

    position = {item: place for place, item in enumerate(IDS)}
    terms = {term: place for place, term in enumerate(events.terms)}
    wanted = sorted(
        (
            shoppers.index(who),
            time,
            kind,
            position.get(item, -1),
            -1 if term is None else terms[term],
        )
        for who, item, kind, time, _, term in known
    )
    columns = (events.shopper, events.time, events.type, events.item, events.term)
    assert sorted(zip(*(column.tolist() for column in columns), strict=True)) == wanted
    assert list(zip(events.shopper.tolist(), events.time.tolist(), strict=True)) == sorted(
        (row[0], row[1]) for row in wanted
    )


@given(rows_of, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_rows_does_not_matter(rows: list[Any], random: Any) -> None:
    other = list(rows)
    random.shuffle(other)
    (one, _), (two, _) = code(rows), code(other)
    for name in ("shopper", "item", "type", "time", "session", "term", "quantity", "revenue"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@given(rows_of)
@settings(max_examples=60, deadline=None)
def test_sessions_are_divided_as_a_loop_would(rows: list[Any]) -> None:
    # One row a shopper and time, so that the loop knows which row is which.
    distinct = {(row[0], row[3]): row for row in rows if row[0] is not None}
    ordered = [distinct[key] for key in sorted(distinct)]
    events, _ = code(ordered)
    names = naive_sessions(ordered)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    assert events.session.tolist() == [numbers[name] for name in names]


@given(st.lists(st.text()))
def test_strings_are_packed_and_unpacked(texts: list[str]) -> None:
    assert unpack_strings(*pack_strings(texts)) == texts
