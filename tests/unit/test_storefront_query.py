"""The query of a recommendation request: understood, or refused by name; nothing else."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.domain.errors import InvalidInput
from app.http.storefront_query import PodQuery

names = st.sampled_from(
    ["item_id", "num_results", "filters[color]", "filters%5Bprice%5D", "fmt_options[fields]",
     "pre_filter_expression", "variations_map", "us", "term", "section", "i", "s", "ui", "key",
     "ef-cell", "_dt", "c", "consent", "variation_id", "filters", "fmt_options%5", "x%y"]
)  # fmt: skip
values = st.one_of(
    st.text(max_size=20),
    st.text(max_size=20).map(lambda text: quote(text, errors="replace")),
    st.sampled_from(["1", "10-20", "%ff", "\udcff", "{}", "[", '{"name":"a","value":1}', "%00"]),
)
queries = st.lists(st.tuples(names, values).map("=".join), max_size=8).map("&".join)


@settings(max_examples=400)
@given(st.one_of(queries, st.text(max_size=60)))
@example("i=\udcff&item_id=%ff")
@example("item_id=\udcff")
@example("&&=&=x&%5B=1")
def test_any_query_is_understood_or_refused_by_name(raw: str) -> None:
    query = PodQuery(raw)
    refused: InvalidInput | None = None
    try:
        request = query.request("pod")
        assert query.key is None or isinstance(query.key, str)
    except InvalidInput as error:
        refused = error
    if refused is None:
        assert msgspec.json.encode(request)  # it can be echoed and stored
    else:
        assert refused.errors[0].field in refused.message
        assert refused.message.encode()  # and it can be said


@given(queries, st.lists(st.sampled_from(["i=x", "s=9", "ui=%C3%BC", "_dt=5", "c=2", "key=k"])))
def test_who_asks_and_when_is_no_part_of_what_a_list_depends_on(raw: str, more: list[str]) -> None:
    about = PodQuery(raw).dependence
    assert PodQuery("&".join([*more, raw])).dependence == about
    assert PodQuery("&".join([raw, *more])).dependence == about


@pytest.mark.parametrize(
    "part",
    ["item_id=b", "num_results=3", "section=x", "term=t", "us=vip", "variation_id=v", "ef-a=b",
     "filters[a]=b", "filters%5Ba%5D=b", "fmt_options[fields]=x", "fmt_options%5Bfields%5D=x",
     "pre_filter_expression={}", "variations_map={}", "item%5Fid=b"],
)  # fmt: skip
def test_what_a_list_depends_on(part: str) -> None:
    assert PodQuery(f"i=1&{part}").dependence != PodQuery("i=1").dependence


def test_values_are_decoded_and_arrays_kept_in_order() -> None:
    request = PodQuery(
        "key=k&i=c%201&s=7&ui=%C3%BC&us=a&us=b%2Bc&item_id=1+2&item_id=3&term=caf%C3%A9+au%20lait"
        "&filters%5Bco%26lor%5D=r%3Ded&filters%5Bco%26lor%5D=blue&ef-layout=b&consent=False"
    ).request("p")
    assert (request.shopper.client_id, request.shopper.user_id, request.shopper.session) == (
        "c 1",
        "ü",
        7,
    )
    assert request.segments == ("a", "b+c")
    assert request.item_ids == ("1 2", "3")
    assert request.term == "café au lait"
    assert request.filters == {"co&lor": ("r=ed", "blue")}
    assert request.cells == {"layout": "b"}
    assert request.consent is False
