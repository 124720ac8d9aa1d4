"""Served samples in PostgreSQL: stored off the path, lost only where there is no room."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
import sqlalchemy as sa

from app.domain.catalogue import ItemId
from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId
from app.postgres.database import Database, connect
from app.postgres.served_samples import PostgresServedSamples
from app.postgres.tables import served_sample
from app.services.recommend import ServedSample
from tests.conftest import TestMerchant


def sample(merchant: MerchantId, n: int, **request: Any) -> ServedSample:
    return ServedSample(
        merchant=merchant,
        result_id=f"r{n}",
        served_at=1_700_000_000.5,
        pod_id="home",
        request={"pod_id": "home", **request},
        items=(ItemId("a"), ItemId("b")),
        strategies=("similar", "popular"),
    )


async def stored(database: Database, merchant: MerchantId) -> list[Any]:
    async with database.merchant(merchant) as connection:
        query = sa.select(served_sample).order_by(served_sample.c.result_id)
        return list((await connection.execute(query)).mappings())


async def test_samples_are_stored_whole(database: Database, merchant: TestMerchant) -> None:
    log = PostgresServedSamples(database)
    log.record(sample(merchant.id, 1, term="shoes"))
    log.record(sample(merchant.id, 2))
    await log.flush()
    log.record(sample(merchant.id, 1, term="again"))
    await log.flush()
    first, second = await stored(database, merchant.id)
    assert first["request"] == {"pod_id": "home", "term": "shoes"}
    assert (second["items"], second["strategies"]) == (["a", "b"], ["similar", "popular"])
    assert second["served_at"].timestamp() == 1_700_000_000.5


async def test_one_that_cannot_be_stored_keeps_no_other_from_it(
    database: Database, merchant: TestMerchant
) -> None:
    log = PostgresServedSamples(database)
    for n, term in enumerate(("a", "\0", "b")):
        log.record(sample(merchant.id, n, term=term))
    await log.flush()
    assert [row["result_id"] for row in await stored(database, merchant.id)] == ["r0", "r2"]
    assert (log.stored, log.lost) == (2, 1)


async def test_the_queue_is_bounded_and_waits_while_the_store_is_away(
    database: Database, merchant: TestMerchant
) -> None:
    away = connect("postgresql://vitrine_app@127.0.0.1:1/none", connect_timeout=1)
    log = PostgresServedSamples(away, limit=3)
    for n in range(5):
        log.record(sample(merchant.id, n))
    with pytest.raises(Unavailable):
        await log.flush()
    await away.close()
    assert (log.stored, log.lost) == (0, 2)
    log._database = database
    await log.flush()
    assert (log.stored, log.lost) == (3, 2)


async def test_what_waits_is_stored_when_the_server_stops(
    database: Database, merchant: TestMerchant
) -> None:
    log = PostgresServedSamples(database, interval=60)
    task = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    log.record(sample(merchant.id, 1))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert len(await stored(database, merchant.id)) == 1
