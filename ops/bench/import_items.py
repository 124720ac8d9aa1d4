"""Import a large catalogue from a file, as the worker does it: seconds and peak memory.

    python ops/bench/import_items.py --items 1000000

Makes a CSV file, starts an embedded PostgreSQL (with fsync) and Redis below a temporary directory,
and runs `vitrine import items FILE --full` as a process of its own: read, staged, merged, and
projected to Redis. Then the same file again (nothing changes), and a delta of 1 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from app.domain.catalogue import DEFAULT_SECTION
from app.domain.item_index import ItemIndexes
from app.domain.merchant import MerchantId
from app.domain.rendered import RenderedItems
from app.embedded import EmbeddedServers
from app.postgres.catalogue import Catalogue
from app.postgres.database import connect
from app.postgres.merchants import Merchants
from app.postgres.migration import Migrations
from app.redis.connection import RedisConnection
from app.redis.item_features import RedisItemFeatures
from app.services.catalogue_follow import Follower

VITRINE = Path(sys.executable).with_name("vitrine")
SHOP = MerchantId("bench")


def write(path: Path, items: int, price: float = 0.0) -> None:
    chance = random.Random(7)
    with path.open("w") as file:
        file.write(
            "id,item_name,url,image_url,price,group_ids,facet:colour,metadata:brand,description\n"
        )
        for n in range(items):
            file.write(
                f'sku-{n},"Product {n}, size {n % 9}",/p/{n},/images/{n}.jpg,{n % 500 + price},'
                f"g{n % 800}|g{n % 30},{chance.choice(('red', 'green', 'blue'))}|c{n % 17},"
                f"brand {n % 2_000},{'A fine product for every day. ' * 3}\n"
            )


def timed(what: str, command: list[str], environment: dict[str, str]) -> None:
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            try:
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            except psutil.Error:
                return

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        said, _ = process.communicate()
    finally:
        process.kill()
        done.set()
        watching.join()
    print(
        json.dumps(
            {
                "what": what,
                "seconds": round(time.monotonic() - began, 1),
                "peak_rss_mib": round(peak / 2**20),
                "exit": process.returncode,
                "said": said.strip(),
            }
        ),
        flush=True,
    )


async def follow(database_url: str, redis_url: str) -> None:
    """What a server process does at its start."""
    database, redis = connect(database_url, pool=2), RedisConnection(redis_url)
    indexes = ItemIndexes(RenderedItems(1 << 20))
    follower = Follower(indexes, RedisItemFeatures(redis), Catalogue(database))
    before, began = psutil.Process().memory_info().rss, time.monotonic()
    await follower.poll()
    print(
        json.dumps(
            {
                "what": "a server process loads the index",
                "seconds": round(time.monotonic() - began, 1),
                "grown_rss_mib": round((psutil.Process().memory_info().rss - before) / 2**20),
                "items": indexes.get(SHOP, DEFAULT_SECTION).item_count,
            }
        ),
        flush=True,
    )
    await redis.close()
    await database.close()


async def make_merchant(url: str) -> None:
    database = connect(url, pool=1)
    await Merchants(database).create(SHOP, "Bench", actor="bench")
    await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitrine-bench-") as name:
        home = Path(name)
        full, delta = home / "items.csv", home / "delta.csv"
        write(full, arguments.items)
        write(delta, max(arguments.items // 100, 1), price=0.5)
        print(json.dumps({"items": arguments.items, "file_mib": full.stat().st_size >> 20}))
        with EmbeddedServers(home) as servers:
            Migrations(servers.database_owner_url).up()
            asyncio.run(make_merchant(servers.database_url))
            environment = {
                **os.environ,
                "VITRINE_HOME": name,
                "VITRINE_DATABASE_URL": servers.database_url,
                "VITRINE_REDIS_URL": servers.redis_url,
            }
            command = [str(VITRINE), "import", "items"]
            timed("full import", [*command, str(full), "--full"], environment)
            timed("the same again", [*command, str(full), "--full"], environment)
            timed("delta of 1 %", [*command, str(delta), "--delta"], environment)
            asyncio.run(follow(servers.database_url, servers.redis_url))


if __name__ == "__main__":
    main()
