"""Constructor's storefront and node trackers, unmodified: every method that each of them has."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.tracking_shop import TrackingShop, open_shop
from vitrine_sdk import EventType

USER = {"sessionId": 1, "clientId": "client-1"}


@pytest.fixture
async def shop(module_database_url: str, module_redis_url: str) -> AsyncIterator[TrackingShop]:
    async with open_shop(module_database_url, module_redis_url) as opened:
        yield opened


@pytest.fixture
def storefront(node_clients: Any, shop: TrackingShop) -> Any:
    return node_clients.storefront(shop.url, shop.key, mediaServiceUrl=shop.url)


ITEM = {"itemId": "1", "itemName": "Shirt", "variationId": "1-a"}
ITEMS = [{"itemId": "1", "itemName": "Shirt"}, {"itemId": "2", "itemName": "Hat"}]
AGENT = {"intent": "a gift", "intentResultId": "ir", "searchResultId": "sr", "threadId": "t"}
QUIZ = {"quizId": "q", "quizVersionId": "v", "quizSessionId": "s", "url": "https://shop.example/q"}
RESULT = {"resultId": "r", "resultCount": 2, "resultPage": 1, "section": "Products"}
QUESTION = {**ITEM, "question": "Is it warm?", "threadId": "t", "questionTopic": "warmth"}

OTHER = (EventType.OTHER, None, None)


def found(type_: EventType, item: str | None = "1", term: str | None = None) -> Any:
    return (type_, item, term)


# method, arguments, what is in the log: (type, item, term) a row
STOREFRONT: list[tuple[str, list[Any], list[Any]]] = [
    ("trackSessionStartV2", [], [OTHER]),
    ("trackSessionStart", [], [OTHER]),
    ("trackInputFocusV2", ["shi"], [OTHER]),
    ("trackInputFocus", [], [OTHER]),
    (
        "trackItemDetailLoad",
        [{**ITEM, "url": "https://shop.example/1", "analyticsTags": {"a": "b"}}],
        [found(EventType.VIEW)],
    ),
    (
        "trackAutocompleteSelectV2",
        ["Shirt", {"userInput": "shi", "section": "Products", "tr": "click", "itemId": "1"}],
        [found(EventType.CLICK, "1", "shi")],
    ),
    (
        "trackAutocompleteSelect",
        ["Shirt", {"originalQuery": "shi", "section": "Products", "itemId": "1", "groupId": "g"}],
        [found(EventType.CLICK, "1", "shi")],
    ),
    (
        "trackAutocompleteSelect",
        ["blue shirt", {"originalQuery": "blu", "section": "Search Suggestions"}],
        [found(EventType.SEARCH, None, "blu")],
    ),
    (
        "trackSearchSubmitV2",
        ["shirt", {"userInput": "shi", "groupId": "g"}],
        [found(EventType.SEARCH, None, "shirt")],
    ),
    (
        "trackSearchSubmit",
        ["a/b {c} 100%", {"originalQuery": "a/b", "groupId": "g", "displayName": "G"}],
        [found(EventType.SEARCH, None, "a/b {c} 100%")],
    ),
    (
        "trackSearchResultsLoaded",
        ["shirt", {**RESULT, "items": ITEMS, "url": "https://shop.example/s?q=shirt"}],
        [found(EventType.SEARCH, None, "shirt")],
    ),
    (
        "trackSearchResultClickV2",
        ["shirt", {**ITEM, **RESULT}],
        [found(EventType.CLICK, "1", "shirt")],
    ),
    (
        "trackSearchResultClick",
        ["shirt", {**ITEM, **RESULT}],
        [found(EventType.CLICK, "1", "shirt")],
    ),
    ("trackConversion", ["shirt", {**ITEM, "revenue": 9.5}], [found(EventType.CART, "1", "shirt")]),
    ("trackConversion", [None, {**ITEM, "type": "like"}], [found(EventType.CONVERSION)]),
    (
        "trackConversion",
        [None, {**ITEM, "type": "tasting", "isCustomType": True, "displayName": "Tasting"}],
        [found(EventType.CONVERSION)],
    ),
    (
        "trackPurchase",
        [{"items": [{**ITEM, "count": 2, "price": 3}], "revenue": 6, "orderId": "order-1"}],
        [found(EventType.PURCHASE)],
    ),
    (
        "trackRecommendationView",
        [{**RESULT, "items": ITEMS, "podId": "home", "numResultsViewed": 2, "url": "u"}],
        [found(EventType.IMPRESSION), found(EventType.IMPRESSION, "2")],
    ),
    (
        "trackRecommendationClick",
        [{**ITEM, **RESULT, "podId": "home", "strategyId": "popular", "seedItemIds": ["2"]}],
        [found(EventType.CLICK)],
    ),
    ("trackResultsImpressionView", [{"items": ITEMS, "searchTerm": "shirt"}], [OTHER]),
    ("trackMediaImpressionView", [{"bannerAdId": "b", "placementId": "p"}], [OTHER]),
    ("trackMediaImpressionClick", [{"bannerAdId": "b", "placementId": "p"}], [OTHER]),
    (
        "trackBrowseResultsLoaded",
        [{**RESULT, "url": "u", "filterName": "group_id", "filterValue": "g", "items": ITEMS}],
        [OTHER],
    ),
    (
        "trackBrowseResultClick",
        [{**ITEM, **RESULT, "filterName": "group_id", "filterValue": "g"}],
        [found(EventType.CLICK)],
    ),
    (
        "trackBrowseRedirect",
        [{"searchTerm": "shirt", "redirectToUrl": "u", "filterName": "g", "filterValue": "g"}],
        [OTHER],
    ),
    ("trackGenericResultClick", [ITEM], [found(EventType.CLICK)]),
    ("trackQuizResultsLoaded", [{**QUIZ, **RESULT, "items": ITEMS}], [OTHER]),
    ("trackQuizResultClick", [{**QUIZ, **ITEM, **RESULT}], [found(EventType.CLICK)]),
    ("trackQuizConversion", [{**QUIZ, **ITEM, "revenue": "9.5"}], [found(EventType.CART)]),
    *(
        (f"track{name}{method}", [arguments], rows)
        for name in ("Agent", "Assistant")
        for method, arguments, rows in (
            ("Submit", AGENT, [OTHER]),
            ("ResultLoadStarted", AGENT, [OTHER]),
            ("ResultLoadFinished", {**AGENT, "searchResultCount": 2}, [OTHER]),
            ("ResultClick", {**AGENT, **ITEM}, [found(EventType.CLICK)]),
            ("ResultView", {**AGENT, "items": ITEMS, "numResultsViewed": 1}, [OTHER]),
            ("SearchSubmit", {**AGENT, "searchTerm": "gift"}, [OTHER]),
        )
    ),
    (
        "trackProductInsightsAgentViews",
        [{**ITEM, "questions": [{"question": "?"}], "viewTimespans": [{"start": "a", "end": "b"}]}],
        [OTHER],
    ),
    ("trackProductInsightsAgentView", [{**ITEM, "questions": [{"question": "?"}]}], [OTHER]),
    ("trackProductInsightsAgentOutOfView", [ITEM], [OTHER]),
    ("trackProductInsightsAgentFocus", [ITEM], [OTHER]),
    ("trackProductInsightsAgentQuestionClick", [QUESTION], [OTHER]),
    ("trackProductInsightsAgentQuestionSubmit", [QUESTION], [OTHER]),
    (
        "trackProductInsightsAgentAnswerView",
        [{**QUESTION, "answerText": "Yes", "qnaResultId": "a", "items": ITEMS}],
        [OTHER],
    ),
    ("trackProductInsightsAgentAnswerFeedback", [{**ITEM, "feedbackLabel": "thumbs_up"}], [OTHER]),
    (
        "trackProductInsightsAgentResultClick",
        [{**QUESTION, "seedItemId": "2", "position": 1}],
        [found(EventType.CLICK)],
    ),
]


async def test_every_call_of_the_storefront_tracker(shop: TrackingShop, storefront: Any) -> None:
    known = set(await storefront("tracker", "$methods"))
    assert {method for method, _, _ in STOREFRONT} == {m for m in known if m.startswith("track")}
    for method, arguments, expected in STOREFRONT:
        assert await storefront("tracker", method, *arguments) is True
        (request,) = storefront.requests
        assert request["status"] == 200, request
        rows = await shop.query("DELETE FROM event RETURNING *")
        rows.sort(key=lambda row: row["item_id"] or "")
        assert [(r["type"], r["item_id"], r["term"]) for r in rows] == expected, method
        assert {r["client_id"] for r in rows} == {"client-1"}
        assert {r["session"] for r in rows} == {1}
        assert {r["section"] for r in rows} <= {"Products", "Search Suggestions"}
        assert {r["learn"] for r in rows} == {expected[0][0] is not EventType.OTHER}
        if "analyticsTags" in str(arguments):
            assert rows[0]["payload"]["analytics_tags"] == {"a": "b"}


# The node client's tracker: method, arguments before the user's, what is in the log.
BACK_END: list[tuple[str, list[Any], list[Any]]] = [
    ("trackSessionStart", [], [OTHER]),
    ("trackInputFocus", [], [OTHER]),
    ("trackItemDetailLoad", [{**ITEM, "url": "u"}], [found(EventType.VIEW)]),
    (
        "trackAutocompleteSelect",
        ["Shirt", {"originalQuery": "shi", "section": "Products", "groupId": "g"}],
        [found(EventType.SEARCH, None, "shi")],
    ),
    (
        "trackSearchSubmit",
        ["shirt", {"originalQuery": "s"}],
        [found(EventType.SEARCH, None, "shirt")],
    ),
    (
        "trackSearchResultsLoaded",
        ["shirt", {**RESULT, "items": ["1", "2"]}],
        [found(EventType.SEARCH, None, "shirt")],
    ),
    ("trackSearchResultClick", ["shirt", ITEM], [found(EventType.CLICK, "1", "shirt")]),
    ("trackConversion", ["shirt", {**ITEM, "revenue": 9.5}], [found(EventType.CART, "1", "shirt")]),
    (
        "trackPurchase",
        [{"items": [{**ITEM, "count": 2, "price": 3}], "revenue": 6, "orderId": "order-1"}],
        [found(EventType.PURCHASE)],
    ),
    (
        "trackRecommendationView",
        [{**RESULT, "items": ITEMS, "podId": "home", "numResultsViewed": 2, "url": "u"}],
        [found(EventType.IMPRESSION), found(EventType.IMPRESSION, "2")],
    ),
    (
        "trackRecommendationClick",
        [{**ITEM, **RESULT, "podId": "home", "strategyId": "popular"}],
        [found(EventType.CLICK)],
    ),
    (
        "trackBrowseResultsLoaded",
        [{**RESULT, "url": "u", "filterName": "group_id", "filterValue": "g", "items": ITEMS}],
        [OTHER],
    ),
    (
        "trackBrowseResultClick",
        [{**ITEM, **RESULT, "filterName": "group_id", "filterValue": "g"}],
        [found(EventType.CLICK)],
    ),
    ("trackGenericResultClick", [ITEM], [found(EventType.CLICK)]),
]


async def test_every_call_of_the_node_clients_tracker(
    shop: TrackingShop, node_clients: Any
) -> None:
    client = node_clients.catalogue(shop.url, shop.key, "s-ingest")
    known = set(await client("tracker", "$methods"))
    assert {method for method, _, _ in BACK_END} == {m for m in known if m.startswith("track")}
    for method, arguments, expected in BACK_END:
        assert await client("tracker", method, *arguments, USER) is True
        (request,) = client.requests
        assert request["status"] == 200, request
        rows = await shop.query("DELETE FROM event RETURNING *")
        rows.sort(key=lambda row: row["item_id"] or "")
        assert [(r["type"], r["item_id"], r["term"]) for r in rows] == expected, method
        assert {(r["client_id"], r["session"]) for r in rows} == {("client-1", 1)}


async def test_a_known_user_and_the_order_of_a_day(shop: TrackingShop, node_clients: Any) -> None:
    """What a shopper does on a page, in the client's own words."""
    anonymous = node_clients.storefront(shop.url, shop.key, client_id="c", session_id=7)
    await anonymous("tracker", "trackItemDetailLoad", {**ITEM, "url": "u"})
    known = node_clients.storefront(shop.url, shop.key, client_id="c", session_id=7, userId="ann")
    click = {**ITEM, "itemId": "2", "resultId": "r-1", "podId": "home", "strategyId": "popular"}
    await known("tracker", "trackRecommendationClick", click)
    order = {"items": [{"itemId": "2", "count": 1, "price": 5}], "revenue": 5, "orderId": "o-9"}
    for _ in range(2):  # the page was loaded again
        await known("tracker", "trackPurchase", order)
    rows = await shop.rows()
    assert [(r["item_id"], r["user_id"], r["result_id"]) for r in rows] == [
        ("1", None, None),
        ("2", "ann", "r-1"),
        ("2", "ann", "r-1"),
    ]
    assert rows[2]["type"] == EventType.PURCHASE
    assert (rows[2]["pod_id"], rows[2]["strategy"]) == ("home", "popular")
    history = await shop.recent("c", "ann")
    assert [entry.item_id for entry in history] == ["2", "2", "1"]


async def test_a_second_key_gets_a_copy(shop: TrackingShop, node_clients: Any) -> None:
    shop.keys.by_key["second"] = shop.merchant
    client = node_clients.storefront(shop.url, shop.key, additionalTrackingKeys=["second"])
    await client("tracker", "trackItemDetailLoad", {**ITEM, "url": "u"})
    deadline = time.monotonic() + 10
    while len(rows := await shop.rows()) < 2:
        assert time.monotonic() < deadline, rows
    assert [row["item_id"] for row in rows] == ["1", "1"]


async def test_errors_reach_the_clients_as_they_expect_them(
    shop: TrackingShop, node_clients: Any
) -> None:
    storefront = node_clients.storefront(shop.url, "nobody")
    node = node_clients.catalogue(shop.url, "nobody", "x")
    for client, arguments in ((storefront, [ITEM]), (node, [ITEM, USER])):
        await client("tracker", "trackItemDetailLoad", *arguments)
        assert [request["status"] for request in client.requests] == [401]
        assert client.messages == ["key: there is no index with this key"]
    assert await shop.rows() == []
