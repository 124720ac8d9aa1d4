"""What serving reads of an item."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.catalogue import Item, ItemId, Variation
from app.domain.errors import InvalidInput
from app.domain.item_features import GroupTree, amount, features


def item(**data: Any) -> Item:
    return Item(id=ItemId("1"), name="One", data=data)


def variation(name: str, **data: Any) -> Variation:
    return Variation(id=name, item_id=ItemId("1"), data=data)


@pytest.mark.parametrize(
    ("data", "available"),
    [
        ({}, True),
        ({"active": False}, False),
        ({"active": True}, True),
        ({"deactivated": True}, False),
        ({"availability": "in stock"}, True),
        ({"availability": "Out of Stock"}, False),
        ({"availability": "https://schema.org/OutOfStock"}, False),
        ({"availability": "https://schema.org/PreOrder"}, True),
        ({"availability": "sold_out"}, False),
        ({"availability": False}, False),
        ({"availability": ["store 7"]}, True),
        ({"active": True, "availability": "discontinued"}, False),
    ],
)
def test_availability(data: dict[str, Any], available: bool) -> None:
    assert features(item(**data)).available is available


def test_an_item_is_available_as_long_as_one_variation_is() -> None:
    gone, there = variation("a", active=False), variation("b")
    assert features(item(), [gone, there]).available is True
    assert features(item(), [gone]).available is False
    assert features(item(active=False), [there]).available is False


def test_price() -> None:
    assert features(item(price=5, sale_price=4.5)).price == 4.5
    assert features(item(price="£12.50")).attributes["price"] == (12.5,)
    assert features(item()).price is None
    variations = [variation("a", price=3, active=False), variation("b", price=9)]
    assert features(item(), variations).price == 9.0
    assert features(item(price=1), variations).price == 1.0


@pytest.mark.parametrize(
    ("given", "number"),
    [(0, 0.0), ("12.50 GBP", 12.5), ("$3", 3.0), ("1,299.00", None), ("-3", None), ("x", None),
     (True, None), (-0.1, None), (10**30, None)],
)  # fmt: skip
def test_amount(given: Any, number: float | None) -> None:
    assert amount(given) == number


@pytest.mark.parametrize(
    "facets",
    [
        {"colour": ["red", "blue"], "size": 4},
        [{"name": "colour", "values": ["red", "blue"]}, {"key": "size", "values": [4]}],
    ],
)
def test_facets_become_attributes_and_have_one_form_in_the_answer(facets: Any) -> None:
    found = features(item(facets=facets, brand="Acme", tags=["new", 3, {"no": 1}], url="/1"))
    assert found.attributes == {
        "colour": ("red", "blue"),
        "size": (4.0,),
        "brand": ("Acme",),
        "tags": ("new", 3.0),
    }
    names = [(f["name"], f["values"]) for f in found.data["facets"]]
    assert names == [("colour", ["red", "blue"]), ("size", [4])]
    assert found.data["url"] == "/1"


def test_a_filter_finds_what_a_variation_has() -> None:
    found = features(item(colour="red"), [variation("a", colour="blue"), variation("b")])
    assert found.attributes["colour"] == ("red", "blue")


def test_groups_come_with_all_that_is_above() -> None:
    tree = GroupTree({"all": None, "food": "all", "fruit": "food", "sale": None})
    found = features(item(group_ids=["fruit", "sale", "unknown"]), groups=tree)
    assert found.attributes["group_id"] == ("fruit", "food", "all", "sale", "unknown")


def test_a_circle_of_groups_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"circle: (a > b > a|b > a > b)$"):
        GroupTree({"a": "b", "b": "a", "c": "a"})


def test_a_tree_has_a_depth() -> None:
    with pytest.raises(InvalidInput, match="more than 64 levels"):
        GroupTree({str(n): str(n + 1) for n in range(100_000)})
