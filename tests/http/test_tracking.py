"""The tracker's calls over HTTP: what is kept of them, and what is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.tracking_shop import TrackingShop, open_shop
from vitrine_sdk import EventType


@pytest.fixture
async def shop(module_database_url: str, module_redis_url: str) -> AsyncIterator[TrackingShop]:
    async with open_shop(module_database_url, module_redis_url) as opened:
        yield opened


def now() -> int:
    """As the client's clock says it: milliseconds."""
    return int(time.time() * 1000)


async def test_a_view_is_in_the_log_and_in_the_history_when_it_is_answered(
    shop: TrackingShop,
) -> None:
    at = now()
    answer = await shop.post(
        "item_detail_load", {"item_id": "7", "item_name": "Shirt", "variation_id": "7-a", "_dt": at}
    )
    assert answer == {"message": "ok"}
    (row,) = await shop.rows()
    assert row["type"] == EventType.VIEW
    assert (row["item_id"], row["variation_id"]) == ("7", "7-a")
    assert (row["client_id"], row["user_id"], row["session"]) == ("client-1", None, 1)
    assert row["occurred_at"].timestamp() == at / 1000
    assert row["learn"]
    assert row["payload"] == {"item_name": "Shirt"}
    (entry,) = await shop.recent("client-1")
    assert (entry.item_id, entry.type, entry.time) == ("7", EventType.VIEW, at / 1000)


async def test_the_same_event_counts_once_and_without_a_time_each_counts(
    shop: TrackingShop,
) -> None:
    event = {"item_id": "7", "_dt": now()}
    await asyncio.gather(*(shop.post("item_detail_load", event) for _ in range(8)))
    assert len(await shop.rows()) == 1
    assert len(await shop.recent("client-1")) == 1
    await shop.post("item_detail_load", {**event, "item_id": "8"})
    for _ in range(2):
        await shop.post("item_detail_load", {"item_id": "9", "_dt": None})
    assert [row["item_id"] for row in await shop.rows()] == ["7", "8", "9", "9"]


async def test_an_order_counts_once_however_it_comes(shop: TrackingShop) -> None:
    lines = [{"item_id": "1", "count": 2, "price": 1.5}, {"item_id": "2"}]
    order = {"items": lines, "order_id": "o-1", "revenue": 10}
    await shop.post("purchase", {**order, "_dt": now()}, section="Products")
    await shop.post("purchase", {**order, "_dt": now() + 5, "i": "client-2"})
    answer = await shop.send(
        [{"type": "purchase", "user_id": "u", "order_id": "o-1", "items": [{"item_id": "3"}]}]
    )
    assert answer["events"] == [{"status": "duplicate"}]
    rows = await shop.rows()
    assert [(r["item_id"], r["quantity"], r["revenue"]) for r in rows] == [
        ("1", 2.0, 3.0),
        ("2", 1.0, 7.0),
    ]
    assert await shop.query("SELECT forever FROM event_id") == [{"forever": True}]


async def test_an_anonymous_history_joins_the_first_user_of_the_client(shop: TrackingShop) -> None:
    await shop.post("item_detail_load", {"item_id": "1", "_dt": now() - 2000})
    await shop.post("item_detail_load", {"item_id": "2", "ui": "ann", "_dt": now() - 1000})
    assert [e.item_id for e in await shop.recent(user_id="ann")] == ["2", "1"]
    assert await shop.recent("client-1") == []
    # Another user on the same client inherits nothing.
    await shop.post("item_detail_load", {"item_id": "3", "ui": "bob", "_dt": now()})
    assert [e.item_id for e in await shop.recent("client-1", "bob")] == ["3"]
    assert [e.item_id for e in await shop.recent(user_id="ann")] == ["2", "1"]
    identities = await shop.query("SELECT client_id, user_id FROM shopper_identity")
    assert identities == [{"client_id": "client-1", "user_id": "ann"}]


async def test_a_purchase_is_ascribed_to_the_click_that_led_to_it(shop: TrackingShop) -> None:
    at = now() - 60_000

    async def click(item: str, result: str, pod: str, seconds: float, **more: Any) -> None:
        body = {"item_id": item, "result_id": result, "pod_id": pod, "strategy_id": f"s-{pod}"}
        body |= {"_dt": at + int(seconds * 1000), **more}
        await shop.post("recommendation_result_click", body)

    await click("1", "r-old", "home", 0)
    await click("1", "r-new", "pdp", 5)
    await click("2", "r-user", "cart", 6, i="another-device", ui="ann")
    await click("4", "r-late", "home", 50)
    purchase = {"items": [{"item_id": n} for n in "1234"], "order_id": "o", "ui": "ann"}
    await shop.post("purchase", {**purchase, "_dt": at + 40_000})
    bought = [r for r in await shop.rows() if r["type"] == EventType.PURCHASE]
    assert [(r["item_id"], r["result_id"], r["pod_id"], r["strategy"]) for r in bought] == [
        ("1", "r-new", "pdp", "s-pdp"),
        ("2", "r-user", "cart", "s-cart"),
        ("3", None, None, None),
        ("4", None, None, None),
    ]


async def test_a_click_too_long_ago_leads_to_nothing(shop: TrackingShop) -> None:
    day = 86_400_000
    click = {"item_id": "1", "result_id": "r", "pod_id": "home"}
    await shop.post("recommendation_result_click", {**click, "_dt": now() - 8 * day})
    await shop.post("purchase", {"items": [{"item_id": "1"}], "order_id": "o", "_dt": now()})
    assert [r["result_id"] for r in await shop.rows()] == ["r", None]
    await shop.post("recommendation_result_click", {**click, "_dt": now() - 6 * day})
    await shop.post("purchase", {"items": [{"item_id": "1"}], "order_id": "p", "_dt": now()})
    assert [r["result_id"] for r in await shop.rows()] == ["r", "r", None, "r"]


@pytest.mark.parametrize(
    "agent",
    [
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "Mozilla/5.0 (compatible; bingbot/2.0)",
        "facebookexternalhit/1.1",
        "Our-Price-Watcher/3",
    ],
)
async def test_robots_are_kept_apart(shop: TrackingShop, agent: str) -> None:
    shop.settings(robot_agents=("price-watcher",))
    await shop.post("item_detail_load", {"item_id": "1"}, headers={"User-Agent": agent})
    (row,) = await shop.rows()
    assert not row["learn"]
    assert row["payload"]["traffic"] == "robot"
    assert await shop.recent("client-1") == []


@pytest.mark.parametrize(
    ("address", "user", "learn"),
    [
        ("10.1.2.3", None, False),
        ("10.2.2.3", None, True),
        ("2001:db8::7", None, False),
        ("192.0.2.1, 10.1.2.3", None, False),
        ("10.1.2.3, 192.0.2.1", None, True),  # the last is the one that a trusted proxy saw
        ("192.0.2.1", "staff", False),
        (None, "ann", True),
    ],
)
async def test_the_merchants_own_traffic_is_kept_apart(
    shop: TrackingShop, address: str | None, user: str | None, learn: bool
) -> None:
    shop.settings(
        internal_ips=("10.1.0.0/16", "2001:db8::/32", "no network"), internal_user_ids=("staff",)
    )
    headers = {"X-Forwarded-For": address} if address else {}
    await shop.post("item_detail_load", {"item_id": "1", "ui": user}, headers=headers)
    assert [row["learn"] for row in await shop.rows()] == [learn]


@pytest.mark.parametrize(
    ("settings", "said", "headers", "kept"),
    [
        ({}, None, {}, True),
        ({}, "false", {}, False),
        ({}, "0", {}, False),
        ({}, None, {"Sec-GPC": "1"}, False),
        ({}, None, {"DNT": "1"}, False),
        ({}, None, {"DNT": "0"}, True),
        ({}, "true", {"Sec-GPC": "1"}, True),
        ({"privacy_signals": False}, None, {"Sec-GPC": "1"}, True),
        ({"privacy_signals": False}, "false", {}, False),
        ({"require_consent": True}, None, {}, False),
        ({"require_consent": True}, "true", {}, True),
    ],
)
async def test_who_does_not_consent_is_answered_and_not_tracked(
    shop: TrackingShop,
    settings: dict[str, bool],
    said: str | None,
    headers: dict[str, str],
    kept: bool,
) -> None:
    shop.settings(**settings)
    query = {} if said is None else {"consent": said}
    answer = await shop.post("item_detail_load", {"item_id": "1"}, headers=headers, **query)
    assert answer == {"message": "ok"}
    assert len(await shop.rows()) == kept
    assert len(await shop.recent("client-1")) == kept
    assert len(shop.untracked) == (not kept)


async def test_consent_may_be_said_in_the_body(shop: TrackingShop) -> None:
    await shop.post("item_detail_load", {"item_id": "1", "consent": False})
    assert await shop.rows() == []


async def test_personal_data_does_not_reach_the_log(shop: TrackingShop) -> None:
    await shop.post(
        "search_submit",
        {
            "search_term": "gift for ann@example.com",
            "user_input": "+49 170 1234567",
            "userEmail": "ann@example.com",
            "note": "card 4111 1111 1111 1111 from 192.0.2.77",
            "url": "https://shop.example/p/7?mail=ann@example.com&utm_source=news#top",
            "order": {"customer": {"first_name": "Ann", "size": "M"}},
            "nul": "a\x00b",
        },
    )
    (row,) = await shop.rows()
    assert row["term"] == "gift for <email_omitted>"
    assert row["payload"] == {
        "user_input": "<phone_omitted>",
        "note": "card <card_omitted> from <ip_omitted>",
        "url": "https://shop.example/p/7?utm_source=news",
        "order": {"customer": {"size": "M"}},
        "nul": "ab",
    }


async def test_conversions_of_the_merchants_own_types(shop: TrackingShop) -> None:
    item = {"item_id": "1", "revenue": "9.99", "search_term": "TERM_UNKNOWN"}
    at = now()
    await shop.post("conversion", {**item, "_dt": at})
    await shop.post("conversion", {**item, "type": "like", "_dt": at + 1})
    own = {"type": "tasting", "is_custom_type": True, "display_name": "Tasting"}
    await shop.post("conversion", {**item, **own, "_dt": at + 2})
    answer = await shop.post("conversion", {**item, "type": "tasting"}, status=400)
    assert "'tasting' is no conversion type of this merchant" in answer["message"]
    rows = await shop.rows()
    assert [(r["type"], r["conversion_type"]) for r in rows] == [
        (EventType.CART, None),
        (EventType.CONVERSION, "like"),
        (EventType.CONVERSION, "tasting"),
    ]
    assert {r["term"] for r in rows} == {None}
    assert [round(r["revenue"], 2) for r in rows] == [9.99] * 3


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"no json", "not valid JSON"),
        (b"[1, 2]", "expected `object`"),
        (b'"text"', "expected `object`"),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, "nested"),
        ({"item_id": "1", "s": "x"}, "s: must be a number"),
        ({"item_id": "1", "s": 1.5}, "s: must be a whole number"),
        ({"item_id": "1", "_dt": "yesterday"}, "_dt: must be a number"),
        ({"item_id": {"a": 1}}, "item_id: must be a string"),
        ({"item_id": "x" * 257}, "item_id: has 257 characters"),
        ({"item_id": "a\x00b"}, "item_id: must not hold a NUL character"),
        ({"item_id": "1", "i": ["a"]}, "i: must be a string"),
    ],
)
async def test_bad_input_names_the_field_and_changes_nothing(
    shop: TrackingShop, body: Any, field: str
) -> None:
    status = 413 if field == "nested" or "257" in field else 400
    answer = await shop.post("item_detail_load", body, status=status)
    assert field in answer["message"]
    assert await shop.rows() == []


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ("x", "items: must be a list"),
        ([1], "/items/0: must be an object"),
        ([{"item_id": "1"}, {"item_id": "2", "count": -1}], "/items/1/count: must be a number"),
        ([{"item_id": "1", "price": "dear"}], "/items/0/price: must be a number"),
        ([{"item_id": "1"}] * 1001, "items: holds 1001 items"),
    ],
)
async def test_a_bad_purchase_names_the_line(shop: TrackingShop, items: Any, field: str) -> None:
    answer = await shop.post("purchase", {"items": items}, status=413 if "1001" in field else 400)
    assert field in answer["message"]
    assert await shop.rows() == []


async def test_a_body_without_bound_is_refused(shop: TrackingShop) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(400):
            yield b" " * 1024

    for body in (b" " * 300_000, endless()):
        async with shop.http.post(
            f"{shop.url}/v2/behavioral_action/purchase?key={shop.key}", data=body
        ) as response:
            assert response.status == 413
            assert "too large" in (await response.json())["message"]


async def test_unknown_keys_actions_and_names_are_refused(shop: TrackingShop) -> None:
    answer = await shop.post("item_detail_load", {"item_id": "1", "key": "nobody's"}, status=401)
    assert "key" in answer["message"]
    answer = await shop.post("dance", {"item_id": "1"}, status=400)
    assert "action: there is no action 'dance'" in answer["message"]
    for path, message in (
        ("/behavior", "key"),
        (f"/behavior?key={shop.key}", "there is no action ''"),
        (f"/autocomplete/shirt/dance?key={shop.key}", "there is no 'dance'"),
        (f"/behavior?key={shop.key}&" + "a=1&" * 300, "at most 200"),
    ):
        async with shop.http.get(shop.url + path) as response:
            assert response.status in (400, 413)
            assert response.content_type == "application/json"
            assert message in (await response.json())["message"]
    assert await shop.rows() == []


async def test_a_term_may_hold_any_character(shop: TrackingShop) -> None:
    for term in ("a%2Fb", "%7Bx%7D", "%25", "caf%C3%A9", "a%20b"):
        url = f"{shop.url}/autocomplete/{term}/search?key={shop.key}&i=c&s=1&_dt={now()}"
        async with shop.http.get(url) as response:
            assert response.status == 200, await response.text()
    terms = {row["term"] for row in await shop.rows()}
    assert terms == {"a/b", "{x}", "%", "café", "a b"}


async def test_a_clock_that_is_wrong_is_not_believed(shop: TrackingShop) -> None:
    before = time.time()
    for dt in (1, now() + 3_600_000, 0, 10**18, -5):
        await shop.post("item_detail_load", {"item_id": "1", "_dt": dt})
    rows = await shop.rows()
    assert len(rows) == 5
    assert all(before - 1 <= row["occurred_at"].timestamp() <= time.time() for row in rows)


async def test_only_what_was_viewed_is_an_impression(shop: TrackingShop) -> None:
    view = {"items": [{"item_id": n} for n in "123"], "num_results_viewed": 2}
    await shop.post(
        "recommendation_result_view", {**view, "pod_id": "home", "result_id": "r", "_dt": now()}
    )
    rows = await shop.rows()
    assert [(r["item_id"], r["pod_id"], r["result_id"]) for r in rows] == [
        ("1", "home", "r"),
        ("2", "home", "r"),
    ]
    assert await shop.recent("client-1") == []  # what was shown is no history
