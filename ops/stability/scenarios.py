"""The scenarios. Each is a function of the world, that breaks something under load and says what
came of it.

`seconds(n)` are scaled by `--scale`. With `unprotected`, what protects the service from the fault
is switched off, and the scenario must fail: that shows that it measures something.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ops.stability.load import Load, Record, Shop, capacity, facts, percentile, recovery
from ops.stability.world import World

RECOVERY: Final = 2.0  # seconds that the issue allows
SETTLE: Final = 3.0  # seconds of load before anything is counted
SURE: Final = 6.0  # the same beyond capacity: until the service is sure and has worked off the rest


@dataclass
class Scene:
    """How a scenario is played."""

    world: World
    rate: float  # requests a second: half of what was measured
    peak: float  # recommendations a second that were measured
    scale: float = 1.0
    unprotected: bool = False

    def seconds(self, value: float) -> float:
        return max(3.0, value * self.scale)


@dataclass
class Result:
    name: str
    figures: dict[str, Any]
    record: Record
    marks: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "failed" if self.wrong else "passed"

    def require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)


Fault = Callable[[], Awaitable[object]]


async def broken(
    scene: Scene,
    name: str,
    fault: Fault,
    mend: Fault,
    *,
    during: float,
    events: bool = True,
    shop: Shop | None = None,
) -> Result:
    """Load, a fault in it, its end, and what is seen afterwards."""
    load = Load(shop or scene.world.shop(), scene.rate, 0.15 if events else 0.0)
    load.start()
    await asyncio.sleep(SETTLE + scene.seconds(6))
    marks = {"fault": load.now}
    await fault()
    await asyncio.sleep(scene.seconds(during))
    await mend()
    marks["mended"] = load.now
    await asyncio.sleep(RECOVERY + scene.seconds(8))
    record = await load.stop()
    result = Result(name, facts(record, marks), record, marks)
    result.figures["recovery_s"] = recovery(record, marks["mended"], marks["fault"])
    await count_events(scene.world, result)
    return result


async def count_events(world: World, result: Result) -> None:
    """Every acknowledged event once. What waits in a spool is given time to arrive."""
    ids = result.record.acknowledged
    found = twice = 0
    for _ in range(60):
        found, twice = await asyncio.to_thread(world.events, ids)
        if found == len(ids):
            break
        await asyncio.sleep(0.5)
    result.figures |= {"found": found, "twice": twice}
    result.require(bool(ids), "no event was acknowledged: nothing was shown")
    result.require(found == len(ids), f"{len(ids) - found} acknowledged events are lost")
    result.require(twice == 0, f"{twice} events are there twice")


def no_failure(result: Result, *, refused: bool = False) -> None:
    figures = result.figures
    result.require(figures["requests"] > 0, "nothing was asked")
    result.require(figures["failed"] == 0, f"{figures['failed']} failed: {figures['why']}")
    if not refused:
        result.require(figures["refused"] == 0, f"{figures['refused']} were refused")


async def restarted(scene: Scene, **settings: Any) -> None:
    await scene.world.stop()
    await scene.world.serve(**settings)


@contextlib.asynccontextmanager
async def without(scene: Scene, **settings: Any):  # type: ignore[no-untyped-def]
    """The service without a protection, where that is asked for."""
    if scene.unprotected:
        await restarted(scene, **settings)
    try:
        yield
    finally:
        if scene.unprotected:
            await restarted(scene)


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
    service = scene.world.service
    load = Load(scene.world.shop(), scene.rate)
    load.start()
    await asyncio.sleep(SETTLE + scene.seconds(6))
    marks, kills, slowest, ready = {"fault": load.now}, 0, 0.0, 0.0
    until = time.monotonic() + scene.seconds(60)
    while time.monotonic() < until:
        workers = service.workers()
        victims = workers if scene.unprotected else [random.choice(workers)]
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        kills += 1
        began = time.monotonic()
        known = {worker.pid for worker in workers} - {victim.pid for victim in victims}
        while len({w.pid for w in service.workers()} - known) < len(victims):
            await asyncio.sleep(0.02)
        slowest = max(slowest, time.monotonic() - began)
        while await asyncio.to_thread(service.serving) < len(workers):
            if time.monotonic() - began > 60:
                break
            await asyncio.sleep(0.1)
        ready = max(ready, time.monotonic() - began)
        await asyncio.sleep(max(0.0, 5 - (time.monotonic() - began)))
    marks["mended"] = load.now
    await asyncio.sleep(scene.seconds(8))
    record = await load.stop()
    result = Result("worker_killed", facts(record, marks), record, marks)
    result.figures |= {
        "kills": kills,
        "replaced_s": round(slowest, 2),
        "recovery_s": round(ready, 2),
    }
    await count_events(scene.world, result)
    # In flight in a worker: what its connections hold; a client's timeout takes as many again.
    most = kills * max(4, int(scene.rate * 0.05))
    failed = result.figures["failed"] + result.figures["refused"]
    result.require(failed <= most, f"{failed} failed, {most} could be in flight")
    result.require(slowest <= RECOVERY, f"it took {slowest:.1f} s to replace a worker")
    return result


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
    # The budget is 100 ms; what is beyond it is the way there and back.
    slow = percentile(record.of("recommend"), 0.99)
    grown = world.service.resident() - before
    result.figures |= {"p99_ms": slow, "memory_growth_mib": round(grown / 2**20, 1),
                       "recovery_s": 0.0}  # fmt: skip
    no_failure(result)
    result.require(grown < 64 << 20, f"the workers grew by {grown >> 20} MiB")
    if scene.unprotected:
        body = {"id": "unruly", "strategy": "unruly", "mode": "process"}
        for worker in world.service.workers():
            worker.send_signal(signal.SIGKILL)
        await asyncio.sleep(5)
        await change(world, "/admin/v1/strategy-configurations/unruly", body)
    return result


async def change(world: World, path: str, body: Any) -> None:
    import json
    import urllib.request

    def put() -> None:
        url = f"http://127.0.0.1:{world.service.port}{path}"
        headers = {"Authorization": f"Basic {world.basic}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            etag = answer.headers["ETag"]
        request = urllib.request.Request(
            url, method="PUT", data=json.dumps(body).encode(), headers={**headers, "If-Match": etag}
        )
        urllib.request.urlopen(request).read()

    await asyncio.to_thread(put)


async def overload(scene: Scene) -> Result:
    """Half more than capacity, open loop. Each answer costs some milliseconds of a processor, so
    that it is the service that has too much to do and not what asks."""
    async with without(scene, queue_seconds=0):
        shop = scene.world.shop(pods=("costly",), terms=("busy",), share=1.0)
        await capacity(shop, 2)
        peak = await capacity(shop, scene.seconds(10), 16)
        quiet = Load(shop, peak / 2, 0.0, timeout=10)
        quiet.start()
        await asyncio.sleep(scene.seconds(10))
        calm = percentile(
            [s for s in (await quiet.stop()).of("recommend", 1) if s.status == 200], 0.99
        )
        load = Load(shop, peak * 1.5, 0.0, timeout=10)
        load.start()
        await asyncio.sleep(SURE + scene.seconds(60))
        record = await load.stop()
    result = Result("overload_1.5", facts(record, {}), record)
    asked = record.of("recommend", SURE)
    good = [s for s in asked if s.status == 200]
    seconds = max(s.at for s in asked) - SURE
    tail = percentile(good, 0.99)
    share = len(good) / seconds / peak
    result.figures |= {
        "peak_per_s": round(peak),
        "goodput_per_s": round(len(good) / seconds),
        "goodput_of_peak": round(share, 2),
        "p99_quiet_ms": calm,
        "p50_admitted_ms": percentile(good, 0.5),
        "p99_admitted_ms": tail,
        "recovery_s": 0.0,
    }
    no_failure(result, refused=True)
    # A refusal takes some 2 % of an answer's time here: half of a peak of them, 1 %.
    result.require(share >= 0.9, f"goodput is {share:.0%} of the peak")
    result.require(
        tail is not None and calm is not None and tail <= 3 * calm,
        f"p99 of the admitted is {tail} ms, {calm} ms when it is quiet",
    )
    return result


async def connections(scene: Scene) -> Result:
    """Three times the connections that reach the peak, each asking again at once."""
    shop = scene.world.shop()
    seconds = scene.seconds(15)
    alone = await capacity(shop, seconds, 32)
    many = await capacity(shop, seconds, 96)
    figures = {
        "peak_per_s": round(alone),
        "goodput_per_s": round(many),
        "requests": round(many * seconds),
    }
    result = Result("connections_3x", figures, Record())
    result.require(many >= 0.9 * alone, f"{many:.0f} a second, {alone:.0f} with a third of them")
    return result


async def hostile_bytes(scene: Scene) -> Result:
    """Bytes that are no request, or nearly one."""
    dice, world = random.Random(7), scene.world
    await asyncio.sleep(5)  # nobody is refused for what came before
    cases = max(500, int(10_000 * scene.scale))
    whole = [
        world.shop().recommendation(),
        world.shop().event("fuzz"),
        b"GET /recommendations/v1/pods/home?key=" + world.key.encode() + b"&filters[a]=1-2&"
        b"pre_filter_expression=%7B%22not%22%3A%7B%7D%7D HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v2/behavioral_action/purchase?key=" + world.key.encode() + b" HTTP/1.1\r\nHost: x"
        b'\r\nContent-Length: 40\r\n\r\n{"items":[{"item_id":"p1"}],"revenue":1} ',
    ]
    counts: dict[str, int] = {}
    pids = {worker.pid for worker in world.service.workers()}

    async def case() -> None:
        data = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(1, 8)):
            at = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[at] = dice.randrange(256)
                case 1:
                    del data[at : at + dice.randrange(1, 20)]
                case 2:
                    data[at:at] = bytes(dice.randrange(256) for _ in range(dice.randrange(1, 20)))
                case _:
                    data[at:at] = dice.choice(
                        (b"%00", b"\r\n", b"[[[[", b"{" * 100, b"1e999", b"\xff\xfe", b"-1", b"'--")
                    )
            if not data:
                data = bytearray(b"\0")
        reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
        answer = b""
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(bytes(data))
            async with asyncio.timeout(0.4):  # what is not whole is not answered
                answer = await reader.read(65_536)
        writer.transport.abort()
        status = answer[9:12].decode("latin1") if answer.startswith(b"HTTP/1.") else "none"
        counts[status] = counts.get(status, 0) + 1

    for start in range(0, cases, 50):
        await asyncio.gather(*(case() for _ in range(min(50, cases - start))))
    bad = {status: count for status, count in counts.items() if status.startswith("5")}
    result = Result("hostile_bytes", {"requests": cases, "failed": sum(bad.values()),
                    "answers": dict(sorted(counts.items())), "degraded": 0, "acknowledged": 0,
                    "found": 0, "twice": 0, "recovery_s": 0.0}, Record())  # fmt: skip
    result.require(not bad, f"answers of the server's own failure: {bad}")
    result.require(
        pids == {worker.pid for worker in world.service.workers()}, "a worker ended meanwhile"
    )
    return result


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
    "hostile_bytes": hostile_bytes,
}
# What can be switched off, so that the scenario must fail.
PROTECTED: Final = (
    "redis_stalled", "postgres_killed", "worker_killed", "rolling_restart", "plugins", "overload",
)  # fmt: skip
