"""The gate for rules: recent requests are asked again before a draft goes in force."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from app.domain.merchant import Role
from app.domain.rule_gate import RuleGateRule, carried, judge
from app.postgres.database import connect, raw
from app.postgres.served_samples import PostgresServedSamples
from tests.ruled_shop import RULE_SETS, RuledShop, open_shop, supermarket
from vitrine_sdk import EventType

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAIN = f"{RULE_SETS}/main"
ANY = {"If-Match": "*"}
ASKED = 6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(
    module_database_url: str, create_merchant: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RuledShop]:
    """Whose first item brings all the money, and where the first five were asked for lately."""
    merchant = await create_merchant(module_database_url, "supermarket")
    database = connect(module_database_url, pool=2)
    try:
        directory = tmp_path_factory.mktemp("gate")
        async with open_shop(database, merchant, directory, supermarket()) as shop:
            await shop.publish()
            shop.samples.recorded.clear()
            for _ in range(ASKED):
                await shop.answer("home", num_results=5)
            stored = PostgresServedSamples(database)
            for sample in shop.samples.recorded:
                stored.record(sample)
            await stored.flush()
            async with database.merchant(shop.merchant) as connection:
                driver = await raw(connection)
                now = dt.datetime.now(dt.UTC)
                await driver.execute("SELECT ensure_event_partitions($1)", [now.date()])
                await driver.execute(
                    "INSERT INTO event (merchant_id, occurred_at, type, action, section, item_id,"
                    " revenue) VALUES ($1, $2, $3, 'purchase', 'Products', $4, 80)",
                    *(shop.merchant, now, int(EventType.PURCHASE), shop.items[0].id),
                )
            yield shop
    finally:
        await database.close()


async def draft(shop: RuledShop, *actions: Any) -> None:
    rules = [{"id": "r", "then": list(actions)}] if actions else []
    await shop.call("PUT", MAIN, {"id": "main", "rules": rules}, headers=ANY)


def exclude(*ids: str) -> dict[str, Any]:
    return {"type": "exclude", "items": {"type": "items", "ids": list(ids)}}


async def test_a_draft_that_costs_revenue_is_refused_and_that_is_kept(shop: RuledShop) -> None:
    await draft(shop, exclude(shop.items[0].id))
    problem = await shop.call("POST", f"{MAIN}/publish", {}, headers=ANY, status=409)
    assert "carry 0.00" in problem["detail"]
    assert "80.00" in problem["detail"]
    assert "force" in problem["detail"]
    assert (await shop.ids())[0] == shop.items[0].id
    audit = await shop.call("GET", "/admin/v1/audit", role=Role.ADMINISTRATOR)
    refused = audit["items"][0]
    assert refused["action"] == "rule_set.refuse"
    assert refused["after"]["before"]["value"] == 80.0


async def test_the_dry_run_tells_the_same_and_changes_nothing(shop: RuledShop) -> None:
    await draft(shop, exclude(shop.items[0].id))
    before = (await shop.call("GET", f"{MAIN}/versions"))["items"]
    verdict = await shop.call("POST", f"{MAIN}/judge", role=Role.READER)
    assert (verdict["passed"], verdict["judged"], verdict["requests"]) == (False, True, ASKED)
    assert (verdict["changed"], verdict["emptied"]) == (1.0, 0.0)
    assert verdict["difference"] == {"value": -80.0, "low": -80.0, "high": -80.0}
    assert (await shop.call("GET", f"{MAIN}/versions"))["items"] == before


async def test_what_is_forced_is_in_force_with_the_verdict(shop: RuledShop) -> None:
    await draft(shop, exclude(shop.items[0].id))
    version = await shop.call(
        "POST", f"{MAIN}/publish", {"force": True, "reason": "recall"}, headers=ANY, status=201
    )
    assert (version["verdict"]["passed"], version["verdict"]["forced"]) == (False, True)
    await shop.serving.refresh()
    assert (await shop.ids())[0] == shop.items[1].id
    kept = await shop.call("GET", f"{MAIN}/versions/{version['number']}")
    assert kept["verdict"] == version["verdict"]
    # Back again: the lists carry more than now, and a version that comes back is not asked.
    await draft(shop)
    better = await shop.call("POST", f"{MAIN}/publish", {}, headers=ANY, status=201)
    # Before, nothing that the lists held was paid for.
    assert (better["verdict"]["passed"], better["verdict"]["judged"]) == (True, False)
    assert better["verdict"]["after"]["value"] == 80.0
    back = {"number": version["number"]}
    restored = await shop.call("POST", f"{MAIN}/roll-back", back, headers=ANY, status=201)
    assert "verdict" not in restored or restored["verdict"] is None
    await draft(shop)
    await shop.call("POST", f"{MAIN}/publish", {}, headers=ANY, status=201)
    await shop.serving.refresh()


async def test_what_costs_less_than_the_margin_passes(shop: RuledShop) -> None:
    # From the first to the second place: 80 / log2(3), 37 % less. Not so within the list's tail.
    await draft(shop, {"type": "pin", "item_id": shop.items[9].id, "slot": 1})
    await shop.call("POST", f"{MAIN}/publish", {}, headers=ANY, status=409)
    await draft(shop, {"type": "pin", "item_id": shop.items[9].id, "slot": 2})
    version = await shop.call("POST", f"{MAIN}/publish", {}, headers=ANY, status=201)
    assert version["verdict"]["passed"]
    assert version["verdict"]["changed"] == 1.0
    await draft(shop)
    await shop.call("POST", f"{MAIN}/publish", {}, headers=ANY, status=201)
    await shop.serving.refresh()


async def test_lists_left_empty_are_refused(shop: RuledShop) -> None:
    await draft(shop, exclude(*[item.id for item in shop.items]))
    verdict = await shop.call("POST", f"{MAIN}/judge")
    assert verdict["emptied"] == 1.0
    await shop.call("POST", f"{MAIN}/publish", {}, headers=ANY, status=409)


async def test_a_draft_of_another_version_than_the_one_named_is_not_published(
    shop: RuledShop,
) -> None:
    await draft(shop)
    first = shop.headers["ETag"]
    await draft(shop, exclude(shop.items[5].id))
    await shop.call("POST", f"{MAIN}/publish", {}, headers={"If-Match": first}, status=412)


async def test_the_figures() -> None:
    assert carried(["a", "b", "c"], {"a": 8.0, "c": 3.0}) == pytest.approx(8 + 3 / 2)
    rule = RuleGateRule(margin=0.5, least=2)
    money = {"a": 8.0}
    few = judge(rule, [(["a"], [])], money)
    assert (few.passed, few.judged) == (True, False)
    half = judge(rule, [(["a"], ["a"]), (["a"], ["b"])], money)
    assert (half.passed, half.judged, half.changed) == (True, True, 0.5)
    gone = judge(rule, [(["a"], ["b"])] * 2, money)
    assert not gone.passed
    nothing = judge(rule, [(["x"], ["y"])] * 2, money)
    assert (nothing.passed, nothing.judged) == (True, False)
    empty = judge(rule, [(["x"], [])] * 2, money)
    assert (empty.passed, empty.judged) == (False, True)
