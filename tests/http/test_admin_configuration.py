"""The admin API of pods, strategy configurations, models, keys, tokens and audit, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.merchant import Role
from app.postgres.database import raw
from tests.admin_shop import Process, open_processes

PODS = "/admin/v1/pods"
CONFIGURATIONS = "/admin/v1/strategy-configurations"


@pytest.fixture
async def start(
    database_url: str, merchant: Any, tmp_path: Path
) -> AsyncIterator[Callable[[], Any]]:
    async with open_processes(database_url, merchant, tmp_path) as start_process:
        yield start_process


@pytest.fixture
async def process(start: Callable[[], Any]) -> Process:
    made: Process = await start()
    await made.call("POST", CONFIGURATIONS, {"id": "popular", "strategy": "popular"}, status=201)
    return made


def pod(pod_id: str = "home", **fields: Any) -> dict[str, Any]:
    return {"id": pod_id, "display_name": "Home", "chain": ["popular"], **fields}


def pointers(problem: Any) -> list[str]:
    return [error["pointer"] for error in problem["errors"]]


async def test_a_pod_is_created_read_changed_and_deleted(process: Process) -> None:
    made, headers = await process.call_for_headers("POST", PODS, pod(), status=201)
    assert made["num_results"] == 10  # defaults are written out
    assert headers["Location"] == f"{PODS}/home"
    assert headers["ETag"] == '"1"'
    read, headers = await process.call_for_headers("GET", f"{PODS}/home", role=Role.READER)
    assert (read, headers["ETag"]) == (made, '"1"')
    changed, headers = await process.call_for_headers(
        "PUT", f"{PODS}/home", {**read, "num_results": 4}, headers={"If-Match": '"1"'}
    )
    assert (changed["num_results"], headers["ETag"]) == (4, '"2"')
    await process.call("DELETE", f"{PODS}/home", headers={"If-Match": '"2"'}, status=204)
    await process.call("GET", f"{PODS}/home", status=404)


async def test_a_change_names_the_version_that_it_is_made_to(process: Process) -> None:
    await process.call("POST", PODS, pod(), status=201)
    for method, body in (("PUT", pod(num_results=5)), ("DELETE", None)):
        missing = await process.call(method, f"{PODS}/home", body, status=428)
        assert "If-Match" in missing["detail"]
        for stale in ('"7"', 'W/"1"', '"x", "2"'):
            await process.call(
                method, f"{PODS}/home", body, headers={"If-Match": stale}, status=412
            )
        for unread in ("1", "", '"1'):
            problem = await process.call(
                method, f"{PODS}/home", body, headers={"If-Match": unread}, status=400
            )
            assert pointers(problem) == ["If-Match"]
    assert (await process.call("GET", f"{PODS}/home"))["num_results"] == 10
    for fits in ('"4", "1"', "*"):
        await process.call("PUT", f"{PODS}/home", pod(), headers={"If-Match": fits})


async def test_of_two_changes_to_one_version_one_is_refused(process: Process) -> None:
    await process.call("POST", PODS, pod(), status=201)

    async def change(number: int) -> int:
        async with process.http.put(
            f"{process.url}{PODS}/home",
            json=pod(num_results=number),
            headers={
                "Authorization": f"Bearer {process.secrets[Role.MERCHANDISER]}",
                "If-Match": '"1"',
            },
        ) as response:
            return response.status

    statuses = await asyncio.gather(*(change(number) for number in range(1, 7)))
    assert sorted(statuses) == [200, 412, 412, 412, 412, 412]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"chain": ["popular", "nothing"]}, ["/chain/1"]),
        ({"chain": ["a", "b"]}, ["/chain/0", "/chain/1"]),
        ({"chain": ["popular", "popular"]}, ["/chain/1"]),
        ({"chain": []}, ["/chain"]),
        ({"chain": "popular"}, ["/chain"]),
        ({"chain": [1]}, ["/chain/0"]),
        ({"section": "Content"}, ["/chain/0"]),
        ({"num_results": 0}, ["/num_results"]),
        ({"num_results": 101}, ["/num_results"]),
        ({"num_results": "x"}, ["/num_results"]),
        ({"id": "../x"}, ["/id"]),
        ({"id": "x" * 101}, ["/id"]),
        ({"display_name": ""}, ["/display_name"]),
        ({"display_name": None}, ["/display_name"]),
        ({"exclude_sen": True}, ["/exclude_sen"]),
    ],
)
async def test_a_wrong_pod_is_refused_with_the_place(
    process: Process, change: dict[str, Any], wrong: list[str]
) -> None:
    problem = await process.call("POST", PODS, {**pod(), **change}, status=400)
    assert pointers(problem) == wrong
    assert (await process.call("GET", PODS))["items"] == []


async def test_wrong_bodies_and_ids(process: Process) -> None:
    for body in (b"", b"{", b"[]", b"\xff", b"null"):
        await process.call("POST", PODS, body, status=400)
    without = pod()
    del without["display_name"]
    problem = await process.call("POST", PODS, without, status=400)
    assert pointers(problem) == ["/display_name"]
    await process.call("POST", PODS, pod(), status=201)
    await process.call("POST", PODS, pod(), status=409)
    problem = await process.call(
        "PUT", f"{PODS}/home", pod("other"), headers={"If-Match": "*"}, status=400
    )
    assert pointers(problem) == ["/id"]
    await process.call("PUT", f"{PODS}/no", pod("no"), headers={"If-Match": "*"}, status=404)
    await process.call("DELETE", f"{PODS}/no", headers={"If-Match": "*"}, status=404)


async def test_a_list_goes_on_behind_its_cursor(process: Process) -> None:
    names = [f"pod{number}" for number in range(5)]
    for name in reversed(names):
        await process.call("POST", PODS, pod(name), status=201)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await process.call("GET", PODS, limit=2, **cursor)
        seen += [one["id"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == names
    for wrong in ({"limit": "0"}, {"limit": "x"}, {"cursor": "%%"}, {"cursor": "NQ"}):
        problem = await process.call("GET", PODS, status=400, **wrong)
        assert pointers(problem) == list(wrong)


async def test_roles(process: Process) -> None:
    for role in (Role.READER, Role.INGEST):
        await process.call("POST", PODS, pod(), role=role, status=403)
    await process.call("GET", PODS, role=Role.INGEST, status=403)
    await process.call("POST", PODS, pod(), role=Role.MERCHANDISER, status=201)
    configuration = {"id": "other", "strategy": "popular"}
    await process.call("POST", CONFIGURATIONS, configuration, role=Role.MERCHANDISER, status=403)
    await process.call("GET", "/admin/v1/tokens", role=Role.MERCHANDISER, status=403)
    await process.call("POST", "/admin/v1/trainings", role=Role.MERCHANDISER, status=403)


async def test_another_merchants_pod_is_not_there(
    process: Process, database_url: str, create_merchant: Any
) -> None:
    await process.call("POST", PODS, pod(), status=201)
    other = await create_merchant(database_url, "other")
    await process.serving.refresh()
    headers = {"Authorization": f"Bearer {other.token}"}
    await process.call("GET", f"{PODS}/home", headers=headers, status=404)
    assert (await process.call("GET", PODS, headers=headers))["items"] == []
    await process.call("DELETE", f"{PODS}/home", headers={**headers, "If-Match": "*"}, status=404)
    # Its chain may not name this merchant's configuration either.
    problem = await process.call("POST", PODS, pod(), headers=headers, status=400)
    assert pointers(problem) == ["/chain/0"]
    await process.call("GET", f"{PODS}/home")


async def test_a_create_that_is_sent_again_is_done_once(process: Process) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await process.call("POST", PODS, pod(), headers=headers, status=201)
    again = await process.call("POST", PODS, pod(), headers=headers, status=201)
    assert again == first
    await process.call("POST", PODS, pod("other"), headers=headers, status=409)


# Strategy configurations


async def test_strategies_are_listed_with_their_schema(process: Process) -> None:
    found = await process.call("GET", "/admin/v1/strategies", role=Role.READER)
    named = {one["name"]: one for one in found["strategies"]}
    assert {"popular", "similar", "personalized"} <= set(named)
    assert named["popular"]["state"] == "ready"
    assert named["popular"]["config_schema"]["$ref"]
    assert await process.call("GET", "/admin/v1/strategies/popular") == named["popular"]
    await process.call("GET", "/admin/v1/strategies/nothing", status=404)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"strategy": "nothing"}, ["/strategy"]),
        ({"config": {"no_such": 1}}, ["/config/no_such"]),
        ({"config": []}, ["/config"]),
        ({"mode": "anyhow"}, ["/mode"]),
        ({"id": "a b"}, ["/id"]),
    ],
)
async def test_a_wrong_strategy_configuration_is_refused_with_the_place(
    process: Process, change: dict[str, Any], wrong: list[str]
) -> None:
    body = {"id": "new", "strategy": "popular", **change}
    problem = await process.call("POST", CONFIGURATIONS, body, status=400)
    assert pointers(problem) == wrong
    assert len((await process.call("GET", CONFIGURATIONS))["items"]) == 1


async def test_a_strategy_configuration_has_its_defaults_written_out(process: Process) -> None:
    found, headers = await process.call_for_headers("GET", f"{CONFIGURATIONS}/popular")
    assert found["config"]
    assert (await process.call("GET", CONFIGURATIONS))["items"] == [found]
    await process.call("PUT", f"{CONFIGURATIONS}/popular", found, status=428)
    for name, value in (("strategy", "similar"), ("section", "Content")):
        problem = await process.call(
            "PUT",
            f"{CONFIGURATIONS}/popular",
            {"id": "popular", "strategy": "popular", name: value},
            headers={"If-Match": headers["ETag"]},
            status=400,
        )
        assert pointers(problem) == [f"/{name}"]
    _, headers = await process.call_for_headers(
        "PUT", f"{CONFIGURATIONS}/popular", found, headers={"If-Match": headers["ETag"]}
    )
    assert headers["ETag"] == '"2"'


async def test_a_strategy_configuration_in_use_is_not_deleted(process: Process) -> None:
    await process.call("POST", PODS, pod(), status=201)
    one = f"{CONFIGURATIONS}/popular"
    problem = await process.call("DELETE", one, headers={"If-Match": "*"}, status=409)
    assert "home" in problem["detail"]
    await process.call("DELETE", f"{PODS}/home", headers={"If-Match": "*"}, status=204)
    await process.call("DELETE", one, headers={"If-Match": '"1"'}, status=204)
    await process.call("GET", one, status=404)


# Keys and tokens


async def test_a_token_is_shown_once_rotated_and_revoked(process: Process) -> None:
    issued, headers = await process.call_for_headers(
        "POST", "/admin/v1/tokens", {"role": "reader", "label": "me"}, status=201
    )
    assert headers["Cache-Control"] == "no-store"
    listed = await process.call("GET", "/admin/v1/tokens")
    assert issued["token"] in listed["tokens"]
    assert issued["secret"] not in str(listed)
    await process.serving.refresh()
    mine = {"Authorization": f"Bearer {issued['secret']}"}
    await process.call("GET", PODS, headers=mine)
    path = f"/admin/v1/tokens/{issued['token']['id']}"
    rotated = await process.call("POST", f"{path}/rotate", status=201)
    await process.serving.refresh()
    await process.call("GET", PODS, headers=mine, status=401)
    new = {"Authorization": f"Bearer {rotated['secret']}"}
    await process.call("GET", PODS, headers=new)
    await process.call("DELETE", f"/admin/v1/tokens/{rotated['token']['id']}")
    await process.serving.refresh()
    await process.call("GET", PODS, headers=new, status=401)


async def test_wrong_tokens_and_keys(process: Process) -> None:
    for body, wrong in (
        ({}, ["/role"]),
        ({"role": "king"}, ["/role"]),
        ({"role": "reader", "expires_at": -1}, ["/expires_at"]),
        ({"role": "reader", "expires": 1}, ["/expires"]),
    ):
        problem = await process.call("POST", "/admin/v1/tokens", body, status=400)
        assert pointers(problem) == wrong
    await process.call("POST", "/admin/v1/tokens", {"role": "reader", "expires_at": 5}, status=400)
    await process.call("DELETE", "/admin/v1/tokens/tok_none", status=404)
    await process.call("DELETE", "/admin/v1/keys/key_none", status=404)
    mine = [
        token
        for token in (await process.call("GET", "/admin/v1/tokens"))["tokens"]
        if token["role"] == "administrator"
    ]
    await process.call("DELETE", f"/admin/v1/tokens/{mine[0]['id']}", status=400)


async def test_a_key_is_created_and_revoked(process: Process) -> None:
    made = await process.call("POST", "/admin/v1/keys", {"label": "web"}, status=201)
    await process.serving.refresh()
    assert process.serving.snapshot(made["key"]).merchant == process.merchant
    revoked = await process.call("DELETE", f"/admin/v1/keys/{made['key']}")
    assert revoked["revoked_at"] is not None
    await process.serving.refresh()
    async with process.http.get(
        f"{process.url}/recommendations/v1/pods/home", params={"key": made["key"]}
    ) as response:
        assert response.status == 401


# Audit


async def test_every_change_is_in_the_audit_log_and_no_secret(process: Process) -> None:
    await process.call("POST", PODS, pod(), status=201)
    await process.call("PUT", f"{PODS}/home", pod(num_results=3), headers={"If-Match": "*"})
    await process.call("DELETE", f"{PODS}/home", headers={"If-Match": "*"}, status=204)
    issued = await process.call("POST", "/admin/v1/tokens", {"role": "reader"}, status=201)
    log = await process.call("GET", "/admin/v1/audit", limit=200, role=Role.READER)
    assert issued["secret"] not in str(log)
    about = await process.call("GET", "/admin/v1/audit", subject="home")
    assert [one["action"] for one in about["items"]] == ["pod.delete", "pod.change", "pod.create"]
    assert about["items"][1]["before"]["num_results"] == 10
    assert about["items"][1]["after"]["num_results"] == 3
    assert about["items"][0]["after"] is None
    only = await process.call("GET", "/admin/v1/audit", action="pod.change")
    assert len(only["items"]) == 1
    page = await process.call("GET", "/admin/v1/audit", limit=1)
    rest = await process.call("GET", "/admin/v1/audit", limit=200, cursor=page["next_cursor"])
    assert page["items"] + rest["items"] == log["items"]
    for method in ("POST", "PUT", "DELETE"):
        await process.call(method, "/admin/v1/audit", status=405)


async def test_a_refused_change_leaves_no_trace(process: Process) -> None:
    before = await process.call("GET", "/admin/v1/audit", limit=200)
    version = process.serving.merchants()[process.merchant].configuration.merchant
    await process.call("POST", PODS, pod(chain=["nothing"]), status=400)
    assert await process.call("GET", "/admin/v1/audit", limit=200) == before
    await process.serving.refresh()
    after = process.serving.merchants()[process.merchant].configuration.merchant
    assert after.configuration_version == version.configuration_version + 1  # the fixture's own


# Versions of the program


async def test_rows_of_another_version_of_the_program(process: Process) -> None:
    """A field that this version does not know is passed over; a pod that it cannot read is left
    out, and the others are served."""
    for name in ("later", "broken", "home"):
        await process.call("POST", PODS, pod(name), status=201)
    async with process.database.merchant(process.merchant) as connection:
        driver = await raw(connection)
        for name, change in (("later", '{"new_field": 1}'), ("broken", '{"num_results": 0}')):
            await driver.execute(
                "UPDATE pod SET definition = definition || $1::text::jsonb WHERE id = $2",
                *(change, name),
            )
    await process.serving.refresh()
    assert set(process.serving.merchants()[process.merchant].pods) == {"home", "later"}
    assert (await process.call("GET", f"{PODS}/later"))["num_results"] == 10
    listed = await process.call("GET", PODS)
    assert [one["id"] for one in listed["items"]] == ["home", "later"]
    problem = await process.call("GET", f"{PODS}/broken", status=409)
    assert "num_results" in problem["detail"]
    await process.call("PUT", f"{PODS}/broken", pod("broken"), headers={"If-Match": "*"})
    await process.call("GET", f"{PODS}/broken")


# Another process


async def test_a_change_in_one_process_is_served_by_another(
    process: Process, start: Callable[[], Any]
) -> None:
    other: Process = await start()
    await process.call("POST", PODS, pod(), status=201)
    following = asyncio.create_task(other.serving.run())
    try:
        async with asyncio.timeout(30):
            while "home" not in other.serving.merchants()[other.merchant].pods:
                await asyncio.sleep(0.02)
    finally:
        following.cancel()
    answer = await other.recommended("home")
    assert answer["response"]["pod"] == {"id": "home", "display_name": "Home"}
