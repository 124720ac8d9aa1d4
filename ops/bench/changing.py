"""p99 at a fixed rate while things change, against quiet.

    python ops/bench/changing.py [--runs 5] [--seconds 8]

One server process alone on core 0, asked for `pdp_similar` at 40 % of what it can do by an
open-loop driver (open_loop.py) on core 1. While things change, there are on core 1 too: an import
of 100,000 items (the supermarket with other prices), over and over, as `vitrine import items` does
it; a publication of rules and another model every second; a stream of events. Runs of both kinds
in turn; the median of the runs' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
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
from measure import LOAD_CORE, Server, closed_loop, record, stay_on
from shop import HOME, MERCHANT, Shop, Stores, prepared, stores

from app.cli.demo.shop import ITEMS
from app.cli.wiring import wire

HERE = Path(__file__).resolve().parent
IMPORTED = 100_000
SHARE = 0.4  # of capacity
SWAPPED = "popular"


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

    def __init__(self, running: Stores, shop: Shop, server: Server, models: Sequence[str]) -> None:
        self._running = running
        self._shop = shop
        self._server = server
        self._models = models
        self._over = threading.Event()
        self.counts = {"imports": 0, "publications": 0, "models": 0, "events": 0, "failed": 0}

    @contextmanager
    def going_on(self) -> Iterator[None]:
        self._over.clear()
        threads = [
            threading.Thread(target=work)
            for work in (self._imports, self._publications, self._events)
        ]
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
        number = 0
        while not self._over.is_set():
            path = HOME / f"changed-{number % 2}.jsonl"
            done = subprocess.run(
                [*command, str(path), "--delta", "--merchant", MERCHANT],
                env={**os.environ, **self._running.environment},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            number += 1
            if done.returncode:
                self.counts["failed"] += 1
                print(done.stderr[-500:], file=sys.stderr)
                return
            self.counts["imports"] += 1

    def _publications(self) -> None:
        client = Client(self._server.port, self._shop)
        number = 0
        while not self._over.wait(0.5):
            number += 1
            try:
                if number % 2:
                    client.call("POST", "/admin/v1/rule-sets/five/publish", {}, **{"If-Match": "*"})
                    self.counts["publications"] += 1
                else:
                    model = self._models[number // 2 % len(self._models)]
                    client.call("POST", f"/admin/v1/models/{model}/publish", {})
                    self.counts["models"] += 1
            except RuntimeError as error:
                self.counts["failed"] += 1
                print(error, file=sys.stderr)

    def _events(self) -> None:
        client = Client(self._server.port, self._shop)
        while not self._over.wait(0.01):
            now = time.time_ns() // 1_000_000
            path = (
                f"/v2/behavioral_action/recommendation_result_click?key={self._shop.key}"
                f"&i=changing-{now % 500}&s=1&c=bench&_dt={now}"
            )
            body = {"item_id": str(now), "item_name": "x", "pod_id": "home_for_you"}
            with contextlib.suppress(RuntimeError):
                client.call("POST", path, body)
                self.counts["events"] += 1


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    stay_on(LOAD_CORE)
    with stores() as running:
        shop = prepared(running)
        import_files()
        models = asyncio.run(two_models(running))
        with vitrine(running) as server:
            path = shop.paths / "similar"
            for turn in range(2):  # the first warms up
                capacity = closed_loop(server, path, seconds=3, start=turn * 7_919).rate
            rate = SHARE * capacity
            changes = Changes(running, shop, server, models)
            quiet, changing = [], []
            for _ in range(given.runs):
                quiet.append(driven(server, path, rate, given.seconds))
                with changes.going_on():
                    time.sleep(2)  # until an import is under way
                    changing.append(driven(server, path, rate, given.seconds))
                time.sleep(1)
    rows = {}
    for name, runs in (("quiet", quiet), ("changing", changing)):
        rows[name] = {
            key: round(statistics.median(run[key] for run in runs), 3)
            for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms", "errors")
        }
        print(f"{name:<10} {json.dumps(rows[name])}")
    ratio = statistics.median(
        b["p99_ms"] / a["p99_ms"] for a, b in zip(quiet, changing, strict=True)
    )
    print(f"p99_changing/quiet {ratio:.2f} at {rate:.0f} requests/s; {json.dumps(changes.counts)}")
    record(
        {"p99_changing/quiet": round(ratio, 2)},
        changing={"rate": round(rate), **rows, "changes": changes.counts},
    )


if __name__ == "__main__":
    main()
