"""More than the service can answer."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

from ops.stability.load import Client, Load, Record, Shop, capacity, facts, percentile
from ops.stability.scene import Result, Scene, no_failure, without
from ops.stability.world import ROOT

SURE: Final = 6.0  # seconds until the service is sure of it, and has worked off what came before


async def overload(scene: Scene) -> Result:
    """Half more than capacity, open loop. Each answer costs some milliseconds of a processor, so
    that it is the service that has too much to do and not what asks."""
    async with without(scene, queue_seconds=0):
        shop = scene.world.shop(pods=("costly",), terms=("busy",), share=1.0)
        await capacity(shop, 2)
        used, own = _processors(scene), time.process_time()
        seconds = scene.seconds(10)
        peak = await capacity(shop, seconds, 16)
        answer_s = (_processors(scene) - used) / (peak * seconds)
        beside = (time.process_time() - own) / seconds  # what asking took
        quiet = Load(shop, peak / 2, 0.0, timeout=10)
        quiet.start()
        await asyncio.sleep(scene.seconds(10))
        calm = percentile(
            [s for s in (await quiet.stop()).of("recommend", 1) if s.status == 200], 0.99
        )
        load = Load(shop, peak * 1.5, 0.0, timeout=10)
        load.start()
        await asyncio.sleep(SURE)
        own, began = time.process_time(), load.now
        await asyncio.sleep(scene.seconds(60))
        more = (time.process_time() - own) / (load.now - began) - beside
        record = await load.stop()
        refusal_s = await refusal(scene.seconds(5))
    result = Result("overload_1.5", facts(record, {}), record)
    asked = record.of("recommend", SURE)
    good = [s for s in asked if s.status == 200]
    seconds = max(s.at for s in asked) - SURE
    tail = percentile(good, 0.99)
    goodput = len(good) / seconds
    # What the peak has of the processors, less what asking takes more of them now, less refusing;
    # it is no less than the share of those that are not asked for by anybody else.
    offered = len(asked) / seconds
    permitted = (peak * answer_s - max(0.0, more) - offered * refusal_s) / (answer_s - refusal_s)
    share = goodput / permitted
    result.figures |= {
        "answer_ms": round(answer_s * 1000, 2),
        "refusal_us": round(refusal_s * 1e6, 1),
        "offered_per_s": round(offered),
        "permitted_per_s": round(permitted),
        "peak_per_s": round(peak),
        "goodput_per_s": round(goodput),
        "goodput_of_permitted": round(share, 2),
        "p99_quiet_ms": calm,
        "p50_admitted_ms": percentile(good, 0.5),
        "p99_admitted_ms": tail,
        "recovery_s": 0.0,
    }
    no_failure(result, refused=True)
    result.require(share >= 0.9, f"goodput is {share:.0%} of what refusing permits")
    result.require(
        tail is not None and calm is not None and tail <= 3 * calm,
        f"p99 of the admitted is {tail} ms, {calm} ms when it is quiet",
    )
    return result


def _processors(scene: Scene) -> float:
    """Seconds of a processor that the workers have used."""
    return sum(sum(worker.cpu_times()[:2]) for worker in scene.world.service.workers())


async def refusal(seconds: float) -> float:
    """Seconds of a processor that refusing one request takes the server, its share of the system's
    time included, measured on a server that does nothing else."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops.stability.refusing"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    client = Client(int(await process.stdout.readline()))
    request = Shop(0, "k", "t", 1).recommendation()
    refused = 0
    process.stdin.write(b"\n")
    until = time.perf_counter() + seconds

    async def ask() -> None:
        nonlocal refused
        while time.perf_counter() < until:
            status, _, _ = await client.ask(request, 5.0)
            refused += status == 503

    await asyncio.gather(*(ask() for _ in range(32)))
    client.close()
    process.stdin.close()
    used = float(await process.stdout.readline())
    await process.wait()
    return used / refused


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
