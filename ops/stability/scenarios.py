"""The scenarios. Each is a function of the world, that breaks something under load and says what
came of it.

`seconds(n)` are scaled by `--scale`. With `unprotected`, what protects the service from the fault
is switched off, and the scenario must fail: that shows that it measures something.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psutil

from ops.stability.changes import catalogue_changed
from ops.stability.crowds import connections, overload
from ops.stability.hostile import hostile_bytes, hostile_calls, hostile_parsers
from ops.stability.load import CUT, Load, facts, percentile, recovery
from ops.stability.migrating import migrated
from ops.stability.scene import (
    RECOVERY,
    SETTLE,
    Result,
    Scene,
    broken,
    count_events,
    no_failure,
    without,
)
from ops.stability.world import Service, World

IN_FLIGHT: Final = 0.25
"""Seconds before and after a kill in which a request must have been meant to be sent, to have been
in flight: an answer's time before, and after it what the kernel takes to free the memory of a
process, before it closes its connections."""


async def redis_fault(scene: Scene, name: str, fault: str, value: float, during: float) -> Result:
    proxy = scene.world.proxy
    # Without a budget, requests wait for Redis as long as it takes.
    async with without(scene, request_budget=30):
        result = await broken(
            scene,
            name,
            lambda: proxy.set("redis", fault, value),
            lambda: proxy.set("redis", "none"),
            during=during,
        )
    no_failure(result)
    recovered = result.figures["recovery_s"]
    result.require(recovered <= RECOVERY, f"degraded {recovered} s after it was mended")
    return result


async def redis_killed(scene: Scene) -> Result:
    return await redis_fault(scene, "redis_killed", "refuse", 0, 30)


async def redis_stalled(scene: Scene) -> Result:
    return await redis_fault(scene, "redis_stalled", "stall", 0, 30)


async def redis_slow(scene: Scene) -> Result:
    return await redis_fault(scene, "redis_slow_200ms", "latency", 0.2, 30)


async def redis_emptied(scene: Scene) -> Result:
    async def nothing() -> None:
        return None

    result = await broken(scene, "redis_emptied", scene.world.flush_redis, nothing, during=15)
    no_failure(result)
    ready = await asyncio.to_thread(scene.world.service.ready)
    result.require(ready is not None and not ready["degraded"], f"it is not itself again: {ready}")
    return result


async def postgres_killed(scene: Scene) -> Result:
    world = scene.world

    async def kill() -> None:
        await asyncio.to_thread(world.kill_postgres)

    async def start() -> None:
        await asyncio.to_thread(world.postgres.stop)
        await asyncio.to_thread(world.postgres.start)

    # Without a spool, events are refused while PostgreSQL is away.
    async with without(scene, event_spool=None):
        result = await broken(scene, "postgres_killed", kill, start, during=60)
    no_failure(result)
    refused = result.figures["events_refused"]
    result.require(refused == 0, f"{refused} events were refused, though there is a spool")
    return result


async def both_killed(scene: Scene) -> Result:
    proxy = scene.world.proxy

    async def kill() -> None:
        await proxy.set("redis", "refuse")
        await proxy.set("postgres", "refuse")

    async def mend() -> None:
        await proxy.set("redis", "none")
        await proxy.set("postgres", "none")

    async with without(scene, event_spool=None, request_budget=30):
        result = await broken(scene, "both_killed", kill, mend, during=30)
    no_failure(result)
    refused = result.figures["events_refused"]
    result.require(refused == 0, f"{refused} events were refused, though there is a spool")
    return result


async def worker_killed(scene: Scene) -> Result:
    """kill -9 of one of two workers, again and again, once both serve."""
    async with without(scene, spare_worker=False):
        return await _worker_killed(scene)


async def _worker_killed(scene: Scene) -> Result:
    service = scene.world.service
    await asyncio.sleep(5)  # for the spare of what a scenario before left behind
    load = Load(scene.world.shop(), scene.rate)
    load.start()
    await asyncio.sleep(SETTLE + scene.seconds(6))
    marks, times, replaced = {"fault": load.now}, [], []
    until = time.monotonic() + scene.seconds(60)
    while time.monotonic() < until:
        workers = service.workers()
        victims = workers if scene.unprotected else [random.choice(workers)]
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        times.append(load.now)
        replaced.append(await _ready_again(service, workers, victims))
        await asyncio.sleep(max(0.0, 5 - (load.now - times[-1])))
    marks["mended"] = load.now
    await asyncio.sleep(scene.seconds(8))
    record = await load.stop()
    result = Result("worker_killed", facts(record, marks), record, marks)
    cut = [s for s in record.of("recommend") if s.why == CUT]
    held = [s for s in cut if any(abs(s.at - at) <= IN_FLIGHT for at in times)]
    figures = result.figures
    figures |= {
        "kills": len(times),
        "cut_in_flight": len(held),
        "most_cut_by_a_kill": max(sum(abs(s.at - at) <= IN_FLIGHT for s in held) for at in times),
        "recovery_s": round(max(replaced), 2),
    }
    await count_events(scene.world, result)
    # Nobody but whose connection the dead worker had: no new connection, nobody by waiting.
    others = figures["failed"] + figures["refused"] - len(held)
    result.require(others == 0, f"{others} failed that were not in flight: {figures['why']}")
    slowest = max(replaced)
    result.require(slowest <= RECOVERY, f"{slowest:.1f} s until a worker was replaced, and ready")
    return result


async def _ready_again(
    service: Service, workers: list[psutil.Process], victims: list[psutil.Process]
) -> float:
    """Seconds until as many other processes are ready as were killed; 60 where they are not."""
    began = time.monotonic()
    left = {worker.pid for worker in workers} - {victim.pid for victim in victims}
    while (seconds := time.monotonic() - began) < 60:
        others = {worker.pid for worker in service.workers()} - {v.pid for v in victims}
        there = len(others - left) == len(victims)
        if there and await asyncio.to_thread(service.serving) >= len(workers):
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    return seconds


async def rolling_restart(scene: Scene) -> Result:
    service = scene.world.service
    load = Load(scene.world.shop(), scene.rate)
    load.start()
    await asyncio.sleep(SETTLE + scene.seconds(3))
    marks, rounds = {"fault": load.now}, 5 if scene.scale >= 1 else 2
    for _ in range(rounds):
        before = {worker.pid for worker in service.workers()}
        if scene.unprotected:  # all at once
            for worker in service.workers():
                worker.send_signal(signal.SIGTERM)
        else:
            service.process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + 90
        while before & {w.pid for w in service.workers()} or len(service.workers()) != len(before):
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.1)
    marks["mended"] = load.now
    await asyncio.sleep(scene.seconds(5))
    record = await load.stop()
    result = Result("rolling_restart", facts(record, marks), record, marks)
    result.figures |= {
        "restarts": rounds,
        "recovery_s": recovery(record, marks["mended"], marks["fault"]),
    }
    await count_events(scene.world, result)
    no_failure(result)
    return result


async def plugins(scene: Scene) -> Result:
    """Half of the requests make the strategy misbehave."""
    world = scene.world
    terms = ("hang", "loop", "raise", "nan", "rows", "leak", "die", "crash")
    if scene.unprotected:  # nothing is contained
        body = {"id": "unruly", "strategy": "unruly", "mode": "inline"}
        await change(world, "/admin/v1/strategy-configurations/unruly", body)
        await asyncio.sleep(2)
    before = world.service.resident()
    shop = world.shop(pods=("unruly",), terms=terms)
    load = Load(shop, min(scene.rate, 50.0), 0.0)
    load.start()
    await asyncio.sleep(SETTLE + scene.seconds(40))
    record = await load.stop()
    result = Result("plugin_process", facts(record, {}), record)
    # The budget is 100 ms; what is beyond it is the way there and back, on busy processors.
    slow = percentile(record.of("recommend"), 0.99)
    grown = world.service.resident() - before
    result.figures |= {"p99_ms": slow, "memory_growth_mib": round(grown / 2**20, 1),
                       "recovery_s": 0.0}  # fmt: skip
    no_failure(result)
    result.require(slow is not None and slow <= 200, f"p99 is {slow} ms: not the deadline's")
    result.require(grown < 64 << 20, f"the workers grew by {grown >> 20} MiB")
    if scene.unprotected:
        body = {"id": "unruly", "strategy": "unruly", "mode": "process"}
        # Another worker would only take up the next of the requests that wait.
        await asyncio.to_thread(world.service.kill)
        await world.serve()
        await change(world, "/admin/v1/strategy-configurations/unruly", body)
    return result


async def change(world: World, path: str, body: Any) -> None:
    def put() -> None:
        url = f"http://127.0.0.1:{world.service.port}{path}"
        headers = {"Authorization": f"Basic {world.basic}", "Content-Type": "application/json"}
        get = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(get, timeout=30) as answer:
            etag = answer.headers["ETag"]
        request = urllib.request.Request(
            url, method="PUT", data=json.dumps(body).encode(), headers={**headers, "If-Match": etag}
        )
        urllib.request.urlopen(request, timeout=30).read()

    await asyncio.to_thread(put)


async def soak(scene: Scene, minutes: float = 30.0) -> Result:
    """Half of capacity for a long time, with publications, imports and trainings."""
    world = scene.world
    load = Load(world.shop(), scene.rate)
    load.start()
    total = minutes * 60 * scene.scale
    warm = min(300.0, total / 3)
    series: list[tuple[float, int, int]] = []
    changes = 0
    while load.now < total:
        number = random.randrange(2_000)
        item = {"id": f"p{number}", "name": f"Product {number} again", "data": {"price": changes}}
        with contextlib.suppress(OSError):
            await world.call("PATCH", "/v2/items", {"items": [item]})
        if changes % 10 == 0:
            await world.train("popular")
        changes += 1
        series.append((load.now, world.service.resident(), world.service.descriptors()))
        await asyncio.sleep(3)
    record = await load.stop()
    result = Result("soak", facts(record, {}), record)
    settled = [one for one in series if one[0] >= warm] or series
    third = max(1, len(settled) // 3)
    early = sum(one[1] for one in settled[:third]) / third
    late = sum(one[1] for one in settled[-third:]) / third
    growth = late / early - 1
    files = max(one[2] for one in settled[-third:]) - max(one[2] for one in settled[:third])
    result.figures |= {"changes": changes, "memory_mib": round(late / 2**20),
                       "memory_growth": round(growth, 4), "descriptor_growth": files,
                       "recovery_s": 0.0}  # fmt: skip
    await count_events(world, result)
    no_failure(result)
    result.require(growth <= 0.02, f"memory grew by {growth:.1%} after warm-up")
    result.require(files <= 16, f"{files} descriptors more than at first")
    return result


ALL: Final[dict[str, Callable[[Scene], Awaitable[Result]]]] = {
    "redis_killed": redis_killed,
    "redis_stalled": redis_stalled,
    "redis_slow": redis_slow,
    "redis_emptied": redis_emptied,
    "postgres_killed": postgres_killed,
    "both_killed": both_killed,
    "worker_killed": worker_killed,
    "rolling_restart": rolling_restart,
    "plugins": plugins,
    "overload": overload,
    "connections": connections,
    "catalogue_changed": catalogue_changed,
    "migrated": migrated,
    "hostile_bytes": hostile_bytes,
    "hostile_calls": hostile_calls,
    "hostile_parsers": hostile_parsers,
}
# What can be switched off, so that the scenario must fail.
PROTECTED: Final = (
    "redis_stalled",
    "redis_slow",
    "postgres_killed",
    "both_killed",
    "worker_killed",
    "rolling_restart",
    "plugins",
    "overload",
)
