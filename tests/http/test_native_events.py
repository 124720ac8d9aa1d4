"""POST /v1/events: a back end's events, each answered for itself."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from app.domain import fingerprint
from app.domain.catalogue import ItemId
from app.domain.event import Line
from app.domain.merchant import Merchant, MerchantId
from app.http.native_events import NativeEvent, NativeLine, convert
from tests.tracking_shop import TrackingShop, open_shop
from vitrine_sdk import EventType


@pytest.fixture
async def shop(module_database_url: str, module_redis_url: str) -> AsyncIterator[TrackingShop]:
    async with open_shop(module_database_url, module_redis_url) as opened:
        yield opened


VIEW = {"type": "view", "client_id": "c", "item_id": "1"}


async def test_a_list_an_object_and_lines_are_taken(shop: TrackingShop) -> None:
    at = time.time() - 60
    events = [{**VIEW, "time": at + n} for n in range(3)]
    lines = b"\n".join(json.dumps({**VIEW, "time": at + n}).encode() for n in (3, 4)) + b"\n\n"
    for body, media, count in (
        (events, None, 3),
        ({"events": events}, None, 3),
        (lines, "application/x-ndjson; charset=utf-8", 2),
        ([], None, 0),
    ):
        answer = await shop.send(body, media=media)
        assert len(answer["events"]) == count
        assert answer["rejected"] == 0
    rows = await shop.rows()
    assert [row["occurred_at"].timestamp() for row in rows] == pytest.approx(
        [at + n for n in range(5)], abs=0.001
    )
    assert [entry.item_id for entry in await shop.recent("c")] == ["1"] * 5


async def test_each_event_is_answered_for_itself(shop: TrackingShop) -> None:
    answer = await shop.send(
        {
            "events": [
                {**VIEW, "id": "a"},
                {**VIEW, "id": "a", "item_id": "other"},
                {**VIEW, "type": "dance"},
                {"type": "view", "item_id": "1"},
                {"type": "purchase", "user_id": "u"},
                {"type": "purchase", "user_id": "u", "items": [{"item_id": "1"}, {"item_id": ""}]},
                {**VIEW, "time": "2026-01-01T00:00:00"},
                {**VIEW, "time": int(time.time() * 1000)},
                {**VIEW, "time": "1999-12-31T23:59:59Z"},
                {**VIEW, "colour": "red"},
                7,
                {**VIEW, "consent": False},
                {"type": "search", "user_id": "u"},
                {**VIEW, "items": [{"item_id": "2"}]},
                {**VIEW, "item_id": "a\x00b"},
                {"type": "view", "user_id": "u", "items": [{"item_id": "1", "variation_id": "\0"}]},
            ]
        }
    )
    told = [(e["status"], e.get("pointer"), e.get("reason", "")) for e in answer["events"]]
    expected = [
        ("accepted", None, ""),
        ("duplicate", None, ""),
        ("rejected", "/events/2/type", "dance"),
        ("rejected", "/events/3/user_id", "client_id or user_id"),
        ("rejected", "/events/4/items", "at least one item"),
        ("rejected", "/events/5/items/1/item_id", "length >= 1"),
        ("rejected", "/events/6/time", "time zone"),
        ("rejected", "/events/7/time", "not milliseconds"),
        ("rejected", "/events/8/time", "before the year 2000"),
        ("rejected", "/events/9/colour", "no such field"),
        ("rejected", "/events/10", "expected `object`"),
        ("not_tracked", None, ""),
        ("rejected", "/events/12/term", "needs its term"),
        ("rejected", "/events/13/item_id", "not both"),
        ("rejected", "/events/14/item_id", "NUL"),
        ("rejected", "/events/15/items/0/variation_id", "NUL"),
    ]
    for (status, pointer, reason), (status_, pointer_, reason_) in zip(told, expected, strict=True):
        assert (status, pointer) == (status_, pointer_), reason
        assert reason_ in reason
    assert (answer["accepted"], answer["duplicate"], answer["rejected"]) == (1, 1, 13)
    assert [row["item_id"] for row in await shop.rows()] == ["1"]


async def test_what_only_its_meaning_makes_wrong_fails_alone(shop: TrackingShop) -> None:
    events = [VIEW, {"type": "view", "item_id": "1"}, {**VIEW, "consent": False}]
    lines = b"\n".join(json.dumps(event).encode() for event in events)
    for body, media, base in (
        (events, None, ""),
        ({"events": events}, None, "/events"),
        (lines, "application/jsonl", ""),
    ):
        answer = await shop.send(body, media=media)
        told = [(event["status"], event.get("pointer")) for event in answer["events"]]
        assert told == [
            ("accepted", None),
            ("rejected", f"{base}/1/user_id"),
            ("not_tracked", None),
        ]
    assert len(shop.untracked) == 3


async def test_data_is_kept_as_deep_as_it_may_be(shop: TrackingShop) -> None:
    answer = await shop.send([VIEW, {**VIEW, "item_id": "2", "data": {"colour": {"is": "red"}}}])
    assert answer["accepted"] == 2
    payloads = [row["payload"] for row in await shop.rows()]
    assert payloads == [{}, {"colour": {"is": "red"}}]
    deep = b'{"a":' * 300 + b"1" + b"}" * 300
    for body in (
        b'[{"type":"view","client_id":"c","item_id":"1","data":%b}]' % deep,
        b'{"events":[{"type":"view","client_id":"c","item_id":"1","data":%b}]}' % deep,
    ):
        refused = await shop.send(body, status=413)
        assert "nested" in json.dumps(refused)


async def test_history_comes_with_its_own_timestamps(shop: TrackingShop) -> None:
    answer = await shop.send(
        [
            {
                "type": "purchase",
                "time": "2017-05-01T10:00:00+02:00",
                "user_id": "u",
                "order_id": "o",
                "revenue": 12.5,
                "items": [
                    {"item_id": "1", "quantity": 3, "price": 2.5},
                    {"item_id": "2", "variation_id": "2-b"},
                ],
                "data": {"till": 4, "email": "ann@example.com"},
            }
        ]
    )
    assert answer["events"] == [{"status": "accepted"}]
    first, second = await shop.rows()
    assert first["occurred_at"].isoformat() == "2017-05-01T08:00:00+00:00"
    assert (first["quantity"], first["revenue"], second["revenue"]) == (3.0, 7.5, 5.0)
    assert (first["payload"], second["payload"]) == ({"till": 4}, {})
    assert second["variation_id"] == "2-b"


async def test_an_equal_event_with_its_time_is_the_same_and_without_another(
    shop: TrackingShop,
) -> None:
    at = time.time()
    for body, status in (
        ({**VIEW, "time": at}, "accepted"),
        ({**VIEW, "time": at}, "duplicate"),
        (VIEW, "accepted"),
        (VIEW, "accepted"),
    ):
        answer = await shop.send([body])
        assert answer["events"] == [{"status": status}]


async def test_a_conversion_and_an_impression_in_our_words(shop: TrackingShop) -> None:
    events = [
        {"type": "conversion", "user_id": "u", "item_id": "1", "conversion_type": "wishlist"},
        {
            "type": "impression",
            "user_id": "u",
            "items": [{"item_id": "1"}, {"item_id": "2"}],
            "result_id": "r",
            "pod_id": "home",
        },
    ]
    await shop.send(events)
    rows = await shop.rows()
    assert {(r["type"], r["item_id"], r["conversion_type"], r["pod_id"]) for r in rows} == {
        (EventType.CONVERSION, "1", "wishlist", None),
        (EventType.IMPRESSION, "1", None, "home"),
        (EventType.IMPRESSION, "2", None, "home"),
    }


async def test_what_the_call_needs(shop: TrackingShop) -> None:
    answer = await shop.send([VIEW] * 1001, status=413)
    assert "1001 events; 1000 are taken" in answer["message"]
    answer = await shop.send(b"no json", status=400)
    assert "not valid JSON" in answer["message"]
    answer = await shop.send({"evens": []}, status=400)
    assert answer["errors"][0]["pointer"] == "/events"
    assert "ingest" in (await shop.send([VIEW], token="s-reader", status=403))["message"]
    await shop.send([VIEW], token="nobody", status=401)
    assert await shop.rows() == []


async def test_a_line_that_is_no_json_fails_alone(shop: TrackingShop) -> None:
    good = json.dumps(VIEW).encode()
    answer = await shop.send(
        b"\n".join((good, b"{broken", b"[" * 50_000, good)), media="application/x-ndjson"
    )
    assert [e["status"] for e in answer["events"]] == [
        "accepted",
        "rejected",
        "rejected",
        "accepted",
    ]
    assert [e.get("pointer") for e in answer["events"]] == [None, "/1", "/2", None]


def test_an_event_that_is_sent_again_after_an_update_is_the_same() -> None:
    shop = MerchantId("bench")
    known = (
        (fingerprint.of_id(shop, "é1"), "09b1667b9fb04afa6e7df0b5c5a0ee04"),
        (fingerprint.of_order(shop, "o"), "f8bafb6a953e1b369d40bac6419e1482"),
        (
            fingerprint.of_tracked("k", "c", 1, "a", {"x": 1}, 5.0),
            "000000052f09be0b63db92c3e1fc2c50",
        ),
    )
    for made, expected in known:
        assert made.hex() == expected


def test_what_lines_without_a_price_or_a_quantity_brought() -> None:
    def brought(revenue: float | None, *lines: tuple[float, float | None]) -> tuple[float, ...]:
        made = tuple(Line(item_id=ItemId("i"), quantity=q, price=p) for q, p in lines)
        event = convert(
            Merchant(id=MerchantId("m"), name="M"),
            NativeEvent(type="purchase", user_id="u", items=(NativeLine(item_id="i"),)),
            1.0,
        )
        return msgspec.structs.replace(event, lines=made, revenue=revenue).revenues()

    assert brought(9.0, (2.0, 1.5)) == (3.0,)
    assert brought(9.0, (0.0, None)) == brought(9.0, (2.0, None)) == (9.0,)
    assert brought(None, (1.0, None)) == (0.0,)
    assert brought(9.0, (2.0, 1.5), (1.0, None), (2.0, None)) == (3.0, 2.0, 4.0)
    assert brought(9.0, (2.0, 1.5), (0.0, None)) == (3.0, 0.0)
    assert brought(9.0) == ()
