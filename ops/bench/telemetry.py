"""What logs, metrics and traces cost a request: CPU µs of one process, batch by batch in turn.

    python ops/bench/telemetry.py [--batches 60] [--record]

Services that differ by parts of their telemetry alone are in one process on one core, and are asked
the same requests without sockets (`path.py`), 100 of them each in turn. A part costs what the
service with everything takes more than the one without it, in the same turn: the median of all
turns, with the quartiles. The event loop's thread is counted so; the threads that write lines and
export spans (1 % of the requests are traced, to a collector in another process) by clocks of their
own. Two services have everything: what they seem to differ by is what the figures are worth.

`telemetry_us` is the dearest of the three kinds of lists: all three parts, threads included.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from measure import LOAD_CORE, record, stay_on
from path import Path_, raw
from shop import Shop, prepared, stores
from sink import tracing

import app.http.direct as direct
import app.http.middleware as middleware
import app.process as process
from app.http.server import Place, Server
from app.process import ServingProcess, build_service
from app.telemetry import logs
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output

PARTS = ("logs", "metrics", "traces")
ALL = ",".join(PARTS)
AGAIN = "again"  # a second one with everything
LISTS = {
    "ready": ("similar", 40),
    "computed": ("cold-0", 90_000),
    "of a history": ("for_you", 90_000),
}
BATCH = 100


def nothing(*_: Any, **__: Any) -> None:
    pass


class _Silent:
    """Stands for a metric, with its labels bound or not."""

    inc = dec = set = observe = fold = staticmethod(nothing)
    count: float = 0

    def labels(self, *_: Any, **__: Any) -> _Silent:
        return self


class _SilentMetrics(Metrics):
    def __init__(self) -> None:
        super().__init__(counted=False)

    route = staticmethod(lambda *_: nothing)  # type: ignore[assignment]
    tally = timings = staticmethod(lambda *_: _Silent())  # type: ignore[assignment]


@contextmanager
def without(parts: Sequence[str]) -> Iterator[Callable[[], Metrics]]:
    """What a service is built with, in here: parts of its telemetry are taken out."""
    kept = middleware.canonical_writer, process.tracer_from_environment
    if "logs" in parts:
        middleware.canonical_writer = direct.canonical_writer = lambda *_: nothing
    if "traces" in parts:
        process.tracer_from_environment = lambda *_: None
    try:
        yield _SilentMetrics if "metrics" in parts else Metrics
    finally:
        middleware.canonical_writer = direct.canonical_writer = kept[0]
        process.tracer_from_environment = kept[1]


@dataclass
class Subject:
    """One service."""

    parts: str  # that it is without
    service: ServingProcess
    server: Server
    output: Output
    clocks: Sequence[int]  # of the threads that came with it
    paths: dict[str, Path_] = field(default_factory=dict)
    requests: int = 0
    threads_us: dict[str, list[float]] = field(default_factory=dict)

    def threads(self) -> float:
        """Seconds of CPU of the threads that came with it."""
        total = 0.0
        for clock in self.clocks:
            with suppress(OSError):  # it ended
                total += time.clock_gettime(clock)
        return total


async def begin(settings: Any, shop: Shop, parts: str, null: int) -> Subject:
    before = set(threading.enumerate())
    output = Output(null)
    with without(parts.split(",")) as make_metrics:
        service = build_service(settings, Place(output, make_metrics()))
        output.start()
        await service.start()
        service.readiness.warm = True
        server = Server(service.application, service.limits)
        await server.start()
    came = [t for t in threading.enumerate() if t not in before and _is_telemetry(t.name)]
    clocks = [time.pthread_getcpuclockid(t.ident) for t in came if t.ident is not None]
    subject = Subject(parts, service, server, output, clocks)
    for name, (file, most) in LISTS.items():
        requests = raw(shop.paths / file, most)
        subject.paths[name] = Path_(name, server.connection(), requests, time.thread_time)
    return subject


def _is_telemetry(thread: str) -> bool:
    return thread == "log" or thread.startswith("Otel")


async def measure(settings: Any, shop: Shop, batches: int) -> dict[str, dict[str, list[float]]]:
    """By kind of list and by what a service is without: µs a request, of each turn."""
    found: dict[str, dict[str, list[float]]] = {}
    with Path("/dev/null").open("wb") as null:
        logs.configure("error")
        subjects = [
            await begin(settings, shop, parts, null.fileno()) for parts in ("", AGAIN, *PARTS, ALL)
        ]
        for name in LISTS:
            for subject in subjects:  # the same lists are ready, the same pages are read
                for _ in range(8):
                    await subject.paths[name].batch(BATCH)
        gc.collect()
        gc.freeze()
        for name in LISTS:
            taken: dict[str, list[float]] = {subject.parts: [] for subject in subjects}
            spent = {subject.parts: subject.threads() for subject in subjects}
            for turn in range(batches):
                for place in range(len(subjects)):
                    subject = subjects[(turn + place) % len(subjects)]
                    taken[subject.parts].append(await subject.paths[name].batch(BATCH))
            await asyncio.sleep(6.0)  # spans are exported every five seconds
            for subject in subjects:
                threads = (subject.threads() - spent[subject.parts]) / batches / BATCH * 1e6
                taken[subject.parts] = [one + threads for one in taken[subject.parts]]
            found[name] = taken
        for subject in subjects:
            await subject.server.stop(0.0)
            await subject.service.stop()
            subject.output.close()
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--record", action="store_true", help="Add the figures to bench.json.")
    given = parser.parse_args()
    stay_on(LOAD_CORE)
    with stores() as running, tracing() as traced:
        os.environ.update(traced)
        shop = prepared(running)
        found = uvloop.run(measure(running.settings, shop, given.batches))
    costs: dict[str, dict[str, float]] = {}
    print(f"{'CPU µs a request':<18} {'a list that is':<14} {'median':>8}  quartiles")
    for name, taken in found.items():
        low, whole, high = quartiles(taken[""])
        print(f"{'the whole of it':<18} {name:<14} {whole:>8.1f}  {low:.1f} to {high:.1f}")
        costs[name] = {"whole": round(whole, 1)}
        for parts in (ALL, *PARTS, AGAIN):
            differences = [a - b for a, b in zip(taken[""], taken[parts], strict=True)]
            low, cost, high = quartiles(differences)
            told = {ALL: "logs, metrics, traces", AGAIN: "nothing (control)"}.get(parts, parts)
            costs[name][told] = round(cost, 2)
            print(f"{told:<18} {name:<14} {cost:>8.2f}  {low:.1f} to {high:.1f}")
    dearest = max(of["logs, metrics, traces"] for of in costs.values())
    print(f"telemetry_us {dearest:.1f}")
    if given.record:
        record({"telemetry_us": round(dearest, 1)}, telemetry=costs)


if __name__ == "__main__":
    main()
