"""Training as it grows: seconds and memory of reading a shop's log and of fitting on it.

    python ops/bench/training.py [--events 100000 1000000 10000000] [--strategies popular similar]

For each size a shop is made in an embedded PostgreSQL, with the shape of a supermarket: items as
often as Zipf's law says, baskets of ten lines, some shoppers with many and most with few, a year.
Reading runs in this process, each fit in its own, as `vitrine train` does it.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import io
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import asyncpg
import numpy as np
import pyarrow as pa
import pyarrow.csv

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from app.domain.catalogue import DEFAULT_SECTION
from app.domain.merchant import MerchantId
from app.domain.pod import StrategyConfiguration
from app.embedded import APP_ROLE, OWNER_ROLE, EmbeddedPostgres
from app.plugins.artefacts import ArtefactStore
from app.plugins.discovery import discover
from app.plugins.fit_process import peak_mib
from app.plugins.fitting import ChildFitter
from app.postgres.database import connect
from app.postgres.merchants import Merchants
from app.postgres.migration import Migrations
from app.postgres.training_data import TrainingDataReader

DAYS = 365
START = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
LINES = 10  # of a basket
AT_ONCE = 500_000
SPAWN = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--strategies", nargs="+", default=["popular", "similar", "personalized"])
    parser.add_argument("--json", type=Path, help="Also write the figures there.")
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    for events in given.events:
        # Another process each: peaks of memory are a process'.
        with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
            rows += pool.submit(measure, events, given.strategies).result()
        for row in rows[-1 - len(given.strategies) :]:
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1))


def measure(events: int, strategies: list[str]) -> list[dict[str, object]]:
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedPostgres(Path(directory) / "home", durable=False) as postgres,
    ):
        Migrations(postgres.url(OWNER_ROLE)).up()
        url = postgres.url(APP_ROLE)
        with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
            pool.submit(fill, url, events).result()
        return asyncio.run(train(url, events, strategies, Path(directory)))


async def train(
    url: str, events: int, strategies: list[str], directory: Path
) -> list[dict[str, object]]:
    database = connect(url, pool=1)
    store = ArtefactStore(str(directory / "artefacts"), directory / "cache")
    reader = TrainingDataReader(database, directory / "scratch")
    began, began_cpu = time.perf_counter(), time.process_time()
    found = await reader.read(MerchantId("shop"), DEFAULT_SECTION, time.time(), lambda _: None)
    rows: list[dict[str, object]] = [
        {
            "step": "read",
            "events": events,
            "items": len(found.data.items),
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_seconds": round(time.process_time() - began_cpu, 1),  # PostgreSQL's own apart
            "peak_mib": round(peak_mib()),
        }
    ]
    installed = discover()
    async with ChildFitter(store, directory / "scratch").prepare(found) as prepared:
        for name in strategies:
            strategy = installed.get(name)
            if strategy is None:
                raise SystemExit(f"strategy {name!r} is not installed")
            staged = await prepared.fit(
                StrategyConfiguration(id=name, strategy=name), strategy, 1, None
            )
            metrics = staged.manifest.metrics
            rows.append(
                {
                    "step": f"fit {name}",
                    "events": events,
                    "items": len(found.data.items),
                    "seconds": round(metrics["seconds"], 1),
                    "cpu_seconds": round(metrics["cpu_seconds"], 1),
                    "peak_mib": round(metrics["peak_mib"]),
                    "artefact_mib": round(metrics["bytes"] / 2**20),
                }
            )
    await database.close()
    return rows


def fill(url: str, events: int) -> None:
    asyncio.run(_fill(url, events))


async def _fill(url: str, events: int) -> None:
    database = connect(url, pool=1)
    await Merchants(database).create("shop", "Shop", actor="bench")
    await database.close()
    rng = np.random.default_rng(1)
    items = min(events // 16, 100_000)
    # A like for each other: who buys one item buys of its neighbourhood.
    weights = 1 / np.arange(10, items + 10) ** 0.8
    weights /= weights.sum()
    connection = await asyncpg.connect(url)
    await connection.execute("SELECT set_config('vitrine.merchant', 'shop', false)")
    await connection.execute(
        "INSERT INTO section (merchant_id, name, catalogue_version) VALUES ('shop', 'Products', 1)"
    )
    await connection.execute(
        "INSERT INTO item (merchant_id, section, id, name, data, version)"
        " SELECT 'shop', 'Products', 'i' || n, 'Item ' || n, jsonb_build_object('price', n % 97,"
        " 'group_ids', jsonb_build_array('g' || n % 300), 'brand', 'b' || n % 1000), 1"
        " FROM generate_series(0, $1::int - 1) AS n",
        items,
    )
    await connection.execute(
        "SELECT ensure_event_partitions($1::date[])",
        [(START + datetime.timedelta(days=day)).date() for day in range(DAYS)],
    )
    await connection.execute(
        "CREATE TEMPORARY TABLE line (seconds bigint, shopper int, item int, basket int)"
    )
    for begin in range(0, events, AT_ONCE):
        count = min(AT_ONCE, events - begin)
        basket = begin // LINES + np.arange(count) // LINES
        of_basket = np.random.default_rng(basket[0]).random((2, basket[-1] - basket[0] + 1))
        at = basket - basket[0]
        shoppers = events // 300 + 1
        chosen = rng.choice(items, count, p=weights)
        near = (chosen[at * LINES - at[0] * LINES] + rng.integers(-30, 30, count)) % items
        table = pa.table(
            {
                "seconds": (of_basket[0][at] * DAYS * 86_400).astype(np.int64),
                "shopper": (of_basket[1][at] ** 2 * shoppers).astype(np.int32),
                "item": np.where(rng.random(count) < 0.5, near, chosen).astype(np.int32),
                "basket": basket.astype(np.int32),
            }
        )
        text = io.BytesIO()
        pyarrow.csv.write_csv(table, text, pyarrow.csv.WriteOptions(include_header=False))
        text.seek(0)
        await connection.execute("TRUNCATE line")
        await connection.copy_to_table("line", source=text, format="csv")
        await connection.execute(
            "INSERT INTO event (merchant_id, occurred_at, type, action, section, user_id, item_id,"
            " quantity, revenue, order_id)"
            " SELECT 'shop', $1::timestamptz + seconds * interval '1 second', 4, 'purchase',"
            " 'Products', 'u' || shopper, 'i' || item, 1, item % 97, 'o' || basket FROM line",
            START,
            timeout=600,
        )
    await connection.close()


if __name__ == "__main__":
    main()
