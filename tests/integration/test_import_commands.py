"""`vitrine import items`, `vitrine cache`, and imports by `vitrine worker`, killed and not."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from app.cli import vitrine
from app.domain.catalogue import DEFAULT_SECTION
from app.jobs.queue import JobQueue
from app.postgres.database import raw
from app.telemetry import logs
from tests.catalogue_shop import CatalogueShop, open_shop

VITRINE = Path(sys.executable).with_name("vitrine")


@dataclass
class Commands:
    shop: CatalogueShop
    environment: Mapping[str, str]

    async def run(self, *command: str, code: int = 0) -> Result:
        """A command, in a thread: it has an event loop of its own."""
        done = await asyncio.to_thread(CliRunner().invoke, vitrine, command, env=self.environment)
        assert done.exit_code == code, done.output
        return done

    async def items(self, file: Path, *options: str, code: int = 0) -> Result:
        return await self.run("import", "items", str(file), "-m", self.shop.id, *options, code=code)


@pytest.fixture
async def commands(
    module_database_url: str,
    module_redis_url: str,
    create_merchant: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Commands]:
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # this process' stays as it is
    home = tmp_path / "home"
    async with open_shop(module_database_url, module_redis_url, create_merchant, home) as shop:
        environment = {
            **{n: value for n, value in os.environ.items() if not n.startswith("VITRINE_")},
            "VITRINE_DATABASE_URL": module_database_url,
            "VITRINE_REDIS_URL": module_redis_url,
            "VITRINE_HOME": str(home),
        }
        yield Commands(shop, environment)


async def test_csv_full_and_delta(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("id,item_name,price\na,A,1\nb,B,2\n")
    done = await commands.items(file, "--full")
    assert "2 rows: 2 created, 0 updated, 0 unchanged, 0 deleted, 0 rejected" in done.output
    file.write_text("sku;title\n")
    refused = await commands.items(file, code=1)
    assert "separate with commas" in refused.output
    file.write_text("sku,title,price\nc,C,3\n")
    refused = await commands.items(file, code=1)
    assert "no column for id and name; columns found: sku, title, price; wanted: id," in (
        refused.output
    )
    await commands.items(file, "--map", "id=sku,name=title")
    assert await commands.shop.ids() == ["a", "b", "c"]
    refused = await commands.items(file, "--map", "id=sku,name=title", "--full", code=1)
    assert "would delete 2 of 3 items" in refused.output
    assert await commands.shop.ids() == ["a", "b", "c"]
    await commands.items(file, "--map", "id=sku", "--map", "name=title", "--full", "--force")
    assert await commands.shop.ids() == ["c"]
    features = (await commands.shop.in_redis())["c"]
    assert (features.name, features.price) == ("C", 3.0)


async def test_parquet(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "products.parquet"
    table = {
        "StockCode": [85123, 71053],
        "Description": ["Mug", None],
        "UnitPrice": [Decimal("2.55"), Decimal("3.39")],
        "tags": [["a", "b"], []],
        "stars": [4.5, float("nan")],
    }
    pq.write_table(pa.table(table), file)
    refused = await commands.items(file, code=1)
    assert "columns found: StockCode, Description, UnitPrice, tags, stars; wanted:" in (
        refused.output
    )
    refused = await commands.items(file, "--map", "id=Code", code=1)
    assert "has no column Code to take id from" in refused.output
    mapping = ("--map", "id=StockCode,name=Description,price=UnitPrice,facet:tag=tags")
    refused = await commands.items(file, *mapping, code=1)
    assert "row 2 (id 71053): name: is required" in refused.output
    assert await commands.shop.ids() == []
    done = await commands.items(file, *mapping, "--skip-rejected")
    assert "2 rows: 1 created" in done.output
    assert "1 rejected" in done.output
    (item,) = (await commands.shop.call("GET", "/v2/items"))["items"]
    assert item["id"] == "85123"
    assert item["data"] == {
        "price": 2.55,
        "stars": 4.5,
        "facets": {"tag": ["a", "b"]},
    }
    file.write_bytes(file.read_bytes()[:-20] + b"x" * 20)
    refused = await commands.items(file, code=1)
    assert "is not a Parquet file that can be read" in refused.output


async def test_jsonl_groups_variations_and_patches(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl.gz"
    lines = [{"sku": n, "title": f"Item {n}", "cost": n, "brand": "x"} for n in range(3)]
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    await commands.items(file, "--map", "id=sku,name=title,price=cost")
    assert await commands.shop.ids() == ["0", "1", "2"]
    groups = tmp_path / "groups.csv"
    groups.write_text("id,name,parent_id\nall,All,\nmugs,Mugs,all\n")
    await commands.items(groups, "--kind", "item_groups")
    sizes = tmp_path / "sizes.csv"
    sizes.write_text("id,item_id,size\n0-s,0,S\n")
    await commands.items(sizes, "--kind", "variations")
    patch = tmp_path / "patch.csv"
    patch.write_text("id,group_ids\n0,mugs\nnew,mugs\n")
    refused = await commands.items(patch, "--patch", code=1)
    assert 'id: "new" there is no such item' in refused.output
    await commands.items(patch, "--patch", "--on-missing", "ignore")
    found = (await commands.shop.in_redis())["0"]
    assert found.attributes["group_id"] == ("mugs", "all")
    assert found.attributes["brand"] == ("x",)
    assert [v.id for v in found.variations] == ["0-s"]
    tree = await commands.shop.call("GET", "/v1/item_groups")
    assert tree["total_count"] == 2


async def test_a_cache_is_rebuilt_and_verified(commands: Commands) -> None:
    shop = commands.shop
    await shop.put({"id": "a"}, {"id": "b"})
    wanted = await shop.in_postgres()
    await shop.redis.client.flushdb()
    done = await commands.run("cache", "rebuild", "-m", shop.id)
    assert f"{shop.id}\tProducts\trebuilt\t2 items\tversion 1" in done.output
    assert await shop.in_redis() == wanted
    old = wanted["a"].__class__(id=wanted["a"].id, version=0, name="Old")
    await shop.cache.write(shop.id, DEFAULT_SECTION, [old], [wanted["b"].id])
    done = await commands.run("cache", "verify", "-m", shop.id)
    assert "\t2 mended\t2 items" in done.output
    assert await shop.in_redis() == wanted
    done = await commands.run("cache", "rebuild", "-m", "nobody", code=1)
    assert "has no catalogue" in done.output


async def upload(commands: Commands, rows: int) -> dict[str, Any]:
    """A file that waits for the worker in the real queue."""
    text = "id,item_name,price\n" + "".join(f"i{n},Item {n},{n}\n" for n in range(rows))
    queue = JobQueue(commands.environment["VITRINE_DATABASE_URL"])
    await queue.open()
    try:
        commands.shop.imports._queue = queue
        started: dict[str, Any] = await commands.shop.upload(files={"items": text}, force="true")
    finally:
        await queue.close()
    return started


def worker(commands: Commands) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [VITRINE, "worker", "--until-idle"],
        env=dict(commands.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


async def test_the_worker_imports(commands: Commands) -> None:
    started = await upload(commands, 500)
    process = worker(commands)
    _, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, errors
    task = await commands.shop.call("GET", started["task_status_path"])
    assert task["status"] == "DONE", errors
    assert len(await commands.shop.in_redis()) == 500
    assert not any((Path(commands.environment["VITRINE_HOME"]) / "uploads").iterdir())


async def test_a_worker_that_is_killed_halfway_leaves_nothing_visible(commands: Commands) -> None:
    await commands.shop.put({"id": "old"})
    started = await upload(commands, 20_000)
    async with commands.shop.database.merchant(commands.shop.id) as connection:
        # The import stages its rows, and cannot merge them while somebody holds the section.
        await (await raw(connection)).execute("SELECT FROM section FOR UPDATE")
        process = worker(commands)
        try:
            async with asyncio.timeout(60):
                while True:
                    task = await commands.shop.call("GET", started["task_status_path"])
                    if task["status"] != "QUEUED":
                        break
                    await asyncio.sleep(0.02)
        finally:
            process.kill()
            process.communicate()
    assert task["status"] == "IN_PROGRESS"
    assert await commands.shop.ids() == ["old"]
    assert await commands.shop.version() == 1
    assert await commands.shop.recover() == 1  # nobody works on it any more
    await commands.shop.queue.work()
    task = await commands.shop.call("GET", started["task_status_path"])
    assert task["status"] == "DONE", task
    assert await commands.shop.in_redis() == await commands.shop.in_postgres()
    assert len(await commands.shop.in_redis()) == 20_000
