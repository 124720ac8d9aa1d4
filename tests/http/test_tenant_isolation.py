"""One merchant's things, asked for by another: every operation of the OpenAPI document, with the
other's ids wherever an id can be said. What is answered must be, to the letter, what is answered
for a thing that exists nowhere; no answer may hold anything of the other merchant's; and nothing of
theirs may change. An operation with a parameter that this file does not know fails here: a new
route cannot be forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import ClientSession, FormData, encode_basic_auth

from tests.whole_service import whole_service

MARK = "zzother"  # in all that is the other merchant's
NOWHERE = "zznever"
# Parameters that name nothing of a merchant's. Cursors have a test of their own.
HARMLESS = frozenset(
    (
        *("i", "s", "ui", "us", "term", "section", "num_results", "filters", "consent", "c", "_dt"),
        *("pre_filter_expression", "fmt_options", "variations_map", "explain", "force", "name"),
        *("notification_email", "on_missing", "num_results_per_page", "page", "offset", "limit"),
        *("start_date", "end_date", "status", "type", "format", "skip_rejected", "patch_delta"),
        *("rejected_offset", "action", "cursor"),
    )
)
# By parameter, what it names of the other merchant's; see `Theirs.named`.
NAMED = {
    "pod_id": "pod",
    "pod": "pod",
    "configuration_id": "configuration",
    "model_id": "model",
    "token_id": "token_id",
    "rule_set_id": "rule_set",
    "rule_id": "rule",
    "number": "number",
    "webhook_id": "webhook",
    "task_id": "task",
    "group_id": "group",
    "group": "group",
    "item": "item",
    "item_id": "item",
    "id": "item",
    "variation_id": "variation",
    "why_not": "item",
    "shopper_id": "shopper",
    "subject": "pod",
    "actor": "token_id",
    "key": "key",
    "If-Match": "etag",
    "Idempotency-Key": "idempotency",
}
POD = {"id": "{pod}", "display_name": "x", "chain": ["{configuration}"]}
RULE = {
    "id": "{rule}",
    "when": {"type": "pod", "ids": ["{pod}"]},
    "then": [{"type": "boost", "items": {"type": "items", "ids": ["{item}"]}, "strength": 4}],
}
RULE_SET = {"id": "{rule_set}", "display_name": "x", "rules": [RULE]}
# Bodies that name things; where there is none, the document's own example is sent.
BODIES: dict[str, Any] = {
    "getPageRecommendations": {"pods": [{"pod_id": "{pod}", "item_ids": ["{item}"]}]},
    "createPod": {**POD, "id": "mine"},
    "replacePod": POD,
    "replaceStrategyConfiguration": {"id": "{configuration}", "strategy": "popular"},
    "createStrategyConfiguration": {"id": "{new}", "strategy": "popular"},
    "createRuleSet": {**RULE_SET, "id": "{new}"},
    "sendEvents": {
        "events": [{"id": "{new}", "type": "view", "client_id": "{new}", "item_id": "{item}"}]
    },
    "createTraining": {"configuration_ids": ["{configuration}"]},
    "patchItems": {"items": [{"id": "{item}", "name": "taken"}]},
    "deleteItems": {"items": [{"id": "{item}"}]},
    "patchVariations": {"variations": [{"id": "{variation}", "item_id": "{item}", "name": "t"}]},
    "putVariations": {"variations": [{"id": "v", "item_id": "{item}", "name": "t"}]},
    "deleteVariations": {"variations": [{"id": "{variation}"}]},
    "putItemGroup": {"id": "{group}", "name": "x", "parent_id": "{group}"},
    "patchItemGroups": {"item_groups": [{"id": "{group}", "name": "x"}]},
    "replaceRuleSet": RULE_SET,
    "putRule": RULE,
    "rollBackRuleSet": {"number": 1},
    "previewRuleSet": {"request": {"pod_id": "{pod}"}},
    "replaceWebhook": {"url": "https://93.184.216.34/", "events": []},
    "rotateToken": {},
}
DESTROYS = frozenset({"deleteItemGroups"})  # all of one's own: what names nothing proves nothing
UNCHECKED_SECURITY = frozenset({"getMetrics"})  # for who runs the service; it names merchants


@dataclass
class Shop:
    http: ClientSession
    url: str
    id: str
    key: str
    token: str

    async def call(
        self, method: str, path: str, body: Any = None, headers: Any = None, query: Any = None
    ) -> tuple[int, str, dict[str, str]]:
        sent: Any = None
        headers = {"Authorization": encode_basic_auth(self.token, ""), **(headers or {})}
        if isinstance(body, FormData):
            sent = body
        elif body is not None:
            sent = json.dumps(body)
            headers["Content-Type"] = "application/json"
        async with self.http.request(
            method, self.url + path, data=sent, headers=headers, params=query
        ) as response:
            return response.status, await response.text(), dict(response.headers)

    async def made(self, method: str, path: str, body: Any, **more: Any) -> tuple[Any, Any]:
        status, text, headers = await self.call(method, path, body, **more)
        assert status < 300, (method, path, text)
        return json.loads(text), headers


@dataclass
class World:
    mine: Shop
    theirs: Shop
    named: dict[str, str]  # what there is of theirs
    document: dict[str, Any]


async def _fill(shop: Shop, mark: str, owner_url: str) -> dict[str, str]:
    """One of everything, named by `mark`; its names."""
    configuration, pod, rule_set = f"{mark}-conf", f"{mark}-pod", f"{mark}-rules"
    await shop.made(
        "POST", "/admin/v1/strategy-configurations", {"id": configuration, "strategy": "popular"}
    )
    body = {"id": pod, "display_name": f"{mark} pod", "chain": [configuration]}
    _, headers = await shop.made(
        "POST", "/admin/v1/pods", body, headers={"Idempotency-Key": f"{mark}-once"}
    )
    etag = headers["Etag"]
    item = {"id": f"{mark}-item", "name": f"{mark} thing", "data": {"url": f"/{mark}"}}
    await shop.made("PUT", "/v2/items", {"items": [item]})
    variation = {"id": f"{mark}-var", "item_id": f"{mark}-item", "name": mark, "data": {}}
    await shop.made("PUT", "/v2/variations", {"variations": [variation]})
    await shop.made(
        "PUT", "/v1/item_groups", {"item_groups": [{"id": f"{mark}-group", "name": mark}]}
    )
    text = json.dumps(RULE).replace("{rule}", f"{mark}-rule").replace("{item}", f"{mark}-item")
    rules = [json.loads(text.replace("{pod}", pod))]
    await shop.made(
        "POST",
        "/admin/v1/rule-sets",
        {"id": rule_set, "display_name": mark, "rules": rules},
    )
    hook, _ = await shop.made(
        "POST", "/admin/v1/webhooks", {"url": "https://93.184.216.34/" + mark, "events": []}
    )
    tokens, _ = await shop.made("GET", "/admin/v1/tokens", None)
    manifest = {
        **dict.fromkeys(("strategy", "strategy_version", "config_hash", "sha256"), mark),
        **dict.fromkeys(
            ("contract", "format", "items", "catalogue_version", "watermark", "seed"), 1
        ),
        "configuration_id": configuration,
        "section": "Products",
        "config": {},
        "files": {},
    }
    async with await psycopg.AsyncConnection.connect(owner_url) as connection:
        await connection.execute("SELECT set_config('vitrine.merchant', %s, false)", [shop.id])
        row = await (
            await connection.execute(
                "INSERT INTO model_version (merchant_id, configuration_id, section, number, state,"
                " location, manifest) VALUES (%s, %s, 'Products', 1, 'fitted', 'x', %s)"
                " RETURNING id",
                [shop.id, configuration, json.dumps(manifest)],
            )
        ).fetchone()
    task, _ = await shop.made("POST", "/admin/v1/trainings", {})
    assert row is not None
    return {
        "pod": pod,
        "configuration": configuration,
        "model": str(row[0]),
        "token_id": str((tokens["items"] if "items" in tokens else tokens["tokens"])[0]["id"]),
        "rule_set": rule_set,
        "rule": f"{mark}-rule",
        "number": "1",
        "webhook": str(hook["webhook"]["id"]),
        "task": str(task["id"]),
        "group": f"{mark}-group",
        "item": f"{mark}-item",
        "variation": f"{mark}-var",
        "shopper": f"u:{mark}",
        "key": shop.key,
        "etag": etag,
        "idempotency": f"{mark}-once",
    }


@pytest.fixture
async def world(
    database_url: str,
    admin_url: str,
    redis_url: str,
    create_merchant: Callable[..., Any],
    tmp_path: Path,
) -> AsyncIterator[World]:
    made = [await create_merchant(database_url, id_) for id_ in ("mine", MARK)]
    async with (
        whole_service(database_url, redis_url, tmp_path) as (url, _),
        ClientSession() as http,
    ):
        mine, theirs = (Shop(http, url, one.id, one.key, one.token) for one in made)
        named = await _fill(theirs, MARK, admin_url)
        _, text, _ = await mine.call("GET", "/openapi.json")
        await asyncio.sleep(0.6)  # the configuration is followed
        yield World(mine, theirs, named, json.loads(text))


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def nowhere(value: str) -> str:
    """An id of the same form that exists nowhere."""
    if value.isdigit():
        return "987654321"
    if re.fullmatch(r"[0-9a-f-]{36}", value):
        return "00000000-0000-4000-8000-000000000000"
    return value.replace(MARK, NOWHERE) if MARK in value else "x" + value[1:]


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


def asked(world: World, method: str, path: str, operation: dict[str, Any], real: bool) -> Asked:
    """The operation, with all that can be said of the other merchant's things."""
    names = world.named if real else {n: nowhere(v) for n, v in world.named.items()}
    # If-Match stays: it is a number that says nothing. A key is the other's, or nobody's.
    names = {**names, "etag": world.named["etag"], "number": "1", "new": f"new-{real}"}
    query, headers = {}, {}
    for parameter in operation["parameters"]:
        name, where = parameter["name"], parameter["in"]
        known = NAMED.get(name)
        if known is None:
            assert name in HARMLESS, f"{operation['operationId']}: is {name!r} the name of a thing?"
            if where == "path":
                path = path.replace(f"{{{name}}}", "x")
            continue
        if name == "Idempotency-Key" and operation["operationId"] != "createPod":
            continue  # theirs was of that call
        value = names[known]
        if where == "path":
            path = path.replace(f"{{{name}}}", value)
        elif where == "header":
            headers[name] = value
        elif value:
            query[name] = value
    if {"key": []} in operation["security"]:
        query["key"] = world.mine.key
    body: Any = None
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]
        if "multipart/form-data" in content:
            body = FormData()
            body.add_field("items", b"id,item_name\nmine,x\n", filename="items.csv")
        else:
            example = next(iter(content.values())).get("example", {})
            text = json.dumps(BODIES.get(operation["operationId"], example))
            for name, value in names.items():
                text = text.replace(f"{{{name}}}", value)
            body = json.loads(text)
    return Asked(method, path, query, headers, body)


def plain(text: str, world: World) -> str:
    """An answer without what names the thing that was asked for, and what is new in each."""
    for value in world.named.values():
        for one in (value, nowhere(value)):
            if len(one) > 1:
                text = text.replace(one, "ID")
    text = re.sub(r"model version \d+", "model version ID", text)
    text = (
        text.replace(MARK, "ID")
        .replace("new-True", "new")
        .replace("new-False", "new")
        .replace(NOWHERE, "ID")
    )
    names = "request_id|result_id|task_id|token|secret|id|key|at|created|version"
    text = re.sub(rf'"({names}|\w+_at|task_status_path)":("[^"]*"|[\d.]+)', r'"\1":"…"', text)
    return re.sub(r"/v1/tasks/[\w-]+", "/v1/tasks/…", text)


async def state(world: World) -> str:
    """All of the other merchant's that can be listed."""
    found = []
    for method, path, _ in operations(world.document):
        lists = method == "GET" and "{" not in path and path.startswith(("/admin", "/v"))
        if lists and "running" not in path:
            found.append((path, (await world.theirs.call(method, path))[1]))
    return re.sub(r'"request_id\W+\w+', "", json.dumps(found))


async def test_no_operation_tells_or_changes_anything_of_another_merchants(world: World) -> None:
    before = await state(world)
    assert MARK in before
    wrong = []
    for method, path, operation in operations(world.document):
        name = operation["operationId"]
        if name in DESTROYS or name in UNCHECKED_SECURITY:
            continue
        answers = []
        for real in (True, False):
            one = asked(world, method, path, operation, real)
            status, text, _ = await world.mine.call(
                one.method, one.path, one.body, one.headers, one.query
            )
            answers.append((status, plain(text, world)))
            said = json.dumps([one.path, one.query, one.headers, str(one.body)])
            wrong += [
                f"{name}: tells {value}"
                for value in world.named.values()
                # What was said may come back; anything else of theirs may not.
                if len(value) > 3 and value in text and value not in said and value != '"1"'
            ]
            if f"{MARK} " in text or f"/{MARK}" in text.replace(one.path, ""):
                wrong.append(f"{name}: tells of {MARK}")
            if status >= 500:
                wrong.append(f"{name}: {status} {text[:200]}")
        if answers[0] != answers[1]:
            wrong.append(f"{name}: {answers[0]} for theirs, {answers[1]} for what is nowhere")
    assert not wrong, "\n".join(wrong)
    assert await state(world) == before


async def test_nobody_gets_in_without_a_token_or_with_a_public_key(world: World) -> None:
    for method, path, operation in operations(world.document):
        if {"basic": []} not in operation["security"]:
            continue
        one = asked(world, method, path, operation, True)
        for secret in ("", world.theirs.key, world.theirs.token[:-1] + "x", world.theirs.id):
            stranger = Shop(world.mine.http, world.mine.url, "", "", secret)
            status, text, _ = await stranger.call(one.method, one.path, None, None, one.query)
            assert status == 401, (operation["operationId"], secret, text)


async def test_the_table_notices_an_operation_that_tells(world: World) -> None:
    """The test above, tested: theirs' own answers are not those for what is nowhere."""
    told = 0
    for method, path, operation in operations(world.document):
        if method == "GET" and "{" in path and path.startswith("/admin"):
            answers = []
            for real in (True, False):
                one = asked(world, method, path, operation, real)
                status, text, _ = await world.theirs.call(method, one.path, None, None, one.query)
                answers.append((status, plain(text, world)))
            told += answers[0] != answers[1]
    assert told >= 5


async def test_a_cursor_of_theirs_shows_ones_own_rows_only(world: World) -> None:
    for number in range(2):
        body = {"id": f"{MARK}-{number}", "display_name": f"{MARK} x", "chain": [
            world.named["configuration"]]}  # fmt: skip
        await world.theirs.made("POST", "/admin/v1/pods", body)
    _, text, _ = await world.theirs.call("GET", "/admin/v1/pods?limit=1")
    cursor = json.loads(text)["next_cursor"]
    for path in ("pods", "strategy-configurations", "rule-sets", "webhooks", "audit", "models"):
        with contextlib.suppress(json.JSONDecodeError):
            status, text, _ = await world.mine.call("GET", f"/admin/v1/{path}?cursor={cursor}")
            assert status in (200, 400)
            assert MARK not in text
