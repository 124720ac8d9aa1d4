"""What the size of a catalogue costs: import, start, memory, latency, rebuilding Redis.

    python ops/bench/scale.py [--items 10000 100000 1000000] [--merchants 10] [--runs 3]

Examples:
    python ops/bench/scale.py                                   # all, some ten minutes
    python ops/bench/scale.py --items 10000 --merchants 0 --runs 1 --seconds 2     # a trial
    python ops/bench/scale.py --fresh                           # import and fit anew
    python ops/bench/scale.py --items 10000 1000000 --merchants 0 --prepare   # import and fit alone
    python ops/bench/scale.py --items 10000 1000000 --merchants 0 --brief     # latency, memory

For each size a shop of generated items in embedded servers of its own: imported by
`vitrine import items`, purchases of some of the items, `similar` (behaviour alone) and `popular`
fitted, five rules. What is prepared stays below .vitrine/bench/scale, and so do the times that it
took. Then a server of one worker on core 0, stores and load on core 1, and a server of two workers
on all cores. The last column is one process with several merchants. A worker compares Redis with
PostgreSQL every ten minutes: not while latency is measured here; what it takes is a row.

Latency: requests with another seed each, nothing prepared for any, at a fixed low rate, timed from
their intended moment; CPU of a request from a closed loop. Memory is of /proc/PID/smaps: PSS of all
of the server's processes, divided by the workers (a supervisor is among them).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from changing import driven
from compare import counters, vitrine
from import_items import write
from measure import HOME, LOAD_CORE, Server, closed_loop, record, require_wrk, stay_on
from memory import memory
from redis import Redis
from shop import CANDIDATES, RESULTS, Stores

from app.cli.wiring import wire
from app.domain.catalogue import DEFAULT_SECTION
from app.domain.merchant import MerchantId
from app.domain.pod import Pod, StrategyConfiguration
from app.domain.rule import RuleSet
from app.embedded import EmbeddedServers
from app.files.event_files import EventFile
from app.postgres.event_import import EventImport
from app.postgres.migration import Migrations
from app.services.import_events import ImportEvents

EVENTS = 200_000
RATE = 200.0
SMALL = 10_000  # items of each of several merchants
REQUESTS = 200_000
WARM_UP = 10  # seconds of a closed loop: what is asked for often is in the near-cache
FORMAT = "2"  # changes when what is prepared does


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def rules() -> dict[str, Any]:
    def brand(n: int) -> dict[str, Any]:
        return {"type": "is", "attribute": "brand", "values": [f"brand {n}"]}

    price = {"type": "range", "attribute": "price", "at_least": 480}
    actions = [
        {"type": "exclude", "items": brand(7)},
        {"type": "exclude", "items": price},
        {"type": "boost", "items": brand(11), "strength": 2},
        {"type": "bury", "items": brand(13), "strength": 2},
        {"type": "at_most", "count": 3, "attribute": "brand", "first": 10},
    ]
    return {"rules": [{"id": f"r{n}", "then": [a]} for n, a in enumerate(actions)]}


def purchases(path: Path, items: int) -> list[str]:
    """Baskets of neighbours; the items that are in them."""
    dice = np.random.default_rng(5)
    bought = min(items, 20_000)
    basket = np.repeat(np.arange(EVENTS // 10), 10)
    middle = np.minimum(dice.zipf(1.3, EVENTS // 10), bought) * 7_919 % bought
    chosen = (np.repeat(middle, 10) + dice.integers(0, 200, EVENTS)) % bought
    spread = max(items // bought, 1)  # over the whole catalogue
    ids = [f"sku-{n * spread}" for n in chosen.tolist()]
    now = int(time.time())
    table = pa.table(
        {
            "type": ["purchase"] * EVENTS,
            "time": now - 86_400 * 30 + basket * 100,
            "user_id": [f"u{n // 5}" for n in basket.tolist()],
            "order_id": [f"o{n}" for n in basket.tolist()],
            "item_id": ids,
            "quantity": np.ones(EVENTS),
            "price": np.ones(EVENTS),
        }
    )
    pq.write_table(table, path)
    return list(dict.fromkeys(ids))


class Prepared:
    """One shop, or several, in stores of their own."""

    def __init__(self, name: str, items: int, merchants: int) -> None:
        self.folder = HOME / "scale" / name
        self.items = items
        self.merchants = [MerchantId(f"bench-{n}") for n in range(merchants)]
        self.mark = self.folder / "prepared.json"
        self.requests = self.folder / "requests"

    def prepare(self, running: Stores, owner_url: str) -> dict[str, Any]:
        """Times that it takes, or took."""
        wanted = [FORMAT, self.items, len(self.merchants)]
        if self.mark.exists():
            state: dict[str, Any] = json.loads(self.mark.read_text())
            if state.pop("wanted") == wanted:
                say("prepared before")
                return state
        Migrations(owner_url).up()
        catalogue, events = self.folder / "items.csv", self.folder / "events.parquet"
        write(catalogue, self.items)
        seeds = purchases(events, self.items)
        times = {"import_s": 0.0, "fit_s": 0.0}
        keys = []
        for merchant in self.merchants:
            key, imported, fitted = asyncio.run(one_merchant(running, merchant, catalogue, events))
            keys.append(key)
            times["import_s"] += imported
            times["fit_s"] += fitted
        catalogue.unlink()
        with self.requests.open("w") as file:
            for n in range(REQUESTS):
                seed, turn = seeds[n * 7 % len(seeds)], n // len(seeds)
                file.write(
                    f"GET\t/recommendations/v1/pods/pdp_similar?key={keys[n % len(keys)]}&i=c{n}"
                    f"&s=1&num_results={RESULTS}&item_id={seed}&us=t{turn}\n"
                )
        state = {name: round(value, 1) for name, value in times.items()}
        self.mark.write_text(json.dumps({"wanted": wanted, **state}))
        return state


async def one_merchant(
    running: Stores, merchant: MerchantId, catalogue: Path, events: Path
) -> tuple[str, float, float]:
    """A merchant with all that it serves; the key, seconds of the import, and of the fit."""
    container = wire(running.settings)
    try:
        await container.merchants().create(merchant, "Bench", actor="bench")
        await container.merchants().create_key(merchant, actor="bench")
        say(f"{merchant}: vitrine import items {catalogue.name}")
        began = time.monotonic()
        await asyncio.to_thread(import_items, running, merchant, catalogue)
        imported = time.monotonic() - began
        say(f"{merchant}: imported in {imported:.1f} s; events, models, rules")
        await ImportEvents(EventImport(running.settings.database_url or "")).run(
            merchant, EventFile(events, merchant), progress=lambda *_: None
        )
        config = {"relation": "related", "content": 0.0, "neighbours": CANDIDATES + 40}
        for id_, given in (("similar", config), ("popular", {})):
            await container.strategy_configurations().create(
                merchant, StrategyConfiguration(id=id_, strategy=id_, config=given), "bench"
            )
        began = time.monotonic()
        trained = await container.training().train(merchant, ("similar", "popular"), actor="bench")
        fitted = time.monotonic() - began
        if failed := [one.error for one in trained if one.error is not None]:
            raise RuntimeError(f"{failed}")
        pod = Pod(id="pdp_similar", display_name="Similar", chain=("similar", "popular"))
        await container.pods().create(merchant, pod, "bench")
        await container.follower().poll()  # rules are checked against the catalogue
        document = msgspec.convert(rules(), RuleSet)
        await container.merchandise().create(merchant, "five", "five", document, "bench")
        await container.merchandise().publish(merchant, "five", None, "bench", "bench")
        return (await container.merchants().keys(merchant))[0].key, imported, fitted
    finally:
        await container.background_redis().close()
        await container.database().close()


def import_items(running: Stores, merchant: MerchantId, path: Path) -> None:
    subprocess.run(
        [str(Path(sys.executable).with_name("vitrine")), "import", "items", str(path), "--full",
         "--merchant", merchant],
        env={**os.environ, **running.environment}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, check=True,
    )  # fmt: skip


def rebuilt(client: Redis, places: Sequence[str]) -> float:
    """Seconds until Redis, emptied, has everything again, by a serving worker's own doing."""
    before = [client.hget(place, "version") for place in places]
    client.flushall()
    began = time.monotonic()
    while [client.hget(place, "version") for place in places] != before:
        if time.monotonic() - began > 600:
            raise RuntimeError("Redis was not rebuilt within 10 minutes")
        time.sleep(0.1)
    return time.monotonic() - began


def verified(client: Redis, places: Sequence[str]) -> float:
    """Seconds in which a serving worker compares Redis with PostgreSQL, item by item."""
    began = time.time()
    for place in places:
        client.hset(place, "verified_at", "0")
    while any(float(client.hget(place, "verified_at") or 0) < began for place in places):
        if time.time() - began > 600:
            raise RuntimeError("Redis was not compared within 10 minutes")
        time.sleep(0.1)
    return time.time() - began


def measured(
    shop: Prepared, *, runs: int, seconds: float, prepare: bool, brief: bool
) -> dict[str, Any] | None:
    if not shop.mark.exists():  # what a broken run left
        shutil.rmtree(shop.folder, ignore_errors=True)
    shop.folder.mkdir(parents=True, exist_ok=True)
    with EmbeddedServers(shop.folder) as servers:
        running = Stores(
            servers.database_url, servers.database_owner_url, servers.redis_url, "", 0,
            home=shop.folder,
        )  # fmt: skip
        row: dict[str, Any] = {"items": shop.items, "merchants": len(shop.merchants)}
        row.update(shop.prepare(running, servers.database_owner_url))
        if prepare:
            return None
        places = [f"vitrine:catalogue:{one}:{DEFAULT_SECTION}" for one in shop.merchants]
        client = Redis.from_url(servers.redis_url)
        for place in places:  # that comparison is a row of its own
            client.hset(place, "verified_at", repr(time.time()))
        with vitrine(running) as server:
            row["start_s"] = round(server.started, 1)
            say(f"one worker serves after {server.started:.1f} s")
            closed_loop(server, shop.requests, seconds=WARM_UP)
            row.update(asked(server, shop.requests, runs, seconds))
            row["one"] = memory(server.pids()).each(1)
            row["worker_gib"] = round(memory(server.pids()).pss / 2**30, 3)
            row["redis_mib"] = round(client.info("memory")["used_memory"] / 2**20)
            say(f"{row['p50_ms']} ms, {row['worker_gib']} GiB")
            if not brief:
                say("Redis is compared, then emptied")
                row["redis_verify_s"] = round(verified(client, places), 1)
                row["redis_rebuild_s"] = round(rebuilt(client, places), 1)
        client.close()
        if brief:
            return row
        with vitrine(running, also={"VITRINE_WORKERS": "2"}, core=None) as server:
            time.sleep(1)
            say("two workers serve")
            closed_loop(server, shop.requests, seconds=2)
            rates = [closed_loop(server, shop.requests, seconds=2).rate for _ in range(runs)]
            row["two_rate"] = round(statistics.median(rates))
            row["two"] = memory(server.pids()).each(2)
        return row


def asked(server: Server, path: Path, runs: int, seconds: float) -> dict[str, Any]:
    before = near_cache(server)
    found = [driven(server, path, RATE, seconds) for _ in range(runs)]
    hits, misses = (after - b for after, b in zip(near_cache(server), before, strict=True))
    taken = [closed_loop(server, path, seconds=2, start=n * 7_919) for n in range(runs)]
    return {
        **{
            key: round(statistics.median(run[key] for run in found), 3)
            for key in ("p50_ms", "p99_ms")
        },
        "cpu_us": round(statistics.median(one.cpu_us for one in taken), 1),
        "rate": round(statistics.median(one.rate for one in taken)),
        "from_redis": round(100 * misses / max(hits + misses, 1), 2),
    }


def near_cache(server: Server) -> tuple[float, float]:
    """Items that were shown from the process' own memory so far, and from Redis."""
    hits, misses = (
        sum(counters(server, f"vitrine_near_cache_{what}_total").values())
        for what in ("hits", "misses")
    )
    return hits, misses


LINES = (
    ("import, s", "import_s"), ("fit, s", "fit_s"), ("start of a worker, s", "start_s"),
    ("CPU µs a request", "cpu_us"), (f"p50 at {RATE:.0f}/s, ms", "p50_ms"),
    (f"p99 at {RATE:.0f}/s, ms", "p99_ms"), ("requests/s, one worker", "rate"),
    ("items shown from Redis, %", "from_redis"),
    ("requests/s, two workers", "two_rate"), ("Redis, MiB", "redis_mib"),
    ("Redis compared (each 10 min), s", "redis_verify_s"),
    ("Redis made again, s", "redis_rebuild_s"),
)  # fmt: skip
NOT_ASKED = "not asked"
PARTS = ("pss", "rss", "own", "models", "models_pss", "catalogue", "code")


def tell(rows: Sequence[dict[str, Any]]) -> None:
    def name(row: dict[str, Any]) -> str:
        several = f"{row['merchants']} × " if row["merchants"] > 1 else ""
        return f"{several}{row['items']:,}"

    print(f"\n{'items':<34}" + "".join(f"{name(row):>14}" for row in rows))
    for title, key in LINES:
        print(f"{title:<34}" + "".join(f"{row.get(key, NOT_ASKED):>14}" for row in rows))
    for which in ("one", "two"):
        for part in PARTS:
            title = f"MiB a worker of {which}: {part}"
            told = [row[which][part] if which in row else NOT_ASKED for row in rows]
            print(f"{title:<34}" + "".join(f"{one:>14}" for one in told))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--merchants", type=int, default=10, help="In one process; 0: no such row.")
    parser.add_argument("--runs", type=int, default=3, help="Of each measurement; the median.")
    parser.add_argument("--seconds", type=float, default=5.0, help="Of each run.")
    parser.add_argument("--fresh", action="store_true", help="Prepare everything anew.")
    parser.add_argument("--prepare", action="store_true", help="Import and fit, and end.")
    parser.add_argument(
        "--brief", action="store_true", help="One worker; Redis is neither compared nor made again."
    )
    given = parser.parse_args()
    require_wrk()
    stay_on(LOAD_CORE)
    if given.fresh:
        shutil.rmtree(HOME / "scale", ignore_errors=True)
    shops = [Prepared(str(items), items, 1) for items in given.items]
    if given.merchants:
        shops.append(Prepared(f"{given.merchants}-merchants", SMALL, given.merchants))
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for shop in shops:
        say(f"{len(shop.merchants)} × {shop.items:,} items")
        row = measured(
            shop, runs=given.runs, seconds=given.seconds, prepare=given.prepare, brief=given.brief
        )
        if row is None:
            continue
        rows.append(row)
        by_size = {row["items"]: row for row in rows if row["merchants"] == 1}
        if large := by_size.get(1_000_000):
            figures["worker_gib_1m"] = large["worker_gib"]
            if small := by_size.get(10_000):
                figures["latency_1m/10k"] = round(large["p50_ms"] / small["p50_ms"], 2)
                for key in ("p99_ms", "cpu_us"):
                    say(f"1 million against 10 thousand, {key}: {large[key] / small[key]:.2f}")
        record(figures, scale=rows)  # of each size as soon as it is there
    if rows:
        tell(rows)
    for key, value in figures.items():
        print(f"{key:<20} {value}")


if __name__ == "__main__":
    main()
