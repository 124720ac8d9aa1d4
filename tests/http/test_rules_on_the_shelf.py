"""Each condition and each action of rules, through HTTP on the supermarket's catalogue: published
by the admin API, seen on the storefront. README's table of them is made from the names here."""

from __future__ import annotations

import datetime as dt
import time
import typing
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from app.domain.event import HistoryEntry
from app.domain.rule_action import Action
from app.domain.rule_condition import Condition
from app.domain.rule_items import ItemExpression
from app.postgres.database import connect
from tests.ruled_shop import DAY, RuledShop, open_shop, supermarket
from vitrine_sdk import EventType

PRIVATE = {"type": "is", "attribute": "brand", "values": ["Private"]}
NATIONAL = {"type": "is", "attribute": "brand", "values": ["National"]}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_for_all(
    module_database_url: str, create_merchant: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RuledShop]:
    merchant = await create_merchant(module_database_url, "supermarket")
    database = connect(module_database_url, pool=2)
    try:
        directory = tmp_path_factory.mktemp("shelf")
        async with open_shop(database, merchant, directory, supermarket()) as shop:
            yield shop
    finally:
        await database.close()


@pytest.fixture
def shop(open_for_all: RuledShop) -> RuledShop:
    """One shop for all: every test publishes its own rules in the place of the last one's."""
    open_for_all.history.entries.clear()
    return open_for_all


def brands(shop: RuledShop, items: list[Any]) -> list[str]:
    return [shop.value(item, "brand") for item in items]


def listed(*ids: str) -> dict[str, Any]:
    return {"type": "items", "ids": list(ids)}


# Actions


async def test_action_pin(shop: RuledShop) -> None:
    wanted = shop.items[300].id
    await shop.publish({"then": [{"type": "pin", "item_id": wanted, "slot": 3}]})
    answer = await shop.answer()
    third = answer["response"]["results"][2]
    assert (third["data"]["id"], third["is_slotted"]) == (wanted, True)
    assert [result["is_slotted"] for result in answer["response"]["results"]].count(True) == 1


async def test_action_fill(shop: RuledShop) -> None:
    await shop.publish({"then": [{"type": "fill", "slots": [1, 4], "items": NATIONAL}]})
    before = [item for item in shop.items if shop.value(item, "brand") == "National"][:2]
    results = (await shop.answer())["response"]["results"]
    assert [results[0]["data"]["id"], results[3]["data"]["id"]] == [item.id for item in before]
    assert [result["is_slotted"] for result in results[:4]] == [True, False, False, True]


async def test_action_boost(shop: RuledShop) -> None:
    wanted = shop.items[15].id  # sixteenth: as if at 16 / 2^2 = 4
    await shop.publish({"then": [{"type": "boost", "items": listed(wanted), "strength": 4}]})
    assert (await shop.ids())[4] == wanted


async def test_action_bury(shop: RuledShop) -> None:
    first = shop.items[0].id  # as if at 1 * 2^3 = 8
    await shop.publish({"then": [{"type": "bury", "items": listed(first), "strength": 6}]})
    assert (await shop.ids()).index(first) == 6


async def test_action_include_only(shop: RuledShop) -> None:
    await shop.publish({"then": [{"type": "include_only", "items": NATIONAL}]})
    assert brands(shop, await shop.shown(num_results=50)) == ["National"] * 50


async def test_action_exclude(shop: RuledShop) -> None:
    await shop.publish({"then": [{"type": "exclude", "items": PRIVATE}]})
    assert brands(shop, await shop.shown(num_results=50)) == ["National"] * 50


async def test_action_same_as_seed(shop: RuledShop) -> None:
    seed = next(item for item in shop.items if shop.value(item, "department") == "PRODUCE")
    await shop.publish(
        {"then": [{"type": "same_as_seed", "attribute": "group_id"}]},
        {"then": [{"type": "same_as_seed", "attribute": "price", "bands": [2, 4]}]},
    )
    shown = await shop.shown("pdp", item_id=seed.id)
    assert shown
    groups = {shop.value(item, "category") for item in shown}
    assert groups == {shop.value(seed, "category")}
    assert all((item.price <= 2) == (seed.price <= 2) for item in shown)


async def test_action_different_from_seed(shop: RuledShop) -> None:
    seed = next(item for item in shop.items if shop.value(item, "brand") == "Private")
    await shop.publish({"then": [{"type": "different_from_seed", "attribute": "brand"}]})
    assert brands(shop, await shop.shown("pdp", item_id=seed.id)) == ["National"] * 10


async def test_action_at_most(shop: RuledShop) -> None:
    cap = {"type": "at_most", "count": 1, "attribute": "category", "first": 8}
    await shop.publish({"then": [cap]})
    shown = await shop.shown()
    categories = [shop.value(item, "category") for item in shown]
    assert len(set(categories[:8])) == 8
    # What waited for the cap comes when its positions have passed.
    assert categories[8] in categories[:8]


async def test_action_at_least(shop: RuledShop) -> None:
    await shop.publish({"then": [{"type": "at_least", "percent": 60, "items": NATIONAL}]})
    shown = brands(shop, await shop.shown())
    assert shown.count("National") == 6
    assert shown[:5].count("National") == 3  # spread over the list


async def test_action_price_of_seed(shop: RuledShop) -> None:
    seed = shop.items[10]
    await shop.publish({"then": [{"type": "price_of_seed", "at_least": 0.8, "at_most": 1.25}]})
    shown = await shop.shown("pdp", item_id=seed.id)
    assert len(shown) == 10
    assert all(0.8 * seed.price <= item.price <= 1.25 * seed.price for item in shown)


async def test_action_leave_out(shop: RuledShop) -> None:
    bought, old, in_cart, *_ = (item.id for item in shop.items)
    now = time.time()
    shop.history.entries["c:client"] = [
        HistoryEntry(in_cart, EventType.CART, now - 60),
        HistoryEntry(bought, EventType.PURCHASE, now - 3 * DAY),
        HistoryEntry(old, EventType.PURCHASE, now - 30 * DAY),
    ]
    await shop.publish(
        {"then": [{"type": "leave_out", "what": "bought", "days": 10}]},
        {"then": [{"type": "leave_out", "what": "in_cart"}]},
    )
    assert (await shop.ids())[0] == old
    assert not {bought, in_cart} & set(await shop.ids())
    assert {bought, in_cart} < set(await shop.ids(i="somebody-else"))


async def test_action_rotate(shop: RuledShop) -> None:
    await shop.publish(
        {"then": [{"type": "rotate", "every": "week", "per_shopper": True, "tolerance": 1}]}
    )
    lists = {tuple(await shop.ids(ui=f"user-{n}")) for n in range(8)}
    assert len(lists) == 8
    again = {tuple(await shop.ids(ui=f"user-{n}")) for n in range(8)}
    assert again == lists


async def test_action_min_relevance(shop: RuledShop) -> None:
    # The strategy's scores fall evenly from 1 to 0.5 over what it is asked for.
    await shop.publish({"then": [{"type": "min_relevance", "at_least": 0.99}]})
    answer = await shop.answer()
    assert 0 < len(answer["response"]["results"]) < 10
    assert answer["response"]["short"]["left_out"]["ruled"] > 0


# Conditions: each holds for one request and not for the other, on the same rule


async def check_condition(
    shop: RuledShop, condition: Any, holds: dict[str, Any], fails: dict[str, Any]
) -> None:
    pinned = shop.items[200].id
    await shop.publish({"when": condition, "then": [{"type": "pin", "item_id": pinned, "slot": 1}]})
    assert (await shop.ids(**holds))[0] == pinned
    assert (await shop.ids(**fails))[0] != pinned


async def test_condition_pod(shop: RuledShop) -> None:
    await check_condition(shop, {"type": "pod", "ids": ["home"]}, {}, {"pod": "pdp"})


async def test_condition_strategy(shop: RuledShop) -> None:
    seed = shop.items[0].id
    await check_condition(
        shop, {"type": "strategy", "ids": ["similar"]}, {"pod": "pdp", "item_id": seed},
        {"pod": "pdp"},
    )  # fmt: skip


async def test_condition_seed(shop: RuledShop) -> None:
    private, national = (
        next(item.id for item in shop.items if shop.value(item, "brand") == brand)
        for brand in ("Private", "National")
    )
    await check_condition(
        shop, {"type": "seed", "items": PRIVATE}, {"pod": "pdp", "item_id": private},
        {"pod": "pdp", "item_id": national},
    )  # fmt: skip


async def test_condition_filter(shop: RuledShop) -> None:
    pinned = shop.items[200]
    department = shop.value(pinned, "department")
    await check_condition(
        shop, {"type": "filter", "name": "department", "values": [department]},
        {"filters[department]": department}, {},
    )  # fmt: skip


async def test_condition_term(shop: RuledShop) -> None:
    await check_condition(
        shop, {"type": "term", "terms": ["milk"], "match": "contains"},
        {"term": "Skimmed MILK"}, {"term": "bread"},
    )  # fmt: skip


async def test_condition_segment(shop: RuledShop) -> None:
    await check_condition(shop, {"type": "segment", "ids": ["vip"]}, {"us": "vip"}, {"us": "new"})


async def test_condition_shopper(shop: RuledShop) -> None:
    await check_condition(
        shop, {"type": "shopper", "attribute": "country", "values": ["at"]},
        {"us": "country:at"}, {"us": "country:de"},
    )  # fmt: skip
    await check_condition(
        shop, {"type": "shopper", "attribute": "known", "values": ["true"]}, {"ui": "u1"}, {}
    )


async def test_condition_acted(shop: RuledShop) -> None:
    shop.history.entries["c:buyer"] = [
        HistoryEntry(shop.items[5].id, EventType.PURCHASE, time.time() - DAY)
    ]
    shop.history.entries["c:earlier"] = [
        HistoryEntry(shop.items[5].id, EventType.PURCHASE, time.time() - 9 * DAY)
    ]
    await check_condition(
        shop, {"type": "acted", "what": "bought", "days": 7}, {"i": "buyer"}, {"i": "earlier"}
    )


async def test_condition_cell(shop: RuledShop) -> None:
    await check_condition(
        shop, {"type": "cell", "experiment": "hero", "cells": ["b"]},
        {"ef-hero": "b"}, {"ef-hero": "a"},
    )  # fmt: skip


async def test_condition_between(shop: RuledShop) -> None:
    now = dt.datetime.now(dt.UTC)
    hour = dt.timedelta(hours=1)
    for start, end, active in (
        (-2, -1, False), (-1, 1, True), (1, 2, False), (None, 1, True), (-1, None, True)
    ):  # fmt: skip
        when = {"type": "between"}
        if start is not None:
            when["start"] = (now + start * hour).isoformat()
        if end is not None:
            when["end"] = (now + end * hour).isoformat()
        pin = {"type": "pin", "item_id": shop.items[200].id, "slot": 1}
        await shop.publish({"when": when, "then": [pin]})
        assert ((await shop.ids())[0] == shop.items[200].id) is active, (start, end)


async def test_condition_weekly(shop: RuledShop) -> None:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    # Apia is 13 hours ahead of UTC and Pago Pago 11 behind: never the same day.
    for zone, hours in (("Pacific/Apia", 13), ("Pacific/Pago_Pago", -11)):
        there = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
        today = days[there.weekday()]
        pin = {"type": "pin", "item_id": shop.items[200].id, "slot": 1}
        for only, active in (([today], True), ([d for d in days if d != today], False)):
            await shop.publish(
                {"when": {"type": "weekly", "zone": zone, "days": only}, "then": [pin]}
            )
            assert ((await shop.ids())[0] == shop.items[200].id) is active, (zone, only)


async def test_condition_and(shop: RuledShop) -> None:
    parts = [{"type": "segment", "ids": ["a"]}, {"type": "segment", "ids": ["b"]}]
    await check_condition(shop, {"type": "and", "of": parts}, {"us": ["a", "b"]}, {"us": ["a"]})


async def test_condition_or(shop: RuledShop) -> None:
    parts = [{"type": "segment", "ids": ["a"]}, {"type": "segment", "ids": ["b"]}]
    await check_condition(shop, {"type": "or", "of": parts}, {"us": ["b"]}, {"us": ["c"]})


async def test_condition_not(shop: RuledShop) -> None:
    condition = {"type": "not", "of": {"type": "segment", "ids": ["a"]}}
    await check_condition(shop, condition, {"us": ["b"]}, {"us": ["a", "b"]})


# Item expressions: what they leave of the shop


async def left(shop: RuledShop, expression: Any, expressions: Any = None) -> list[Any]:
    await shop.publish(
        {"then": [{"type": "include_only", "items": expression}]}, expressions=expressions
    )
    return await shop.shown(num_results=30)


async def test_items_is(shop: RuledShop) -> None:
    assert set(brands(shop, await left(shop, NATIONAL))) == {"National"}


async def test_items_range(shop: RuledShop) -> None:
    shown = await left(shop, {"type": "range", "attribute": "price", "at_least": 2, "at_most": 3})
    assert shown
    assert all(2 <= item.price <= 3 for item in shown)


async def test_items_items(shop: RuledShop) -> None:
    wanted = [shop.items[8].id, shop.items[3].id]
    assert [item.id for item in await left(shop, listed(*wanted))] == wanted[::-1]


async def test_items_new(shop: RuledShop) -> None:
    # The ninth day is over for the tenth newest in an hour: a day lies between any two.
    shown = await left(shop, {"type": "new", "days": 9})
    assert {item.id for item in shown} == {item.id for item in shop.items[-9:]}


async def test_items_named(shop: RuledShop) -> None:
    named = {"type": "named", "name": "own"}
    assert set(brands(shop, await left(shop, named, {"own": PRIVATE}))) == {"Private"}


async def test_items_every(shop: RuledShop) -> None:
    assert len(await left(shop, {"type": "every"})) == 30


async def test_items_and(shop: RuledShop) -> None:
    cheap = {"type": "range", "attribute": "price", "at_most": 1}
    shown = await left(shop, {"type": "and", "of": [PRIVATE, cheap]})
    assert shown
    assert all(shop.value(i, "brand") == "Private" and i.price <= 1 for i in shown)


async def test_items_or(shop: RuledShop) -> None:
    one = listed(shop.items[0].id)
    dear = {"type": "range", "attribute": "price", "at_least": 4}
    shown = await left(shop, {"type": "or", "of": [one, dear]})
    assert len(shown) > 1
    assert all(item.id == shop.items[0].id or item.price >= 4 for item in shown)


async def test_items_not(shop: RuledShop) -> None:
    assert set(brands(shop, await left(shop, {"type": "not", "of": NATIONAL}))) == {"Private"}


async def test_each_condition_action_and_expression_has_its_test_here() -> None:
    for prefix, union in (
        ("action", Action), ("condition", Condition), ("items", ItemExpression)
    ):  # fmt: skip
        for kind in typing.get_args(union):
            assert f"test_{prefix}_{kind.__struct_config__.tag}" in globals()


# Before the cut


async def test_a_list_is_full_while_enough_qualify(shop: RuledShop) -> None:
    rare = [item for item in shop.items if shop.value(item, "department") == "FLORAL"]
    others = [item for item in shop.items if item.price > 6]
    wanted = [item.id for item in (*rare, *others)]
    await shop.publish({"then": [{"type": "include_only", "items": listed(*wanted)}]})
    shown = await shop.ids(num_results=100)
    assert set(shown) == set(wanted)


async def test_a_list_that_is_ready_follows_prices(shop: RuledShop) -> None:
    def priced(price: float) -> None:
        """The second best seller's, as an import would bring it."""
        item = shop.items[1]
        changed = msgspec.structs.replace(item, price=price, data={**item.data, "price": price})
        shop.features.items[item.id] = changed
        shop.index.apply([shop.index.prepare([changed])], shop.index.version + 1)

    dear = {"type": "range", "attribute": "price", "at_least": 50}
    await shop.publish({"then": [{"type": "exclude", "items": dear}]})
    try:
        priced(7.0)
        for _ in range(3):
            await shop.ids()
        hits = shop.recommend.prepared_lists.hits
        for price in (8.0, 9.0):
            priced(price)
            second = (await shop.answer())["response"]["results"][1]["data"]
            assert (second["id"], second["price"]) == (shop.items[1].id, price)
        assert shop.recommend.prepared_lists.hits == hits + 2
        priced(50.0)
        assert shop.items[1].id not in await shop.ids()
        assert shop.recommend.prepared_lists.hits == hits + 2
        priced(49.0)
        assert (await shop.ids())[1] == shop.items[1].id
    finally:
        priced(shop.items[1].price)


async def test_a_short_list_says_why(shop: RuledShop) -> None:
    await shop.publish({"then": [{"type": "include_only", "items": listed(shop.items[7].id)}]})
    answer = await shop.answer()
    short = answer["response"]["short"]
    assert (short["asked"], short["found"]) == (10, 1)
    assert short["left_out"]["ruled"] == len(shop.items) - 1


async def test_rules_work_on_whatever_strategy_answers(shop: RuledShop) -> None:
    await shop.publish({"then": [{"type": "exclude", "items": PRIVATE}]})
    for query in ({}, {"item_id": shop.items[0].id}):
        assert brands(shop, await shop.shown("pdp", **query)) == ["National"] * 10


async def test_the_same_request_and_version_give_the_same_list(shop: RuledShop) -> None:
    await shop.publish(
        {"then": [{"type": "boost", "items": PRIVATE, "strength": 3}]},
        {"then": [{"type": "at_most", "count": 2, "attribute": "department"}]},
        {"then": [{"type": "rotate", "every": "week", "tolerance": 0.2}]},
    )
    assert len({tuple(await shop.ids(num_results=40)) for _ in range(5)}) == 1
