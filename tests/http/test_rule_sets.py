"""Rule sets over HTTP: drafts, publication, rolling back, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.domain.merchant import Role
from app.postgres.database import Database
from tests.ruled_shop import RULE_SETS, RuledShop, open_shop, supermarket

MAIN = f"{RULE_SETS}/main"
ANY = {"If-Match": "*"}
EXCLUDE_PRIVATE = {
    "id": "no-own-brand",
    "then": [
        {
            "type": "exclude",
            "items": {"type": "is", "attribute": "brand", "values": ["Private"]},
        }
    ],
}


@pytest.fixture
async def shop(database: Database, merchant: Any, tmp_path: Path) -> AsyncIterator[RuledShop]:
    async with open_shop(database, merchant, tmp_path, supermarket()) as shop:
        yield shop


def pointers(problem: Any) -> list[str]:
    return [error["pointer"] for error in problem["errors"]]


async def test_a_draft_is_created_read_changed_and_deleted(shop: RuledShop) -> None:
    document = {"id": "main", "display_name": "Main", "rules": [EXCLUDE_PRIVATE]}
    made = await shop.call("POST", RULE_SETS, document, status=201)
    assert shop.headers["Location"] == MAIN
    assert shop.etag == '"1"'
    assert made["rules"][0]["id"] == "no-own-brand"
    assert made["published"] is None
    assert await shop.call("GET", MAIN, role=Role.READER) == made
    changed = {**document, "display_name": "Changed", "rules": []}
    await shop.call("PUT", MAIN, changed, headers={"If-Match": '"1"'})
    assert shop.etag == '"2"'
    (row,) = (await shop.call("GET", RULE_SETS))["items"]
    assert (row["id"], row["display_name"], row["rule_count"]) == ("main", "Changed", 0)
    await shop.call("DELETE", MAIN, status=204, headers={"If-Match": '"2"'})
    await shop.call("GET", MAIN, status=404)


async def test_a_draft_is_not_served_before_it_is_published(shop: RuledShop) -> None:
    before = await shop.ids()
    await shop.call("POST", RULE_SETS, {"id": "main", "rules": [EXCLUDE_PRIVATE]}, status=201)
    await shop.serving.refresh()
    assert await shop.ids() == before
    version = await shop.call(
        "POST", f"{MAIN}/publish", {"reason": "autumn"}, status=201, headers={"If-Match": '"1"'}
    )
    assert (version["number"], version["reason"]) == (1, "autumn")
    await shop.serving.refresh()
    after = await shop.shown()
    assert [shop.value(item, "brand") for item in after] == ["National"] * 10
    assert (await shop.call("GET", MAIN))["published"] == 1


async def test_one_rule_is_changed_added_and_taken_out(shop: RuledShop) -> None:
    await shop.call("POST", RULE_SETS, {"id": "main", "rules": [EXCLUDE_PRIVATE]}, status=201)
    new = {"id": "new", "then": [{"type": "pin", "item_id": "x", "slot": 1}]}
    await shop.call("PUT", f"{MAIN}/rules/new", new, headers={"If-Match": '"1"'})
    await shop.call("PUT", f"{MAIN}/rules/new", new, status=412, headers={"If-Match": '"1"'})
    off = {**EXCLUDE_PRIVATE, "enabled": False}
    await shop.call("PUT", f"{MAIN}/rules/no-own-brand", off, headers={"If-Match": '"2"'})
    draft = await shop.call("GET", MAIN)
    assert [(rule["id"], rule.get("enabled", True)) for rule in draft["rules"]] == [
        ("no-own-brand", False),
        ("new", True),
    ]
    await shop.call("PUT", f"{MAIN}/rules/other", new, status=400, headers=ANY)
    await shop.call("DELETE", f"{MAIN}/rules/new", status=204, headers={"If-Match": '"3"'})
    await shop.call("DELETE", f"{MAIN}/rules/new", status=404, headers=ANY)
    await shop.call("GET", f"{MAIN}/rules/new", status=404)
    assert (await shop.call("GET", f"{MAIN}/rules/no-own-brand"))["id"] == "no-own-brand"


async def test_rolling_back_gives_the_first_version_s_answers_to_the_byte(shop: RuledShop) -> None:
    async def body() -> Any:
        answer = await shop.answer("pdp", item_id=shop.items[3].id)
        del answer["result_id"]
        return answer

    await shop.publish(EXCLUDE_PRIVATE)
    first = await body()
    await shop.publish({"then": [{"type": "pin", "item_id": shop.items[50].id, "slot": 2}]})
    assert await body() != first
    back = await shop.call(
        "POST", f"{MAIN}/roll-back", {"number": 1, "reason": "too much"}, status=201, headers=ANY
    )
    assert (back["number"], back["restores"]) == (3, 1)
    await shop.serving.refresh()
    assert await body() == first
    versions = await shop.call("GET", f"{MAIN}/versions", limit=2)
    assert [row["number"] for row in versions["items"]] == [3, 2]
    rest = await shop.call("GET", f"{MAIN}/versions", cursor=versions["next_cursor"])
    assert [row["number"] for row in rest["items"]] == [1]
    assert "rules" not in rest["items"][0] or rest["items"][0]["rules"] is None
    one, three = [await shop.call("GET", f"{MAIN}/versions/{number}") for number in (1, 3)]
    assert one["rules"] == three["rules"]
    assert one["rules"]["rules"][0]["id"] == "no-own-brand"


async def test_withdrawing_leaves_nothing_in_force(shop: RuledShop) -> None:
    before = await shop.ids()
    await shop.publish(EXCLUDE_PRIVATE)
    await shop.call("DELETE", MAIN, status=409, headers=ANY)
    await shop.call("POST", f"{MAIN}/withdraw", {"reason": "enough"}, status=204, headers=ANY)
    await shop.serving.refresh()
    assert await shop.ids() == before
    await shop.call("POST", f"{MAIN}/withdraw", {}, status=409, headers=ANY)
    await shop.call("DELETE", MAIN, status=204, headers=ANY)
    # What was published stays in the record, and its numbers are never given again.
    assert (await shop.call("GET", f"{MAIN}/versions/1"))["number"] == 1
    assert (await shop.publish(EXCLUDE_PRIVATE))["number"] == 2


async def test_several_rule_sets_are_in_force_together(shop: RuledShop) -> None:
    await shop.publish(EXCLUDE_PRIVATE, id_="brands")
    pinned = next(i.id for i in shop.items[60:] if shop.value(i, "brand") == "National")
    await shop.publish({"then": [{"type": "pin", "item_id": pinned, "slot": 1}]}, id_="pins")
    shown = await shop.shown()
    assert shown[0].id == pinned
    assert {shop.value(item, "brand") for item in shown[1:]} == {"National"}


def with_condition(condition: Any) -> Any:
    return {**EXCLUDE_PRIVATE, "when": condition}


def with_action(action: Any) -> Any:
    return {"id": "r", "then": [action]}


def unknown_attribute() -> Any:
    return with_action(
        {"type": "exclude", "items": {"type": "is", "attribute": "colour", "values": ["red"]}}
    )


BAD: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "unknown attribute": (unknown_attribute, ["/rules/0/then/0/items/attribute"]),
    "slot of 0": (
        lambda: with_action({"type": "pin", "item_id": "x", "slot": 0}),
        ["/rules/0/then/0/slot"],
    ),
    "slot of 101": (
        lambda: with_action({"type": "pin", "item_id": "x", "slot": 101}),
        ["/rules/0/then/0/slot"],
    ),
    "a zone that does not exist": (
        lambda: with_condition({"type": "weekly", "zone": "Mars/Olympus"}),
        ["/rules/0/when/zone"],
    ),
    "a zone that is a folder": (
        lambda: with_condition({"type": "weekly", "zone": "Europe"}),
        ["/rules/0/when/zone"],
    ),
    "a zone outside": (
        lambda: with_condition({"type": "weekly", "zone": "../../etc/passwd"}),
        ["/rules/0/when/zone"],
    ),
    "an end before its start": (
        lambda: with_condition(
            {"type": "between", "start": "2026-11-02T00:00:00Z", "end": "2026-11-01T00:00:00Z"}
        ),
        ["/rules/0/when/end"],
    ),
    "a time without an offset": (
        lambda: with_condition({"type": "between", "start": "2026-11-02T00:00:00"}),
        ["/rules/0/when/start"],
    ),
    "no time at all": (lambda: with_condition({"type": "between"}), ["/rules/0/when"]),
    "an unknown action": (lambda: with_action({"type": "explode"}), ["/rules/0/then/0/type"]),
    "an unknown condition": (
        lambda: with_condition({"type": "full_moon"}),
        ["/rules/0/when/type"],
    ),
    "an unknown field": (
        lambda: {**EXCLUDE_PRIVATE, "prioritty": 1},
        ["/rules/0/prioritty"],
    ),
    "no action": (lambda: {"id": "r", "then": []}, ["/rules/0/then"]),
    "a range without bounds": (
        lambda: with_action({"type": "exclude", "items": {"type": "range", "attribute": "price"}}),
        ["/rules/0/then/0/items"],
    ),
    "a range that ends before it begins": (
        lambda: with_action(
            {"type": "exclude",
             "items": {"type": "range", "attribute": "price", "at_least": 2, "at_most": 1}}
        ),
        ["/rules/0/then/0/items/at_most"],
    ),
    "bands that are not ascending": (
        lambda: with_action({"type": "same_as_seed", "attribute": "price", "bands": [5, 5]}),
        ["/rules/0/then/0/bands"],
    ),
    "a strength of 11": (
        lambda: with_action({"type": "boost", "items": {"type": "every"}, "strength": 11}),
        ["/rules/0/then/0/strength"],
    ),
    "110 %": (
        lambda: with_action({"type": "at_least", "items": {"type": "every"}, "percent": 110}),
        ["/rules/0/then/0/percent"],
    ),
    "a name that is none": (
        lambda: with_action({"type": "exclude", "items": {"type": "named", "name": "x"}}),
        ["/rules/0/then/0/items/name"],
    ),
}  # fmt: skip


async def test_bad_rules_are_refused_with_the_place_and_nothing_changes(shop: RuledShop) -> None:
    await shop.call("POST", RULE_SETS, {"id": "other"}, status=201)
    for name, (make, expected) in BAD.items():
        document = {"id": "main", "rules": [make()]}
        problem = await shop.call("POST", RULE_SETS, document, status=400)
        assert pointers(problem) == expected, name
        await shop.call("GET", MAIN, status=404)
        document["id"] = "other"
        problem = await shop.call(
            "PUT", f"{RULE_SETS}/other", document, status=400, headers={"If-Match": '"1"'}
        )
        assert pointers(problem) == expected, name
    assert (await shop.call("GET", f"{RULE_SETS}/other"))["rules"] == []
    assert shop.etag == '"1"'


async def test_a_cycle_of_references_is_named(shop: RuledShop) -> None:
    def named(name: str) -> Any:
        return {"type": "not", "of": {"type": "named", "name": name}}

    document = {
        "id": "main",
        "expressions": {"a": named("b"), "b": named("c"), "c": named("a"), "d": named("a")},
    }
    problem = await shop.call("POST", RULE_SETS, document, status=400)
    assert pointers(problem) == ["/expressions/a"]
    assert "a → b → c → a" in problem["detail"]
    await shop.call("GET", MAIN, status=404)


async def test_references_that_would_explode_are_refused_or_cheap(shop: RuledShop) -> None:
    def twice(name: str) -> Any:
        return {"type": "and", "of": [{"type": "named", "name": name}] * 100}

    deep = {f"e{n}": twice(f"e{n + 1}") for n in range(30)} | {"e30": {"type": "every"}}
    problem = await shop.call("POST", RULE_SETS, {"id": "main", "expressions": deep}, status=400)
    assert "nested" in problem["detail"]
    shallow = {f"e{n}": twice(f"e{n + 1}") for n in range(8)} | {"e8": {"type": "every"}}
    await shop.publish(
        with_action({"type": "exclude", "items": {"type": "named", "name": "e0"}}),
        expressions=shallow,
    )
    assert await shop.ids() == []


async def test_too_many_rules(shop: RuledShop) -> None:
    action = {"type": "pin", "item_id": "x", "slot": 1}
    rules = [{"id": f"r{n}", "then": [action]} for n in range(10_001)]
    problem = await shop.call("POST", RULE_SETS, {"id": "main", "rules": rules}, status=400)
    assert pointers(problem) == ["/rules"]
    await shop.call("GET", MAIN, status=404)
    await shop.call("POST", RULE_SETS, {"id": "main", "rules": rules[:-1]}, status=201)
    problem = await shop.call(
        "PUT", f"{MAIN}/rules/one-more", {"id": "one-more", "then": [action]},
        status=413, headers=ANY,
    )  # fmt: skip
    assert pointers(problem) == ["/rules"]
    await shop.call("POST", f"{MAIN}/publish", {}, status=201, headers=ANY)
    await shop.call("POST", RULE_SETS, {"id": "more", "rules": rules[:1]}, status=201)
    problem = await shop.call("POST", f"{RULE_SETS}/more/publish", {}, status=413, headers=ANY)
    assert (await shop.call("GET", f"{RULE_SETS}/more"))["published"] is None


async def test_a_body_that_is_no_body(shop: RuledShop) -> None:
    deep = b'{"id":"main","expressions":{"a":' + b'{"type":"not","of":' * 60_000
    bodies = [b"", b"{", b"[]", b"null", deep, b'{"id":"a\\u0000b"}', b'{"id":"x","rules":{}}']
    for body in bodies:
        assert await shop.call("POST", RULE_SETS, body, status=413 if body is deep else 400)
    for path in ("%00", "..", "a b", "x" * 101):
        await shop.call("GET", f"{RULE_SETS}/{path}", status=404)
    for number in ("0", "-1", "x", "9" * 30):
        await shop.call("GET", f"{MAIN}/versions/{number}", status=404)
    for cursor in ("x", "AAAA", "\U0001f600"):
        problem = await shop.call("GET", RULE_SETS, status=400, cursor=cursor)
        assert pointers(problem) == ["cursor"]
    for limit in ("0", "201", "-1", "x", "1.5", "9" * 40):
        problem = await shop.call("GET", RULE_SETS, status=400, limit=limit)
        assert pointers(problem) == ["limit"]


async def test_what_cannot_be_evaluated_any_more_is_refused_at_publication(shop: RuledShop) -> None:
    await shop.call("POST", RULE_SETS, {"id": "main", "rules": [EXCLUDE_PRIVATE]}, status=201)
    del shop.index.columns["brand"]  # the catalogue has changed meanwhile
    problem = await shop.call("POST", f"{MAIN}/publish", {}, status=400, headers=ANY)
    assert pointers(problem) == ["/rules/0/then/0/items/attribute"]
    assert (await shop.call("GET", MAIN))["published"] is None
    assert (await shop.call("GET", f"{MAIN}/versions"))["items"] == []


async def test_validate_says_all_at_once_and_keeps_nothing(shop: RuledShop) -> None:
    rules = [unknown_attribute(), {**with_condition({"type": "weekly", "zone": "X"})}]
    found = await shop.call("POST", f"{RULE_SETS}:validate", {"rules": rules}, role=Role.READER)
    assert found["valid"] is False
    assert pointers(found) == ["/rules/0/then/0/items/attribute", "/rules/1/when/zone"]
    found = await shop.call("POST", f"{RULE_SETS}:validate", {"rules": [EXCLUDE_PRIVATE]})
    assert found == {"valid": True, "errors": []}
    assert (await shop.call("GET", RULE_SETS))["items"] == []


async def test_a_change_names_the_version_that_it_is_made_to(shop: RuledShop) -> None:
    await shop.call("POST", RULE_SETS, {"id": "main"}, status=201)
    calls = [
        ("PUT", MAIN, {"id": "main"}),
        ("DELETE", MAIN, None),
        ("PUT", f"{MAIN}/rules/no-own-brand", EXCLUDE_PRIVATE),
        ("DELETE", f"{MAIN}/rules/no-own-brand", None),
        ("POST", f"{MAIN}/publish", {}),
        ("POST", f"{MAIN}/roll-back", {"number": 1}),
        ("POST", f"{MAIN}/withdraw", {}),
    ]
    for method, path, body in calls:
        await shop.call(method, path, body, status=428)
        await shop.call(method, path, body, status=412, headers={"If-Match": '"9"'})
    assert (await shop.call("GET", MAIN))["published"] is None
    assert shop.etag == '"1"'


async def test_of_two_changes_to_one_version_one_is_refused(shop: RuledShop) -> None:
    await shop.call("POST", RULE_SETS, {"id": "main", "rules": [EXCLUDE_PRIVATE]}, status=201)

    async def publish() -> int:
        async with shop.http.post(
            f"{shop.url}{MAIN}/publish",
            json={},
            headers={
                "Authorization": f"Bearer {shop.secrets[Role.MERCHANDISER]}",
                "If-Match": '"1"',
            },
        ) as response:
            return response.status

    statuses = await asyncio.gather(*(publish() for _ in range(6)))
    assert sorted(statuses) == [201, 412, 412, 412, 412, 412]
    assert len((await shop.call("GET", f"{MAIN}/versions"))["items"]) == 1


async def test_a_call_that_is_sent_again_is_done_once(shop: RuledShop) -> None:
    key = {"Idempotency-Key": "k1"}
    made = await shop.call("POST", RULE_SETS, {"id": "main"}, status=201, headers=key)
    assert "Idempotency-Replayed" not in shop.headers
    again = await shop.call("POST", RULE_SETS, {"id": "main"}, status=201, headers=key)
    assert shop.headers["Idempotency-Replayed"] == "true"
    assert shop.headers["Location"] == MAIN
    assert again == made
    problem = await shop.call("POST", RULE_SETS, {"id": "other"}, status=409, headers=key)
    assert "Idempotency-Key" in problem["detail"]
    assert len((await shop.call("GET", RULE_SETS))["items"]) == 1
    key = {"Idempotency-Key": "k2", **ANY}
    for _ in range(3):
        await shop.call("POST", f"{MAIN}/publish", {}, status=201, headers=key)
    await shop.call("POST", f"{MAIN}/publish", {"reason": "other"}, status=409, headers=key)
    assert len((await shop.call("GET", f"{MAIN}/versions"))["items"]) == 1
    # A refused call lets its key go.
    key = {"Idempotency-Key": "k3"}
    await shop.call("POST", RULE_SETS, {"id": "main"}, status=409, headers=key)
    await shop.call("POST", RULE_SETS, {"id": "mended"}, status=201, headers=key)
    for bad in ("", " ", "a b", "x" * 201):
        await shop.call(
            "POST", RULE_SETS, {"id": "z"}, status=400, headers={"Idempotency-Key": bad}
        )


async def test_calls_at_the_same_time_with_one_key_are_done_once(shop: RuledShop) -> None:
    async def create() -> int:
        async with shop.http.post(
            f"{shop.url}{RULE_SETS}",
            json={"id": "main"},
            headers={
                "Authorization": f"Bearer {shop.secrets[Role.MERCHANDISER]}",
                "Idempotency-Key": "same",
            },
        ) as response:
            return response.status

    statuses = await asyncio.gather(*(create() for _ in range(6)))
    assert set(statuses) <= {201, 409}
    assert 201 in statuses
    assert len((await shop.call("GET", RULE_SETS))["items"]) == 1
    assert len((await shop.call("GET", "/admin/v1/audit", subject="main"))["items"]) == 1


async def test_roles(shop: RuledShop) -> None:
    document = {"id": "main", "rules": [EXCLUDE_PRIVATE]}
    for role in (Role.READER, Role.INGEST):
        await shop.call("POST", RULE_SETS, document, status=403, role=role)
    await shop.call("GET", RULE_SETS, status=403, role=Role.INGEST)
    await shop.call("POST", RULE_SETS, document, status=201, role=Role.ADMINISTRATOR)
    for method, path in (
        ("PUT", MAIN), ("DELETE", MAIN), ("POST", f"{MAIN}/publish"), ("POST", f"{MAIN}/roll-back"),
        ("POST", f"{MAIN}/withdraw"), ("PUT", f"{MAIN}/rules/x"), ("DELETE", f"{MAIN}/rules/x"),
    ):  # fmt: skip
        await shop.call(method, path, {}, status=403, role=Role.READER, headers=ANY)
    await shop.call("GET", MAIN, role=Role.READER)


async def test_another_merchant_s_rules_are_not_there(
    shop: RuledShop, database_url: str, create_merchant: Any
) -> None:
    await shop.publish(EXCLUDE_PRIVATE)
    other = await create_merchant(database_url, "other-shop")
    await shop.serving.refresh()
    secret = other.secrets[Role.ADMINISTRATOR]
    assert (await shop.call("GET", RULE_SETS, secret=secret))["items"] == []
    for method, path, body in (
        ("GET", MAIN, None),
        ("PUT", MAIN, {"id": "main"}),
        ("DELETE", MAIN, None),
        ("POST", f"{MAIN}/publish", {}),
        ("POST", f"{MAIN}/roll-back", {"number": 1}),
        ("POST", f"{MAIN}/withdraw", {}),
        ("GET", f"{MAIN}/versions", None),
        ("GET", f"{MAIN}/versions/1", None),
        ("POST", f"{MAIN}/preview", {"request": {"pod_id": "home"}}),
        ("POST", f"{MAIN}/preview-samples", {}),
        ("GET", f"{MAIN}/conflicts", None),
        ("PUT", f"{MAIN}/rules/no-own-brand", EXCLUDE_PRIVATE),
        ("DELETE", f"{MAIN}/rules/no-own-brand", None),
    ):
        await shop.call(method, path, body, status=404, secret=secret, headers=ANY)
    await shop.call("POST", RULE_SETS, {"id": "main"}, status=201, secret=secret)
    assert (await shop.call("GET", MAIN))["rules"][0]["id"] == "no-own-brand"


async def test_every_change_is_in_the_audit_log_and_stays(shop: RuledShop) -> None:
    await shop.publish(EXCLUDE_PRIVATE)
    await shop.call("POST", f"{MAIN}/roll-back", {"number": 1}, status=201, headers=ANY)
    await shop.call("POST", f"{MAIN}/withdraw", {}, status=204, headers=ANY)
    await shop.call("DELETE", MAIN, status=204, headers=ANY)
    entries = (await shop.call("GET", "/admin/v1/audit", subject="main"))["items"]
    assert [entry["action"] for entry in reversed(entries)] == [
        "rule_set.create", "rule_set.publish", "rule_set.roll_back", "rule_set.withdraw",
        "rule_set.delete",
    ]  # fmt: skip
    assert entries[-1]["after"]["rules"][0]["id"] == "no-own-brand"
    for method in ("PUT", "DELETE", "PATCH"):
        await shop.call(method, "/admin/v1/audit", {}, status=405)


async def test_each_version_says_who_published_it_when_and_why(shop: RuledShop) -> None:
    await shop.call("POST", RULE_SETS, {"id": "main", "rules": [EXCLUDE_PRIVATE]}, status=201)
    began = time.time()
    for path, body in (
        ("publish", {"reason": "Autumn begins"}),
        ("publish", {"reason": "Again"}),
        ("roll-back", {"number": 1, "reason": "Autumn ended early"}),
    ):
        await shop.call("POST", f"{MAIN}/{path}", body, status=201, headers=ANY)
    merchandiser = hashlib.sha256(shop.secrets[Role.MERCHANDISER].encode()).digest()
    async with shop.database.merchant(shop.merchant) as connection:
        rows = await connection.execute(
            text("SELECT id FROM token WHERE digest = :digest"), {"digest": merchandiser}
        )
    who = rows.scalar_one()
    versions = (await shop.call("GET", f"{MAIN}/versions"))["items"]
    assert [(v["number"], v["reason"]) for v in versions] == [
        (3, "Autumn ended early"), (2, "Again"), (1, "Autumn begins"),
    ]  # fmt: skip
    assert {version["actor"] for version in versions} == {who}
    times = [version["published_at"] for version in versions]
    assert began - 1 <= times[2] <= times[1] <= times[0] <= time.time() + 1
    log = (await shop.call("GET", "/admin/v1/audit", subject="main", limit=3))["items"]
    assert {entry["actor"] for entry in log} == {who}
    assert [entry["after"]["reason"] for entry in log] == [v["reason"] for v in versions]


async def test_what_was_published_cannot_be_altered_in_the_database(
    shop: RuledShop, database: Database
) -> None:
    await shop.publish(EXCLUDE_PRIVATE)
    for statement in (
        "UPDATE rule_set_version SET rules = '{}'",
        "DELETE FROM rule_set_version",
        "TRUNCATE rule_set_version",
        "TRUNCATE audit",
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
    ):
        with pytest.raises(DBAPIError, match="permission denied"):
            async with database.merchant(shop.merchant) as connection:
                await connection.execute(text(statement))


async def test_calls_a_token_are_bounded_and_say_so(shop: RuledShop) -> None:
    await shop.call("GET", RULE_SETS)
    assert shop.headers["RateLimit-Limit"] == "100000"
    assert int(shop.headers["RateLimit-Remaining"]) == 99_999
    assert "RateLimit-Reset" in shop.headers


async def test_refusals_say_how_many_calls_are_left_too(shop: RuledShop) -> None:
    for method, path, body, status in (
        ("GET", f"{RULE_SETS}/nowhere", None, 404),
        ("POST", RULE_SETS, {"id": "main", "rules": 1}, 400),
    ):
        await shop.call(method, path, body, status=status)
        assert shop.headers["RateLimit-Limit"] == "100000"
        assert int(shop.headers["RateLimit-Remaining"]) < 100_000
        assert "RateLimit-Reset" in shop.headers
