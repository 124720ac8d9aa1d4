"""The catalogue changed by many at once, under load, while what is made from it is lost: in the end
each worker serves what PostgreSQL has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
import urllib.error
import uuid
from http import HTTPStatus
from typing import Any, Final

import psycopg

from app.embedded import APP_ROLE
from ops.stability.load import Client, Load, facts
from ops.stability.scene import SETTLE, Result, Scene, count_events, no_failure
from ops.stability.world import ITEMS, MERCHANT, ROOT, VITRINE, World

WRITERS: Final = 4
FILE_ITEMS: Final = 10_000  # of the imported file, all of them new
BOUND: Final = 5.0  # seconds within which the caches are true again, once nothing changes any more
RESUMED: Final = 150.0  # within which a killed import is done: jobs are looked at once a minute


async def catalogue_changed(scene: Scene) -> Result:
    """Items are patched by several at once, a file is imported by a worker that is killed halfway
    and started again, and Redis is emptied twice."""
    world = scene.world
    load = Load(world.shop(), scene.rate / 2)  # changes and the import have the other half
    load.start()
    await asyncio.sleep(SETTLE)
    marks = {"fault": load.now}
    ended = asyncio.Event()
    counts = [0, 0]
    writers = [asyncio.create_task(_write(world, ended, counts)) for _ in range(WRITERS)]
    halves: set[int] = set()
    looking = asyncio.create_task(_look(world, halves))
    try:
        await asyncio.sleep(scene.seconds(5))
        await world.flush_redis()
        done = await _import(world)
        await world.flush_redis()
        await asyncio.sleep(scene.seconds(5))
    finally:
        ended.set()
        await asyncio.gather(*writers)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    marks["mended"] = load.now
    began = time.monotonic()
    compared, wrong = await _compare(world)
    while wrong and time.monotonic() - began < 30:
        await asyncio.sleep(0.2)
        compared, wrong = await _compare(world)
    true_after = time.monotonic() - began
    await asyncio.sleep(1)
    record = await load.stop()
    result = Result("catalogue_changed", facts(record, marks), record, marks)
    result.figures |= {
        "writes": counts[0],
        "writes_refused": counts[1],
        "imported": done,
        "compared": compared,
        "wrong": wrong,
        "recovery_s": round(true_after, 2),
    }
    await count_events(world, result)
    no_failure(result)
    result.require(done == "DONE", f"the import was killed and is {done}")
    result.require(halves <= {0, FILE_ITEMS}, f"a part of the import was seen: {halves}")
    result.require(compared > 0, "nothing was compared")
    result.require(
        true_after <= BOUND and not wrong,
        f"after {true_after:.1f} s {wrong} of {compared} prices were not PostgreSQL's",
    )
    return result


async def _write(world: World, ended: asyncio.Event, counts: list[int]) -> None:
    while not ended.is_set():
        ids = random.sample(range(ITEMS), 20)
        items = [{"id": f"p{n}", "data": {"price": random.randrange(1, 10**6)}} for n in ids]
        try:
            await world.call("PATCH", "/v2/items", {"items": items})
            counts[0] += 1
        except (OSError, urllib.error.HTTPError):
            counts[1] += 1
        await asyncio.sleep(0.25)


async def _look(world: World, found: set[int]) -> None:
    """How many of the file's items are in the catalogue, at each moment."""
    while True:
        found.add(await asyncio.to_thread(_count, world))
        await asyncio.sleep(0.1)


def _rows(world: World, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(world.postgres.url(APP_ROLE)) as connection:
        connection.execute("SELECT set_config('vitrine.merchant', %s, false)", [MERCHANT])
        return connection.execute(query).fetchall()  # type: ignore[call-overload,no-any-return]  # it is a literal of this file


def _count(world: World) -> int:
    return int(_rows(world, "SELECT count(*) FROM item WHERE id LIKE 'file-%'")[0][0])


async def _import(world: World) -> str:
    """Imports a file by a worker that is killed in the middle, and by the next. The task's end."""
    run = uuid.uuid4().hex[:6]
    rows = [f"file-{number},Item {run} {number},{number}.5" for number in range(FILE_ITEMS)]
    started = await world.upload("\r\n".join(["id,item_name,price", *rows, ""]))
    path = started["task_status_path"]
    worker = _worker(world)
    try:
        await _status(world, path, ("IN_PROGRESS", "DONE", "FAILED"))
        os.killpg(worker.pid, signal.SIGKILL)
        await asyncio.to_thread(worker.wait)
        worker = _worker(world)
        return await _status(world, path, ("DONE", "FAILED"))
    finally:
        worker.terminate()
        await asyncio.to_thread(worker.wait)


async def _status(world: World, path: str, wanted: tuple[str, ...]) -> str:
    until = time.monotonic() + RESUMED
    status = ""
    while status not in wanted and time.monotonic() < until:
        await asyncio.sleep(0.02 if "IN_PROGRESS" in wanted else 0.5)
        with contextlib.suppress(OSError):
            status = (await world.call("GET", path))["status"]
    return status


def _worker(world: World) -> subprocess.Popen[bytes]:
    with (world.home / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [VITRINE, "worker"],
            env=world.environment,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
        )


async def _compare(world: World) -> tuple[int, int]:
    """Prices that were served, asked often enough to hear all workers, and how many of them are not
    PostgreSQL's."""
    rows = await asyncio.to_thread(_rows, world, "SELECT id, data->>'price' FROM item")
    prices = {id_: None if price is None else float(price) for id_, price in rows}
    compared = wrong = 0
    for _ in range(4 * len(world.service.workers())):
        client = Client(world.service.port)  # a connection of its own: of any worker
        shop = world.shop()
        for _ in range(10):
            status, _, body = await client.ask(shop.recommendation(), 5.0)
            if status != HTTPStatus.OK:  # it is busy
                continue
            for one in json.loads(body)["response"]["results"]:
                compared += 1
                wrong += one["data"].get("price") != prices[one["data"]["id"]]
        client.close()
    return compared, wrong
