"""What the size of a catalogue costs: import, start, memory, latency, rebuilding Redis.

    python ops/bench/scale.py [--items 10000 100000 1000000]

For each size a shop of generated items in embedded servers of its own: imported by
`vitrine import items`, purchases of some of the items, `similar` (behaviour alone) and `popular`
fitted, five rules, a server of one worker on core 0, then of two. Latency is the median of requests
with another seed each at a fixed rate, timed from their intended moment. Memory is the
proportional set size of all of the server's processes, divided by the workers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from changing import driven
from compare import vitrine
from import_items import write
from measure import LOAD_CORE, Server, closed_loop, record, rss_bytes, stay_on
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
from app.settings import Settings

SHOP = MerchantId("bench")
EVENTS = 200_000
RATE, SECONDS = 200.0, 5.0


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


async def prepare(settings: Settings, folder: Path, seeds: list[str]) -> tuple[str, Path]:
    """Events, models, pod and rules; the key, and the file of requests."""
    container = wire(settings)
    try:
        events = folder / "events.parquet"
        await ImportEvents(EventImport(settings.database_url or "")).run(
            SHOP, EventFile(events, SHOP), progress=lambda *_: None
        )
        config = {"relation": "related", "content": 0.0, "neighbours": CANDIDATES + 40}
        for id_, strategy, given in (("similar", "similar", config), ("popular", "popular", {})):
            await container.strategy_configurations().create(
                SHOP, StrategyConfiguration(id=id_, strategy=strategy, config=given), "bench"
            )
        trained = await container.training().train(SHOP, ("similar", "popular"), actor="bench")
        if failed := [one.error for one in trained if one.error is not None]:
            raise RuntimeError(f"{failed}")
        pod = Pod(id="pdp_similar", display_name="Similar", chain=("similar", "popular"))
        await container.pods().create(SHOP, pod, "bench")
        await container.follower().poll()
        document = msgspec.convert(rules(), RuleSet)
        await container.merchandise().create(SHOP, "five", "five", document, "bench")
        await container.merchandise().publish(SHOP, "five", None, "bench", "bench")
        key = (await container.merchants().keys(SHOP))[0].key
    finally:
        await container.background_redis().close()
        await container.database().close()
    path = folder / "requests"
    with path.open("w") as file:
        for n in range(200_000):
            seed = seeds[n * 7 % len(seeds)]
            file.write(
                f"GET\t/recommendations/v1/pods/pdp_similar?key={key}&i=c{n}&s=1"
                f"&num_results={RESULTS}&item_id={seed}&us=t{n // len(seeds)}\n"
            )
    return key, path


def rebuilt(client: Redis, key: str) -> float:
    """Seconds until Redis, emptied, has everything again."""
    before = client.hget(key, "version")
    client.flushall()
    began = time.monotonic()
    while client.hget(key, "version") != before:
        if time.monotonic() - began > 900:
            raise RuntimeError("Redis was not rebuilt within 15 minutes")
        time.sleep(0.1)
    return time.monotonic() - began


def one_size(items: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vitrine-scale-") as name:
        folder = Path(name)
        catalogue = folder / "items.csv"
        write(catalogue, items)
        seeds = purchases(folder / "events.parquet", items)
        with EmbeddedServers(folder) as servers:
            Migrations(servers.database_owner_url).up()
            running = Stores(
                servers.database_url, servers.database_owner_url, servers.redis_url, "", 0,
                home=folder,
            )  # fmt: skip
            row: dict[str, Any] = {"items": items}
            row["import_s"] = round(asyncio.run(imported(running, catalogue)), 1)
            _, path = asyncio.run(prepare(running.settings, folder, seeds))
            with vitrine(running) as server:
                row["start_s"] = round(server.started, 1)
                closed_loop(server, path, seconds=2)
                row.update(asked(server, path))
                row["worker_gib"] = round(rss_bytes(server.pids()) / 2**30, 3)
                with Redis.from_url(servers.redis_url) as client:
                    place = f"vitrine:catalogue:{SHOP}:{DEFAULT_SECTION}"
                    row["redis_mib"] = round(client.info("memory")["used_memory"] / 2**20)
                    row["redis_rebuild_s"] = round(rebuilt(client, place), 1)
            with vitrine(running, also={"VITRINE_WORKERS": "2"}, core=None) as server:
                closed_loop(server, path, seconds=2)
                row["two_workers_gib_each"] = round(rss_bytes(server.pids()) / 2**30 / 2, 3)
                row["two_workers_rate"] = round(closed_loop(server, path, seconds=3).rate)
        return row


async def imported(running: Stores, path: Path) -> float:
    """Seconds that `vitrine import items` takes."""
    container = wire(running.settings)
    await container.merchants().create(SHOP, "Bench", actor="bench")
    await container.merchants().create_key(SHOP, actor="bench")
    await container.database().close()
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("vitrine")), "import", "items", str(path), "--full",
        env={**os.environ, **running.environment}, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait():
        raise RuntimeError("the import failed")
    return time.monotonic() - began


def asked(server: Server, path: Path) -> dict[str, Any]:
    runs = [driven(server, path, RATE, SECONDS) for _ in range(3)]
    found = {key: statistics.median(run[key] for run in runs) for key in ("p50_ms", "p99_ms")}
    taken = [closed_loop(server, path, seconds=2, start=n * 7_919) for n in range(3)]
    return {
        **found,
        "cpu_us": round(statistics.median(one.cpu_us for one in taken), 1),
        "rate": round(statistics.median(one.rate for one in taken)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    given = parser.parse_args()
    stay_on(LOAD_CORE)
    rows = []
    for items in given.items:
        rows.append(one_size(items))
        print(json.dumps(rows[-1]), flush=True)
    by_size = {row["items"]: row for row in rows}
    figures = {}
    if 1_000_000 in by_size:
        figures["worker_gib_1m"] = by_size[1_000_000]["worker_gib"]
        if 10_000 in by_size:
            figures["latency_1m/10k"] = round(
                by_size[1_000_000]["p50_ms"] / by_size[10_000]["p50_ms"], 2
            )
    record(figures, scale=rows)


if __name__ == "__main__":
    main()
