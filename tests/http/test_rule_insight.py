"""Seen before it is published, explained afterwards: previews, explanations, conflicts, pages."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from app.domain.merchant import Role
from app.domain.rule import RuleSet
from app.postgres.database import connect, raw
from app.postgres.served_samples import PostgresServedSamples
from app.services.explain import Explain
from app.services.preview import Previews
from tests.ruled_shop import RULE_SETS, RuledShop, open_shop, supermarket
from vitrine_sdk import EventType

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAIN = f"{RULE_SETS}/main"
ANY = {"If-Match": "*"}
PRIVATE = {"type": "is", "attribute": "brand", "values": ["Private"]}
NATIONAL = {"type": "is", "attribute": "brand", "values": ["National"]}
EXCLUDE_PRIVATE = {"type": "exclude", "items": PRIVATE}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_for_all(
    module_database_url: str, create_merchant: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RuledShop]:
    merchant = await create_merchant(module_database_url, "supermarket")
    database = connect(module_database_url, pool=2)
    try:
        directory = tmp_path_factory.mktemp("insight")
        async with open_shop(database, merchant, directory, supermarket()) as shop:
            yield shop
    finally:
        await database.close()


@pytest_asyncio.fixture(loop_scope="module")
async def shop(open_for_all: RuledShop) -> RuledShop:
    """Without rules."""
    await open_for_all.publish()
    return open_for_all


def pin(item_id: str, slot: int) -> dict[str, Any]:
    return {"type": "pin", "item_id": item_id, "slot": slot}


def listed(*ids: str) -> dict[str, Any]:
    return {"type": "items", "ids": list(ids)}


async def draft(shop: RuledShop, *rules: Any) -> None:
    numbered = [{"id": f"r{n}", **rule} for n, rule in enumerate(rules)]
    await shop.call("PUT", MAIN, {"id": "main", "rules": numbered}, headers=ANY)


# Preview


async def test_a_preview_shows_both_lists_and_each_move(shop: RuledShop) -> None:
    ids = [item.id for item in shop.items]
    await draft(
        shop,
        {"then": [pin(ids[99], 2)]},
        {"then": [{"type": "boost", "items": listed(ids[4]), "strength": 6}]},
        {"then": [{"type": "exclude", "items": listed(ids[1])}]},
    )
    seen = await shop.call(
        "POST", f"{MAIN}/preview", {"request": {"pod_id": "home", "num_results": 5}},
        role=Role.READER,
    )  # fmt: skip
    assert [row["item_id"] for row in seen["before"]] == ids[:5]
    assert [row["item_id"] for row in seen["after"]] == [ids[4], ids[99], ids[0], ids[2], ids[3]]
    assert seen["before"][0]["name"] == shop.items[0].name
    moves = {row["item_id"]: row for row in seen["moves"]}
    assert {item_id: row["move"] for item_id, row in moves.items()} == {
        ids[4]: "+4", ids[99]: "new", ids[0]: "-2", ids[2]: "-1", ids[3]: "-1", ids[1]: "gone",
    }  # fmt: skip
    assert moves[ids[99]]["effects"] == [
        {"rule": "main/r0", "action": "pin", "did": "fixed it at position 2"}
    ]
    assert moves[ids[4]]["effects"][0]["did"] == "strength +6"
    assert moves[ids[1]]["effects"] == [
        {"rule": "main/r2", "action": "exclude", "did": "left it out"}
    ]
    assert seen["slots"] == [{"slot": 2, "rule": "main/r0", "item_id": ids[99], "state": "met"}]
    # Nothing of it is served.
    assert (await shop.ids())[:5] == ids[:5]


async def test_a_preview_is_for_any_shopper_segment_and_time(shop: RuledShop) -> None:
    wanted = shop.items[50].id
    start = dt.datetime(2031, 5, 1, tzinfo=dt.UTC)
    when = {
        "type": "and",
        "of": [
            {"type": "between", "start": start.isoformat()},
            {"type": "segment", "ids": ["vip"]},
        ],
    }
    await draft(shop, {"when": when, "then": [pin(wanted, 1)]})
    for segments, at, shown in (
        (["vip"], start.timestamp(), True),
        (["vip"], start.timestamp() - 1, False),
        (["vip"], None, False),
        ([], start.timestamp(), False),
    ):
        body = {"request": {"pod_id": "home", "segments": segments}, "at": at}
        seen = await shop.call("POST", f"{MAIN}/preview", body)
        assert (seen["after"][0]["item_id"] == wanted) is shown
        assert bool(seen["rules"]) is shown


async def test_a_preview_of_rules_that_are_not_even_a_draft(shop: RuledShop) -> None:
    wanted = shop.items[50].id
    rules = {"rules": [{"id": "r", "then": [pin(wanted, 1)]}]}
    body = {"request": {"pod_id": "home"}, "rules": rules}
    seen = await shop.call("POST", f"{MAIN}/preview", body)
    assert seen["after"][0]["item_id"] == wanted
    assert (await shop.call("GET", MAIN))["rules"] == []
    rules["rules"][0]["then"][0]["slot"] = 0
    problem = await shop.call("POST", f"{MAIN}/preview", body, status=400)
    assert problem["errors"][0]["pointer"] == "/rules/rules/0/then/0/slot"
    wrong = {"request": {"pod_id": "nowhere"}}
    await shop.call("POST", f"{MAIN}/preview", wrong, status=404)
    await shop.call(
        "POST", f"{RULE_SETS}/none/preview", {"request": {"pod_id": "home"}}, status=404
    )
    late = {"request": {"pod_id": "home"}, "at": 1e300}
    await shop.call("POST", f"{MAIN}/preview", late, status=400)


async def test_a_preview_over_many_recent_requests(shop: RuledShop) -> None:
    shop.samples.recorded.clear()
    for _ in range(3):
        await shop.answer("home", num_results=5)
    await shop.answer("pdp", item_id=shop.items[20].id, num_results=5)
    stored = PostgresServedSamples(shop.database)
    for sample in shop.samples.recorded:
        stored.record(sample)
    await stored.flush()
    out, bystander = shop.items[0].id, shop.items[300].id
    async with shop.database.merchant(shop.merchant) as connection:
        driver = await raw(connection)
        now = dt.datetime.now(dt.UTC)
        await driver.execute("SELECT ensure_event_partitions($1)", [now.date()])
        for item_id, revenue in ((out, 30.0), (bystander, 70.0)):
            await driver.execute(
                "INSERT INTO event (merchant_id, occurred_at, type, action, section, item_id,"
                " revenue) VALUES ($1, $2, $3, 'purchase', 'Products', $4, $5)",
                *(shop.merchant, now, int(EventType.PURCHASE), item_id, revenue),
            )
    await draft(shop, {"then": [{"type": "exclude", "items": listed(out)}]})
    seen = await shop.call("POST", f"{MAIN}/preview-samples", {"limit": 50})
    assert (seen["requests"], seen["changed"], seen["skipped"], seen["shorter"]) == (4, 3, 0, 0)
    assert seen["losing"] == [{"item_id": out, "before": 3, "after": 0, "revenue": 30.0}]
    assert seen["gaining"] == [
        {"item_id": shop.items[5].id, "before": 0, "after": 3, "revenue": 0.0}
    ]
    assert (seen["revenue"], seen["losing_share"], seen["gaining_share"]) == (100.0, 0.3, 0.0)
    seen = await shop.call("POST", f"{MAIN}/preview-samples", {"pod_ids": ["pdp"]})
    assert (seen["requests"], seen["changed"]) == (1, 0)


async def test_shoppers_come_in_between_the_requests_of_a_preview(shop: RuledShop) -> None:
    explain = Explain(shop.runner, shop.histories, shop.features)
    turns: list[str] = []

    class Watched:
        async def items(self, *arguments: Any, **named: Any) -> Any:
            turns.append("preview")
            return await explain.items(*arguments, **named)

    class Recent:
        async def recent(self, *_: Any) -> Any:
            # Each is asked for once, however often it came.
            return [{"pod_id": "home", "num_results": n + 1} for n in range(20)] * 2

        async def revenue(self, *_: Any) -> Any:
            return {}

    async def shop_on() -> None:
        while True:
            turns.append("shopper")
            await asyncio.sleep(0)

    previews = Previews(Watched(), shop.indexes, Recent())  # type: ignore[arg-type]
    snapshot = shop.serving.merchants()[shop.merchant]
    rules = msgspec.convert({"rules": [{"id": "a", "then": [pin(shop.items[9].id, 1)]}]}, RuleSet)
    shopper = asyncio.create_task(shop_on())
    seen = await asyncio.gather(*(previews.many(snapshot, "main", rules, (), 20) for _ in range(2)))
    shopper.cancel()
    assert [one.requests for one in seen] == [40, 40]
    assert turns.count("preview") == 80
    pairs = set(itertools.pairwise(turns))
    assert ("preview", "preview") not in pairs, "also when two merchants look at the same time"


# Explain


async def explained(shop: RuledShop, pod: str = "home", **query: Any) -> Any:
    return await shop.call(
        "GET", f"/recommendations/v1/pods/{pod}", role=Role.READER, key=shop.key, explain="true",
        **{"num_results": 5, "i": "client", **query},
    )  # fmt: skip


async def test_explain_tells_the_whole_way(shop: RuledShop) -> None:
    ids = [item.id for item in shop.items]
    await shop.publish(
        {"id": "out", "then": [{"type": "exclude", "items": listed(ids[0])}], "reason": "recall"},
        {"id": "up", "then": [{"type": "boost", "items": listed(ids[4]), "strength": 6}]},
        {"id": "first", "then": [pin(ids[30], 1)], "priority": 3},
        {"id": "also", "then": [pin(ids[31], 1)]},
        {"id": "never", "then": [EXCLUDE_PRIVATE], "when": {"type": "segment", "ids": ["x"]}},
    )
    plain = await shop.answer(num_results=5)
    answer = await explained(shop)
    told = answer.pop("explanation")
    del plain["result_id"], answer["result_id"]
    assert answer == plain  # the answer itself is what a shopper gets
    (run,) = told["chain"]
    assert (run["id"], run["outcome"]) == ("best", "answered")
    assert run["given"] >= 5
    assert [rule["id"] for rule in told["rules"]] == [
        "main/first", "main/out", "main/up", "main/also",
    ]  # fmt: skip
    assert told["rules"][1]["reason"] == "recall"
    assert told["rules"][1]["left_out"] == 1
    shown = [row for row in told["candidates"] if row["outcome"] == "shown"]
    assert [row["position"] for row in shown] == [1, 2, 3, 4, 5]
    assert [row["item_id"] for row in shown] == [ids[30], ids[4], ids[1], ids[2], ids[3]]
    assert shown[1]["effects"][0] == {
        "rule": "main/up", "action": "boost", "did": "strength +6"
    }  # fmt: skip
    out = next(row for row in told["candidates"] if row["item_id"] == ids[0])
    assert out["outcome"] == "rule main/out"
    assert next(row for row in told["candidates"] if row["item_id"] == ids[9])["outcome"] == "cut"
    assert told["slots"] == [
        {"slot": 1, "rule": "main/first", "item_id": ids[30], "state": "met"},
        {"slot": 1, "rule": "main/also", "item_id": ids[31],
         "state": "the slot is taken by main/first"},
    ]  # fmt: skip
    assert told["left_out"] == {"rule main/out": 1}
    assert {step["name"] for step in told["steps"]} >= {"strategies", "rules", "all"}


async def test_explain_tells_why_a_strategy_did_not_answer(shop: RuledShop) -> None:
    told = (await explained(shop, "pdp"))["explanation"]
    assert [(run["id"], run["outcome"]) for run in told["chain"]] == [
        ("similar", "no_seeds"),
        ("best", "answered"),
    ]
    assert told["fallback"] == "no_seeds"


async def test_why_not(shop: RuledShop) -> None:
    ids = [item.id for item in shop.items]
    private = next(item.id for item in shop.items[:5] if shop.value(item, "brand") == "Private")
    national = [item for item in shop.items if shop.value(item, "brand") == "National"]
    category = shop.value(national[0], "category")
    same = [item for item in national if shop.value(item, "category") == category]
    await shop.publish(
        {"id": "out", "then": [EXCLUDE_PRIVATE]},
        {"id": "cap", "then": [{"type": "at_most", "count": 1, "attribute": "category"}]},
    )

    async def why(absent: str, **query: Any) -> tuple[str, str | None]:
        told = (await explained(shop, why_not=absent, **query))["explanation"]["why_not"]
        return told["reason"], told.get("rule")

    assert await why("no-such-item") == ("not_in_catalogue", None)
    assert await why(private) == ("rule", "main/out")
    assert await why(national[0].id) == ("shown", None)
    assert await why(same[1].id) == ("rule", "main/cap")
    assert await why(ids[399]) in (("not_offered", None), ("rule", "main/out"))
    assert await why(national[0].id, **{"filters[brand]": "Nobody"}) == ("filtered", None)
    assert await why(national[0].id, item_id=national[0].id) == ("seed", None)
    await shop.publish()
    assert await why(ids[8]) == ("cut", None)
    assert await why(ids[399]) == ("not_offered", None)
    row = shop.index.row(ids[8])
    shop.index.available[row] = False
    try:
        assert await why(ids[8]) == ("unavailable", None)
    finally:
        shop.index.available[row] = True


async def test_explain_is_for_tokens_of_the_merchant_only(
    shop: RuledShop, module_database_url: str, create_merchant: Any
) -> None:
    await shop.answer(explain="true", status=401)
    path = "/recommendations/v1/pods/home"
    await shop.call("GET", path, role=Role.INGEST, status=403, key=shop.key, explain="true")
    other = await create_merchant(module_database_url, f"other-{time.monotonic_ns()}")
    await shop.serving.refresh()
    secret = other.secrets[Role.ADMINISTRATOR]
    await shop.call("GET", path, secret=secret, status=403, key=shop.key, explain="true")
    await shop.answer(explain="maybe", status=400)
    answer = await shop.answer(explain="false")
    assert "explanation" not in answer


async def test_an_explained_request_is_not_recorded_as_served(shop: RuledShop) -> None:
    shop.samples.recorded.clear()
    await explained(shop)
    assert shop.samples.recorded == []


# Conflicts and reach


async def findings(shop: RuledShop, *rules: Any) -> dict[str, list[tuple[str, ...]]]:
    await draft(shop, *rules)
    found: dict[str, list[tuple[str, ...]]] = {}
    for finding in (await shop.call("GET", f"{MAIN}/conflicts"))["items"]:
        assert finding["detail"]
        ids = tuple(rule.removeprefix("main/") for rule in finding["rules"])
        found.setdefault(finding["kind"], []).append(ids)
    return found


async def test_conflicts(shop: RuledShop) -> None:
    one, two = shop.items[0].id, shop.items[1].id
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    boost = {"type": "boost", "items": PRIVATE, "strength": 2}
    always = {"type": "segment", "ids": ["vip"]}
    assert await findings(shop, {"then": [boost]}) == {}
    assert await findings(shop, {"then": [boost], "when": {"type": "pod", "ids": ["nowhere"]}}) == {
        "never_applies": [("r0",)]
    }
    ended = {"type": "between", "end": (now - day).isoformat()}
    assert await findings(shop, {"then": [boost], "when": ended}) == {"never_applies": [("r0",)]}
    ending = {"type": "and", "of": [always, {"type": "between", "end": (now + day).isoformat()}]}
    assert await findings(shop, {"then": [boost], "when": ending}) == {"ends_soon": [("r0",)]}
    later = {"type": "between", "end": (now + 8 * day).isoformat()}
    assert await findings(shop, {"then": [boost], "when": later}) == {}
    nothing = {"type": "exclude", "items": {"type": "is", "attribute": "brand", "values": ["Own"]}}
    assert await findings(shop, {"then": [nothing]}) == {"matches_nothing": [("r0",)]}
    assert await findings(
        shop, {"then": [pin(one, 1)], "when": always}, {"then": [pin(two, 1)], "priority": 5}
    ) == {"hidden": [("r1", "r0")]}
    assert await findings(
        shop, {"then": [pin(one, 1)]}, {"then": [pin(two, 1)], "priority": 5, "when": always}
    ) == {"same_slot": [("r1", "r0")]}
    assert await findings(shop, {"then": [pin(one, 1)]}, {"then": [pin(one, 2)]}) == {
        "pinned_twice": [("r0", "r1")]
    }
    exclude = {"type": "exclude", "items": listed(one)}
    assert await findings(shop, {"then": [pin(one, 1)]}, {"then": [exclude]}) == {
        "pinned_and_left_out": [("r1", "r0")]
    }
    assert await findings(shop, {"then": [pin(one, 1)], "priority": 1}, {"then": [exclude]}) == {
        "pinned_and_left_out": [("r0", "r1")]
    }
    bury = {"type": "bury", "items": {"type": "every"}, "strength": 2}
    assert await findings(shop, {"then": [boost]}, {"then": [bury]}) == {"contrary": [("r0", "r1")]}
    assert await findings(shop, {"then": [boost]}, {"then": [boost]}) == {"adds_up": [("r0", "r1")]}
    assert await findings(shop, {"then": [boost]}, {"then": [EXCLUDE_PRIVATE]}) == {
        "hidden": [("r1", "r0")]
    }
    only = [{"type": "include_only", "items": items} for items in (PRIVATE, NATIONAL)]
    assert await findings(shop, {"then": only[:1]}, {"then": only[1:]}) == {
        "nothing_left": [("r0", "r1")]
    }
    rotate = {"type": "rotate", "every": "day"}
    assert await findings(shop, {"then": [rotate]}, {"then": [rotate]}) == {
        "hidden": [("r0", "r1")]
    }
    # On different pods nothing meets.
    pods = [{"type": "pod", "ids": [pod]} for pod in ("home", "pdp")]
    assert (
        await findings(
            shop, {"then": [pin(one, 1)], "when": pods[0]}, {"then": [pin(two, 1)], "when": pods[1]}
        )
        == {}
    )


async def test_reach(shop: RuledShop) -> None:
    item = next(item for item in shop.items if shop.value(item, "brand") == "Private")
    other = next(item for item in shop.items if shop.value(item, "brand") == "National")
    await shop.publish(
        {"id": "home", "then": [{"type": "boost", "items": PRIVATE, "strength": 1}],
         "when": {"type": "pod", "ids": ["home"]}},
        {"id": "pin", "then": [pin(item.id, 2)], "priority": 1},
        {"id": "new", "then": [{"type": "exclude", "items": {"type": "new", "days": 1}}]},
    )  # fmt: skip

    async def reach(**query: str) -> Any:
        found = await shop.call("GET", "/admin/v1/rules/reach", role=Role.READER, **query)
        return [(row["rule"], row["actions"], row.get("items")) for row in found["items"]]

    assert await reach(pod="home") == [
        ("main/pin", ["pin"], None), ("main/home", ["boost"], None), ("main/new", ["exclude"], None)
    ]  # fmt: skip
    assert [rule for rule, *_ in await reach(pod="pdp")] == ["main/pin", "main/new"]
    assert await reach(item=item.id) == [("main/pin", ["pin"], 1), ("main/home", ["boost"], 1)]
    assert await reach(item=other.id) == []
    group = shop.value(item, "group_id")
    assert ("main/pin", ["pin"], 1) in await reach(group=group)
    for query, status in (
        ({}, 400), ({"pod": "home", "item": "x"}, 400), ({"pod": "nowhere"}, 404),
        ({"item": "nowhere"}, 404), ({"group": "nowhere"}, 404),
    ):  # fmt: skip
        await shop.call("GET", "/admin/v1/rules/reach", status=status, **query)
    assert (await shop.call("GET", "/admin/v1/rules/conflicts"))["items"] == []


# Several pods at once


async def page(shop: RuledShop, body: Any, status: int = 200, **query: Any) -> Any:
    return await shop.call(
        "POST", "/v1/recommendations:page", body, status=status, **{"key": shop.key, **query}
    )


async def test_a_page_shows_no_product_twice_and_the_pods_order_decides(shop: RuledShop) -> None:
    ids = [item.id for item in shop.items]
    body = {
        "pods": [
            {"pod_id": "home", "num_results": 3},
            {"pod_id": "pdp", "num_results": 4, "item_ids": [ids[0]]},
            {"pod_id": "home", "num_results": 2},
        ],
        "client_id": "c",
    }
    lists = (await page(shop, body))["lists"]
    shown = [[r["data"]["id"] for r in one["response"]["results"]] for one in lists]
    assert shown == [ids[:3], ids[3:7], ids[7:9]]
    assert len({one["result_id"] for one in lists}) == 3
    assert lists[1]["request"]["item_id"] == ids[0]
    # Alone, each pod has them all.
    assert (await shop.ids("pdp", item_id=ids[0], num_results=4)) == ids[1:5]


async def test_a_page_keeps_its_rules_and_a_pin_appears_once(shop: RuledShop) -> None:
    wanted = shop.items[77].id
    await shop.publish({"then": [pin(wanted, 1), EXCLUDE_PRIVATE], "priority": 1})
    body = {"pods": [{"pod_id": "home", "num_results": 4}] * 2}
    first, second = [
        [r["data"]["id"] for r in one["response"]["results"]]
        for one in (await page(shop, body))["lists"]
    ]
    assert wanted not in second
    assert not set(first) & set(second)
    assert len(first) == len(second) == 4


async def test_a_wrong_page_is_refused_with_the_place(shop: RuledShop) -> None:
    for body, status, pointer in (
        ({"pods": []}, 400, "/pods"),
        ({"pods": [{"pod_id": "home"}] * 11}, 400, "/pods"),
        ({"pods": [{"pod_id": "home", "num_results": 0}]}, 400, "/pods/0/num_results"),
        ({"pods": [{"pod_id": "home"}], "nothing": 1}, 400, "/nothing"),
        ({"pods": [{"pod_id": "home"}], "pre_filter_expression": {"x": 1}}, 400,
         "/pods/0/pre_filter_expression"),
    ):  # fmt: skip
        problem = await page(shop, body, status)
        assert [error["pointer"] for error in problem["errors"]] == [pointer]
    problem = await page(shop, {"pods": [{"pod_id": "home"}, {"pod_id": "nowhere"}]}, 404)
    assert "/pods/1/pod_id" in problem["detail"]
    await page(shop, {"pods": [{"pod_id": "home"}]}, 401, key="unknown")
