"""What scenarios are made of: how one is played, what it ends with, load with a fault in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ops.stability.load import EVENTS, Load, Record, Shop, facts, recovery
from ops.stability.world import World

RECOVERY: Final = 2.0  # seconds that the issue allows
SETTLE: Final = 3.0  # seconds of load before anything is counted


@dataclass
class Scene:
    """How a scenario is played."""

    world: World
    rate: float  # requests a second: half of what was measured
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
    load = Load(shop or scene.world.shop(), scene.rate, EVENTS if events else 0.0)
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
