"""What is kept of a shopper: exported and forgotten over HTTP, wherever it lies; and days of the
event log that are past retention."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import ClientSession, encode_basic_auth

from app.files.event_archive import EventArchive
from app.postgres.configuration import ConfigurationReader
from app.postgres.database import Database, raw
from app.postgres.event_days import EventDays
from app.services.retention import EventRetention
from tests.whole_service import whole_service


async def test_a_shopper_is_exported_and_forgotten_everywhere(
    database: Database, database_url: str, redis_url: str, merchant: Any, tmp_path: Path
) -> None:
    async with (
        whole_service(database_url, redis_url, tmp_path, served_sample_rate=1.0) as (url, service),
        ClientSession(headers={"Authorization": encode_basic_auth(merchant.token, "")}) as http,
    ):

        async def call(method: str, path: str, body: Any = None, status: int = 200) -> str:
            async with http.request(method, url + path, json=body) as response:
                text = await response.text()
                assert response.status == status, text
                return text

        async def kept(shopper: str) -> dict[str, int]:
            lines = (await call("GET", f"/admin/v1/shoppers/{shopper}")).splitlines()
            kinds = [json.loads(line)["kind"] for line in lines]
            return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

        configuration = {"id": "c", "strategy": "popular"}
        await call("POST", "/admin/v1/strategy-configurations", configuration, 201)
        pod = {"id": "p", "display_name": "P", "chain": ["c"]}
        await call("POST", "/admin/v1/pods", pod, 201)
        await service._container.serving().refresh()
        common = {"type": "click", "item_id": "i", "client_id": "browser", "pod_id": "p"}
        events = [
            {**common, "id": "1"},
            {**common, "id": "2", "user_id": "ann", "result_id": "r"},
            {**common, "id": "3", "client_id": "other", "user_id": "bob"},
        ]
        answer = json.loads(await call("POST", "/v1/events", {"events": events}))
        assert answer["accepted"] == 3
        ask = f"/recommendations/v1/pods/p?key={merchant.key}&s=1"
        for who in ("i=browser&ui=ann", "i=browser", "i=other&ui=bob"):
            await call("GET", f"{ask}&{who}")
        await service._container.served_samples()._store_or_wait()
        attribution = service._container.attribution()
        while attribution._waiting:
            await asyncio.sleep(0.02)

        mine = {"click": 3, "event": 2, "history": 2, "served": 2}
        for _ in range(100):  # clicks are remembered off the path
            if (found := await kept("u:ann")) == mine:
                break
            await asyncio.sleep(0.05)
        assert found == mine
        bobs = await kept("u:bob")
        assert bobs["served"] == bobs["event"] == 1
        forgotten = json.loads(await call("DELETE", "/admin/v1/shoppers/u:ann"))
        assert (forgotten["events"], forgotten["samples"]) == (2, 2)
        assert await kept("u:ann") == {}
        assert await kept("c:browser") == {}
        assert await kept("u:bob") == bobs
        audit = await call("GET", "/admin/v1/audit?action=shopper.forget")
        assert json.loads(audit)["items"][0]["actor"]
        assert "ann" not in audit.replace("merchant", "")
        for wrong in ("ann", "u:", "x:ann"):
            assert "shopper_id" in await call("GET", f"/admin/v1/shoppers/{wrong}", status=400)


async def test_old_days_are_archived_and_dropped_for_all(
    database: Database,
    database_url: str,
    create_merchant: Callable[..., Any],
    tmp_path: Path,
) -> None:
    shops = [await create_merchant(database_url, name) for name in ("one", "two")]
    today = dt.datetime.now(dt.UTC).date()
    old, kept = today - dt.timedelta(days=100), today - dt.timedelta(days=99)
    for shop in shops:
        async with database.merchant(shop.id) as connection:
            driver = await raw(connection)
            await driver.execute("SELECT ensure_event_partitions($1)", [old, kept])
            for day, item in ((old, f"old of {shop.id}"), (kept, "kept")):
                at = dt.datetime.combine(day, dt.time(12), dt.UTC)
                await driver.execute(
                    "INSERT INTO event (merchant_id, occurred_at, type, action, section, item_id)"
                    " VALUES ($1, $2, 1, 'view', 'Products', $3)",
                    *(shop.id, at, item),
                )
    archive = EventArchive(str(tmp_path / "archive"))
    retention = EventRetention(EventDays(database), ConfigurationReader(database), 99, archive)
    await retention.run()
    await retention.run()  # and again: there is nothing left to do
    assert old not in await EventDays(database).before(today)
    assert kept in await EventDays(database).before(today)
    for shop in shops:
        found = pq.read_table(tmp_path / "archive" / shop.id / f"{old}.parquet").to_pylist()
        assert [row["item_id"] for row in found] == [f"old of {shop.id}"]
        assert found[0]["occurred_at"].timestamp() < time.time() - 99 * 86400
        async with database.merchant(shop.id) as connection:
            left = await (await raw(connection)).fetch("SELECT item_id FROM event")
        assert [row["item_id"] for row in left] == ["kept"]


async def test_what_cannot_be_archived_is_not_dropped(
    database: Database, merchant: Any, tmp_path: Path
) -> None:
    day = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=50)
    async with database.merchant(merchant.id) as connection:
        driver = await raw(connection)
        await driver.execute("SELECT ensure_event_partitions($1)", [day])
        at = dt.datetime.combine(day, dt.time(), dt.UTC)
        await driver.execute(
            "INSERT INTO event (merchant_id, occurred_at, type, action, section)"
            " VALUES ($1, $2, 1, 'view', 'Products')",
            *(merchant.id, at),
        )
    (tmp_path / "archive").write_text("no directory")
    archive = EventArchive(str(tmp_path / "archive"))
    retention = EventRetention(EventDays(database), ConfigurationReader(database), 40, archive)
    with pytest.raises(Exception, match="archive"):
        await retention.run()
    assert day in await EventDays(database).before(day + dt.timedelta(days=1))


async def test_a_young_day_is_dropped_by_nobody(database: Database, merchant: Any) -> None:
    with pytest.raises(Exception, match="not old enough"):
        await EventDays(database).drop(dt.datetime.now(dt.UTC).date())
