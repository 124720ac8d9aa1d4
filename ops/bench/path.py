"""The request's path without sockets: CPU µs from the bytes of a request to those of its answer.

    python ops/bench/path.py [--check] [--record] [--profile FILE]

One process, no load generator: requests are fed to aiohttp's protocol, answers are taken from its
transport. The same is done to a bare handler of 4 KB, batch by batch in turn, and the least
disturbed batches count. That makes ratios that a busy machine hardly moves, which is what
`--check` (make bench-check) compares with `recorded.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web
from measure import LOAD_CORE, stay_on
from peers.bare import fixed
from shop import Shop, prepared, stores

from app.http.server import Place, Server
from app.process import ServingProcess, build_service
from app.telemetry import logs
from app.telemetry.metrics import Metrics

RECORDED = Path(__file__).with_name("recorded.json")
MARGIN = 1.2
"""What a ratio may grow by before it counts as dearer."""

BATCH = 150


class Wire(asyncio.Transport):
    """Takes what is answered, and says when an answer is whole."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.answered: asyncio.Future[None] | None = None
        self.head = b""
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writelines([data])

    def writelines(self, parts: Any) -> None:
        for part in parts:
            if not self.size:
                self.head = bytes(part)
            self.size += len(part)
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(None)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Path_:  # noqa: N801  # beside pathlib's
    """One application, asked over one connection."""

    def __init__(
        self,
        name: str,
        protocol: Any,
        requests: Sequence[bytes],
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.name = name
        self._clock = clock
        self._protocol = protocol
        self._requests = requests
        self._wire = Wire()
        self._at = 0
        self.costs: list[float] = []
        protocol.connection_made(self._wire)

    async def batch(self, count: int) -> float:
        """CPU µs a request."""
        loop = asyncio.get_running_loop()
        wire, protocol, requests = self._wire, self._protocol, self._requests
        begin = self._clock()
        for _ in range(count):
            self._at = (self._at + 1) % len(requests)
            wire.size = 0
            wire.answered = loop.create_future()
            protocol.data_received(requests[self._at])
            await wire.answered
            if not wire.head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{self.name}: {wire.head[:300]!r}")
        return (self._clock() - begin) / count * 1e6

    @property
    def least(self) -> float:
        """The median of the least disturbed fifth of the batches."""
        ordered = sorted(self.costs)
        return statistics.median(ordered[: max(3, len(ordered) // 5)])


def raw(path: Path, most: int) -> list[bytes]:
    made = []
    with path.open() as file:
        for line in file:
            method, target, *rest = line.rstrip("\n").split("\t")
            body = rest[0].encode() if rest and rest[0] else b""
            head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
            head += "Connection: keep-alive\r\n"
            if body:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            made.append(head.encode() + b"\r\n" + body)
            if len(made) >= most:
                break
    return made


async def measure(
    settings: Any, shop: Shop, batches: int, only: Sequence[str], profile: Path | None
) -> dict[str, float]:
    output = logs.configure("error")
    with Path("/dev/null").open("wb") as null:
        output._descriptor = null.fileno()  # noqa: SLF001  # lines are made, and go nowhere
        output.start()
        service: ServingProcess = build_service(settings, Place(output, Metrics()))
        await service.start()
        service.readiness.warm = True
        bare = web.Application()
        bare.router.add_get("/{path:.*}", fixed)
        plans = {
            "bare": ("similar", 1_000),
            "pdp_similar": ("similar", 40),
            "pdp_similar_cold": ("cold-0", 90_000),
            "100_rules_cold": ("rules", 90_000),
            "home_for_you": ("for_you", 90_000),
            "home_popular": ("popular", 100),
            "page": ("page", 90_000),
            "tracking": ("tracking", 90_000),
        }
        runner = web.AppRunner(bare, access_log=None)
        await runner.setup()
        server = Server(service.application, service.limits)
        await server.start()
        paths = []
        for name, (file, most) in plans.items():
            if only and name not in (*only, "bare"):
                continue
            assert runner.server is not None
            protocol = runner.server() if name == "bare" else server.connection()
            paths.append(Path_(name, protocol, raw(shop.paths / file, most)))
        for path in paths:
            await path.batch(400)
        gc.collect()
        gc.freeze()
        profiler = cProfile.Profile() if profile is not None else None
        for turn in range(batches):
            for path in paths:
                if profiler is not None and path.name != "bare" and turn:
                    profiler.enable()
                    await path.batch(BATCH)
                    profiler.disable()
                    continue
                path.costs.append(await path.batch(BATCH))
        if profiler is not None and profile is not None:
            profiler.dump_stats(profile)
        await runner.cleanup()
        await server.stop(0.0)
        await service.stop()
        output.close()
    return {path.name: path.least for path in paths if path.costs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--profile", type=Path, help="Write cProfile's figures there.")
    parser.add_argument("--check", action="store_true", help="Fail where a path has become dearer.")
    parser.add_argument("--record", action="store_true", help="Take what is found as the measure.")
    given = parser.parse_args()
    stay_on(LOAD_CORE)
    with stores() as running:
        shop = prepared(running)
        found = uvloop.run(
            measure(running.settings, shop, given.batches, given.only, given.profile)
        )
    ratios = {
        name: round(cost / found["bare"], 2) for name, cost in found.items() if name != "bare"
    }
    before = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    dearer = []
    for name, cost in found.items():
        was = before.get(name)
        said = "" if was is None or name == "bare" else f"   recorded {was:.2f}"
        print(f"{name:<20} {cost:>8.1f} µs {cost / found['bare']:>7.2f} times bare{said}")
        if was is not None and name in ratios and ratios[name] > was * MARGIN:
            dearer.append(name)
    if given.record:
        RECORDED.write_text(json.dumps(ratios, indent=2) + "\n")
    if given.check and dearer:
        raise SystemExit(f"dearer than recorded by more than {MARGIN - 1:.0%}: {', '.join(dearer)}")


if __name__ == "__main__":
    main()
