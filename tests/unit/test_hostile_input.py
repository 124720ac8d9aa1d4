"""Parsers of what strangers send: whatever comes, it is understood or refused by name. Nothing else
may be raised."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.catalogue import Kind
from app.domain.catalogue_input import parse_id, parse_record, parse_records
from app.domain.errors import Unauthenticated, VitrineError
from app.domain.expression import parse_expression
from app.domain.merchant import Credential
from app.domain.personal_data import scrub, scrub_text, scrub_url
from app.http import cursor
from app.http.caller import authenticate, decode_json
from app.http.native_events import NativeEvents
from app.http.storefront_query import PodQuery

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner,
                                                                max_size=4),
    max_leaves=20,
)  # fmt: skip
WORDS = st.sampled_from(
    ("key=", "filters[", "]=", "pre_filter_expression=", "%7B", "%", "%FF", "%00", "&", "=", "[",
     "fmt_options[fields]=", "num_results=", "-1", "9" * 400, "item_id=", "variations_map=", "{",
     '"and":', "}", "\ud800", "\x00", "ef-", "us=", "consent=")
)  # fmt: skip
EXPRESSIONS = st.recursive(
    JSON,
    lambda inner: (
        st.fixed_dictionaries({"and": st.lists(inner, max_size=3)})
        | st.fixed_dictionaries({"not": inner})
        | st.fixed_dictionaries({"name": JSON, "value": JSON})
        | st.fixed_dictionaries({"name": JSON, "range": st.lists(JSON, max_size=3)})
    ),
    max_leaves=8,
)
# The stability suite asks for more.
EXAMPLES = int(os.environ.get("VITRINE_TEST_EXAMPLES", "60"))
pieces = settings(max_examples=EXAMPLES, deadline=None, database=None)


class Nobody:
    def token(self, secret: str) -> Credential:
        raise Unauthenticated("unknown")


@pieces
@given(st.lists(WORDS | st.text(max_size=8), max_size=12).map("".join))
def test_a_query(text: str) -> None:
    with contextlib.suppress(VitrineError):
        query = PodQuery(text)
        query.request("pod")


@pieces
@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda b: b.decode("latin1")))
def test_an_authorization(text: str) -> None:
    for scheme in ("", "Basic ", "Bearer "):
        with pytest.raises(Unauthenticated):
            authenticate(scheme + text, Nobody())


@pieces
@given(st.text(max_size=80))
def test_a_cursor(text: str) -> None:
    for kind in (int, str):
        with contextlib.suppress(VitrineError):
            cursor.decode(text, kind)  # type: ignore[type-var]


@pieces
@given(st.binary(max_size=80) | st.sampled_from((b"[" * 100_000, b'{"a":' * 5_000, b'"\\ud800"')))
def test_a_body(body: bytes) -> None:
    for kind in (dict, NativeEvents, Any):
        with contextlib.suppress(VitrineError):
            decode_json(body, kind)  # type: ignore[arg-type]


@pieces
@given(EXPRESSIONS)
def test_an_expression(document: Any) -> None:
    with contextlib.suppress(VitrineError):
        parse_expression(document)


@pieces
@given(st.dictionaries(st.text(max_size=12), JSON, max_size=5), st.text(max_size=80))
def test_personal_data(payload: dict[str, Any], text: str) -> None:
    scrub(payload)
    scrub_text(text)
    scrub_url(text)


def _of_kind(parse: Callable[..., Any], body: bytes) -> None:
    for kind in Kind:
        for partial in (False, True):
            with contextlib.suppress(VitrineError):
                parse(kind, body, partial=partial)


@pieces
@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_a_catalogue_record(body: bytes) -> None:
    _of_kind(parse_record, body)
    with contextlib.suppress(VitrineError):
        parse_id(body)
    _of_kind(lambda kind, body, partial: parse_records(kind, [body], partial=partial), body)
