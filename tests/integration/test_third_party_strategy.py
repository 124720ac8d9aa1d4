"""A strategy from outside, installed with pip: listed, configured, fitted and served, and one that
fails at import, which is reported and harms nothing. Not a line of `app` knows of either."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.task import TRAINING
from app.jobs.queue import JobQueue
from app.jobs.worker import Worker
from tests.admin_shop import Process, open_processes

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def process(
    third_party_strategies: Path, database_url: str, merchant: Any, tmp_path: Path
) -> AsyncIterator[Process]:
    async with open_processes(database_url, merchant, tmp_path) as start:
        yield await start()


async def test_it_is_listed_configured_fitted_and_served(
    process: Process, database_url: str
) -> None:
    await process.add_items("old", "middle", "young")
    found = (await process.call("GET", "/admin/v1/strategies"))["strategies"]
    named = {one["name"]: one for one in found}
    assert (named["newest"]["version"], named["newest"]["distribution"]) == ("1.2.3", "acme-newest")
    assert (named["broken"]["state"], named["broken"]["reason"]) == (
        "broken",
        "import of acme_broken:Broken failed: RuntimeError: acme needs a licence file",
    )

    problem = await process.call(
        "POST",
        "/admin/v1/strategy-configurations",
        {"id": "new", "strategy": "newest", "config": {"keep": 0}},
        status=400,
    )
    assert [error["pointer"] for error in problem["errors"]] == ["/config/keep"]
    problem = await process.call(
        "POST",
        "/admin/v1/strategy-configurations",
        {"id": "new", "strategy": "broken"},
        status=400,
    )
    assert "acme needs a licence file" in problem["errors"][0]["detail"]
    await process.call(
        "POST",
        "/admin/v1/strategy-configurations",
        {"id": "new", "strategy": "newest", "config": {"keep": 2}},
        status=201,
    )
    await process.call(
        "POST",
        "/admin/v1/pods",
        {"id": "home", "display_name": "New in", "chain": ["new"]},
        status=201,
    )

    task = await process.call("POST", "/admin/v1/trainings", status=202)
    queue = JobQueue(database_url, pool=5)  # as the worker process has it
    await queue.open()
    try:
        await Worker(queue, {TRAINING: process.trainings.run}).run(until_idle=True)
    finally:
        await queue.close()
    assert (await process.tasks.get(process.merchant, task["id"])).counts == {
        "fitted": 1,
        "failed": 0,
    }
    await process.serving.refresh()
    answer = await process.recommended("home")
    results = answer["response"]["results"]
    assert [one["data"]["id"] for one in results] == ["young", "middle"]
    assert results[0]["strategy"] == {"id": "new"}
    assert results[0]["reason"] == "new"


async def test_models_are_listed_published_and_rolled_back_over_http(process: Process) -> None:
    await process.add_items("old", "young")
    configuration = {"id": "new", "strategy": "newest"}
    await process.call("POST", "/admin/v1/strategy-configurations", configuration, status=201)
    for _ in range(2):
        task = await process.call("POST", "/admin/v1/trainings", {"publish": False}, status=202)
        await process.trainings.run(process.merchant, task["id"])
    found = await process.call("GET", "/admin/v1/models", configuration_id="new")
    assert [(one["number"], one["state"]) for one in found["items"]] == [
        (2, "fitted"),
        (1, "fitted"),
    ]
    assert found["items"][0]["manifest"]["metrics"]["items"] == 2
    second, first = (one["id"] for one in found["items"])
    for id_ in (first, second):
        await process.call("POST", f"/admin/v1/models/{id_}/publish")
    assert (await process.call("GET", f"/admin/v1/models/{first}"))["state"] == "retired"
    rollback = "/admin/v1/strategy-configurations/new/rollback"
    assert (await process.call("POST", rollback))["number"] == 1
    await process.call("POST", rollback, status=404)
    await process.call("GET", "/admin/v1/models/999999", status=404)
    await process.call("POST", "/admin/v1/models/x/publish", status=404)
    problem = await process.call(
        "POST", "/admin/v1/trainings", {"configuration_ids": ["new", "nwe"]}, status=400
    )
    assert [error["pointer"] for error in problem["errors"]] == ["/configuration_ids/1"]
    log = await process.call("GET", "/admin/v1/audit", subject="new/1")
    assert [one["action"] for one in log["items"]] == [
        "model.rollback",
        "model.publish",
        "model.fit",
    ]


async def test_the_command_lists_them(third_party_strategies: Path) -> None:
    def run(*options: str) -> str:
        return subprocess.run(
            [Path(sys.executable).with_name("vitrine"), "strategies", "list", *options],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        ).stdout

    listed = {one["name"]: one for one in json.loads(run("--json"))}
    assert listed["newest"]["state"] == "ready"
    assert listed["broken"]["reason"].endswith("acme needs a licence file")
    lines = {line.split()[0]: line for line in run().splitlines() if line.strip()}
    assert lines["newest"].split() == ["newest", "1.2.3", "acme-newest", "ready"]
    assert "broken" in lines["broken"]
    assert "acme needs a licence file" in lines["broken"]
