"""p99 at a fixed rate while things change, against quiet.

    python ops/bench/changing.py [--runs 5] [--seconds 8] [--only imports publications ...]

Examples:
    python ops/bench/changing.py                                       # some five minutes
    python ops/bench/changing.py --runs 1 --seconds 4                  # a trial
    python ops/bench/changing.py --runs 2 --only imports               # one kind of change alone
    python ops/bench/changing.py --runs 1 --stalls                     # what holds requests up

One server process alone on core 0, asked for `pdp_similar` at 40 % of what it can do by an
open-loop driver (open_loop.py) on core 1. While things change, there are on core 1 too: an import
of 100,000 items (the supermarket with other prices), over and over, as `vitrine import items` does
it; a publication of rules and another model every second; a stream of events. Runs of both kinds
in turn; the median of the runs' ratios. `--stalls` runs the server with serve_watched.py and lists
where its event loop was held up for 5 ms or more; its other figures mean nothing then.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from compare import vitrine
from freshness import Client
from measure import LOAD_CORE, Server, closed_loop, free_port, record, require_wrk, stay_on
from shop import HOME, MERCHANT, Shop, Stores, prepared, stores

from app.cli.demo.shop import ITEMS
from app.cli.wiring import wire

HERE = Path(__file__).resolve().parent
IMPORTED = 100_000
SHARE = 0.4  # of capacity
SWAPPED = "popular"
KINDS = ("imports", "publications", "models", "events")
LEAD = 2.0  # seconds of changes before a run of requests begins


def import_files() -> list[Path]:
    """Two files of the same 100,000 items, with prices that differ."""
    source = HOME / "demo" / MERCHANT / ITEMS
    made = [HOME / f"changed-{n}.jsonl" for n in (0, 1)]
    for n, path in enumerate(made):
        if path.exists():
            continue
        with source.open("rb") as lines, path.open("wb") as file:
            count = 0
            for line in lines:
                item = msgspec.json.decode(line)
                if "price" in item["data"]:
                    item["data"]["price"] = round(item["data"]["price"] + n / 100, 2)
                file.write(msgspec.json.encode(item) + b"\n")
                count += 1
            for extra in range(count, IMPORTED):
                data = {"active": False, "price": 1 + n / 100}
                item = {"id": f"bench-{extra}", "name": "Not for sale", "data": data}
                file.write(msgspec.json.encode(item) + b"\n")
    return made


async def two_models(running: Stores) -> list[str]:
    """Ids of two versions of one model."""
    container = wire(running.settings)
    try:
        found = await container.model_versions().page(MERCHANT, configuration_id=SWAPPED, limit=2)
        if len(found) < 2:
            await container.training().train(MERCHANT, (SWAPPED,), actor="bench")
            found = await container.model_versions().page(
                MERCHANT, configuration_id=SWAPPED, limit=2
            )
        return [str(one.id) for one in found]
    finally:
        await container.background_redis().close()
        await container.database().close()


class Changes:
    """All that goes on beside the requests, and how often."""

    def __init__(
        self,
        running: Stores,
        shop: Shop,
        server: Server,
        models: Sequence[str],
        only: Sequence[str] = KINDS,
    ) -> None:
        self._running = running
        self._shop = shop
        self._server = server
        self._models = models
        self._only = only
        self._over = threading.Event()
        self._numbers = itertools.count()
        self.counts = dict.fromkeys(KINDS, 0)
        self.failed = 0

    @contextmanager
    def going_on(self) -> Iterator[None]:
        self._over.clear()
        work = {
            "imports": self._imports,
            "publications": self._publications,
            "models": self._swaps,
            "events": self._events,
        }
        threads = [threading.Thread(target=work[kind]) for kind in self._only]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _imports(self) -> None:
        command = [str(Path(sys.executable).with_name("vitrine")), "import", "items"]
        while not self._over.is_set():
            path = HOME / f"changed-{next(self._numbers) % 2}.jsonl"
            process = subprocess.Popen(
                [*command, str(path), "--delta", "--merchant", MERCHANT],
                env={**os.environ, **self._running.environment},
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            _, said = process.communicate()
            if process.returncode:
                self._fail(f"the import failed: {said[-500:]}")
                return
            self.counts["imports"] += 1

    def _publications(self) -> None:
        client = Client(self._server.port, self._shop)
        while not self._over.wait(1.0):
            self._call(
                client, "publications", "/admin/v1/rule-sets/five/publish", {"If-Match": "*"}
            )

    def _swaps(self) -> None:
        client = Client(self._server.port, self._shop)
        self._over.wait(0.5)  # between the publications
        while not self._over.wait(1.0):
            model = self._models[self.counts["models"] % len(self._models)]
            self._call(client, "models", f"/admin/v1/models/{model}/publish", {})

    def _events(self) -> None:
        client = Client(self._server.port, self._shop)
        while not self._over.wait(0.01):
            now = time.time_ns() // 1_000_000
            path = (
                f"/v2/behavioral_action/recommendation_result_click?key={self._shop.key}"
                f"&i=changing-{now % 500}&s=1&c=bench&_dt={now}"
            )
            body = {"item_id": str(now), "item_name": "x", "pod_id": "home_for_you"}
            self._call(client, "events", path, {}, body)

    def _call(
        self, client: Client, kind: str, path: str, headers: dict[str, str], body: Any = None
    ) -> None:
        try:
            client.call("POST", path, body or {}, **headers)
        except (RuntimeError, OSError, http.client.HTTPException) as error:
            self._fail(f"{kind}: {error}")
            client.close()
        else:
            self.counts[kind] += 1

    def _fail(self, what: str) -> None:
        self.failed += 1
        if self.failed <= 5:
            print(what, file=sys.stderr, flush=True)


def driven(server: Server, path: Path, rate: float, seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(HERE / "open_loop.py"), str(server.port), str(path),
         str(rate), str(seconds)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{done.stderr}\n{server.log()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tell_stalls(path: Path, since: int) -> None:
    """What held the event loop up, the longest together first."""
    found: dict[str, list[float]] = {}
    with path.open() as file:
        file.seek(since)
        for line in file:
            stall = json.loads(line)
            place = " < ".join(stall["stack"][:3])
            if stall["gc_ms"] > stall["ms"] / 2:
                place = f"garbage collection, generation {stall['gc']}"
            elif stall["threads_ms"] > stall["ms"] / 2:
                place = f"another thread, while: {place}"
            elif stall["cpu_ms"] < stall["ms"] / 2:
                place = "another process had the processor"
            found.setdefault(place, []).append(stall["ms"])
    print(f"{'stalls':>7} {'longest, ms':>12} {'together, ms':>13}")
    for place, times in sorted(found.items(), key=lambda one: -sum(one[1]))[:20]:
        print(f"{len(times):>7} {max(times):>12.1f} {sum(times):>13.1f}  {place[:200]}")


@contextmanager
def served(running: Stores, stalls: Path | None) -> Iterator[Server]:
    if stalls is None:
        with vitrine(running) as server:
            yield server
        return
    stalls.write_text("")
    port = free_port()
    command = [sys.executable, str(HERE / "serve_watched.py"), str(stalls), "--port", str(port)]
    with Server(
        "vitrine, watched", command, port, environment=running.environment, ready="/health/ready"
    ) as server:
        yield server


QUANTILES = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


def line(name: str, run: dict[str, Any]) -> str:
    return f"{name:<18}" + "".join(f"{run[key]:>11.2f}" for key in QUANTILES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="Of each kind; the median counts.")
    parser.add_argument("--seconds", type=float, default=8.0, help="Of each run.")
    parser.add_argument("--warm-up", type=float, default=15.0, help="Seconds before anything.")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--stalls", action="store_true", help="List what held requests up.")
    given = parser.parse_args()
    require_wrk()
    stay_on(LOAD_CORE)
    stalls = HOME / "stalls.jsonl" if given.stalls else None
    with stores() as running:
        shop = prepared(running)
        import_files()
        models = asyncio.run(two_models(running))
        with served(running, stalls) as server:
            path = shop.paths / "similar"
            closed_loop(server, path, seconds=given.warm_up, start=50_000)
            capacity = statistics.median(
                closed_loop(server, path, seconds=2, start=n * 7_919).rate for n in range(3)
            )
            rate = SHARE * capacity
            print(f"capacity {capacity:.0f} requests/s; driven at {rate:.0f}; ms:")
            print(f"{'':<18}" + "".join(f"{key[:-3]:>11}" for key in QUANTILES), flush=True)
            changes = Changes(running, shop, server, models, given.only)
            quiet, changing = [], []
            begun = 0 if stalls is None else stalls.stat().st_size
            for turn in range(given.runs):
                quiet.append(driven(server, path, rate, given.seconds))
                print(line(f"{turn + 1} quiet", quiet[-1]), flush=True)
                with changes.going_on():
                    time.sleep(LEAD)  # until an import is under way
                    changing.append(driven(server, path, rate, given.seconds))
                print(line(f"{turn + 1} changing", changing[-1]), changes.counts, flush=True)
                time.sleep(2)  # until the last of it is taken in
            if stalls is not None:
                tell_stalls(stalls, begun)
    rows: dict[str, Any] = {}
    for name, runs in (("quiet", quiet), ("changing", changing)):
        rows[name] = {
            key: round(statistics.median(run[key] for run in runs), 3)
            for key in (*QUANTILES, "errors")
        }
        print(line(f"median {name}", rows[name]))
    ratios = {
        key: statistics.median(b[key] / a[key] for a, b in zip(quiet, changing, strict=True))
        for key in QUANTILES
    }
    print(line("changing/quiet", ratios))
    print(f"{json.dumps(changes.counts)}; failed: {changes.failed}")
    print(f"p99_changing/quiet {ratios['p99_ms']:.2f}")
    if stalls is not None or set(given.only) != set(KINDS):
        return  # another figure than the one that is asked for
    record(
        {"p99_changing/quiet": round(ratios["p99_ms"], 2)},
        changing={
            "rate": round(rate), **rows, "changes": changes.counts, "failed": changes.failed,
            "p999_changing/quiet": round(ratios["p999_ms"], 2), "runs": given.runs,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
