"""What logs, metrics and traces cost a request: CPU µs of one process, batch by batch in turn.

    python ops/bench/telemetry.py [--turns 100] [--record]

One service on one core, asked without sockets (`path.py`), 100 requests at a time, while parts of
its telemetry are switched off and on: what differs is nothing else, not even where it lies in
memory. In each turn every part is off once, and all of them; the order moves on from turn to turn.
A part costs what the service with everything takes more than the one without it in the same turn:
the median of all turns, with the quartiles. Once a turn, everything is measured again: what that
seems to cost is what the figures are worth.

Lines are written within the batch that made them. Spans (of 1 % of the requests, to a collector in
another process) are exported by a thread with a clock of its own. What is left where metrics are
off: additions of one to plain numbers.

`telemetry_us` is the dearest of three kinds of lists, all three parts, export included.
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
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
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
from app.process import build_service
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


class Switches:
    """What is switched off now. Made before the service; what it binds asks here."""

    def __init__(self) -> None:
        self.off: Sequence[str] = ()

    @contextmanager
    def built_in(self) -> Iterator[None]:
        """A service that is built in here can be switched."""
        writer, tracer = middleware.canonical_writer, process.tracer_from_environment
        middleware.canonical_writer = direct.canonical_writer = lambda *given: self._switched(
            "logs", writer(*given)
        )
        process.tracer_from_environment = lambda *_: self._tracer(tracer())
        try:
            yield
        finally:
            middleware.canonical_writer = direct.canonical_writer = writer
            process.tracer_from_environment = tracer

    def _switched(self, part: str, do: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: None if part in self.off else do(*given)

    def _tracer(self, tracer: Any) -> Any:
        return SimpleNamespace(begin=self._switched("traces", tracer.begin), close=tracer.close)

    def metrics(self) -> Metrics:
        switched = self._switched

        class Switched(Metrics):
            def route(self, method: str, route: str) -> Callable[[int, float], None]:
                return switched("metrics", super().route(method, route))

            def timings(self, *given: Any) -> Any:
                return SimpleNamespace(observe=switched("metrics", super().timings(*given).observe))

        return Switched()


class Held(Output):
    """Lines are written when they are asked for, not by a thread in its own time."""

    def _take(self, line: Any) -> None:
        self._lines.append(line)


def exporting() -> float:
    """Seconds of CPU of the threads that export spans."""
    total = 0.0
    for thread in threading.enumerate():
        if thread.name.startswith("Otel") and thread.ident is not None:
            total += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return total


async def measure(settings: Any, shop: Shop, turns: int) -> dict[str, dict[str, list[float]]]:
    """By kind of list and by what is switched off: µs a request, of each turn."""
    found: dict[str, dict[str, list[float]]] = {}
    switches = Switches()
    with Path("/dev/null").open("wb") as null:
        logs.configure("error")
        output = Held(null.fileno())
        with switches.built_in():
            service = build_service(settings, Place(output, switches.metrics()))
            await service.start()
            service.readiness.warm = True
            server = Server(service.application, service.limits)
            await server.start()
        paths = {
            name: Path_(name, server.connection(), raw(shop.paths / file, most), time.thread_time)
            for name, (file, most) in LISTS.items()
        }

        async def batch(name: str, off: str) -> float:
            switches.off = () if off == AGAIN else tuple(off.split(","))
            taken = await paths[name].batch(BATCH)
            begin = time.thread_time()
            output.flush()
            return taken + (time.thread_time() - begin) / BATCH * 1e6

        for name in LISTS:
            for _ in range(20):
                await batch(name, "")
        gc.collect()
        gc.freeze()
        variants = ("", *PARTS, ALL, AGAIN)
        for name in LISTS:
            taken: dict[str, list[float]] = {off: [] for off in variants}
            spent = exporting()
            for turn in range(turns):
                for place in range(len(variants)):
                    off = variants[(turn + place) % len(variants)]
                    taken[off].append(await batch(name, off))
            await asyncio.sleep(6.0)  # spans are exported every five seconds
            traced = [off for off in variants if "traces" not in off]
            export = (exporting() - spent) / (turns * len(traced) * BATCH) * 1e6
            for off in traced:
                taken[off] = [one + export for one in taken[off]]
            found[name] = taken
            print(f"{name}: exporting spans takes {export:.2f} µs a request", flush=True)
        await server.stop(0.0)
        await service.stop()
        output.close()
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--record", action="store_true", help="Add the figures to bench.json.")
    given = parser.parse_args()
    stay_on(LOAD_CORE)
    with stores() as running, tracing() as traced:
        os.environ.update(traced)
        shop = prepared(running)
        found = uvloop.run(measure(running.settings, shop, given.turns))
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
