"""Training reads from Parquet what it reads from PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import os
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from app.cli import vitrine
from app.domain.catalogue import DEFAULT_SECTION
from app.domain.errors import InvalidInput, NotFound
from app.domain.pod import StrategyConfiguration
from app.files.event_archive import EventArchive
from app.files.parquet_training import ParquetTrainingData
from app.postgres.database import Database, raw
from app.postgres.event_days import EventDays
from app.postgres.model_versions import ModelVersionStore
from app.postgres.strategy_configurations import StrategyConfigurationStore
from app.postgres.training_data import TrainingDataReader
from app.telemetry import logs

NOW = dt.datetime(2026, 3, 20, 12, tzinfo=dt.UTC)
COLUMNS = (
    "merchant_id, occurred_at, type, action, section, client_id, user_id, session, item_id,"
    " quantity, revenue, order_id, term, learn"
)


@pytest.fixture
async def shop(database: Database, merchant: Any) -> Any:
    """Events of every kind: known and unknown items, clients with and without a log-in, orders of
    nobody, other sections, what is not to be learned from, and parts of seconds."""
    rng = np.random.default_rng(4)
    rows = []
    for number in range(400):
        kind = int(rng.choice([1, 2, 3, 4, 5]))
        user = rng.choice(["u1", "u2", None])
        client = rng.choice(["c1", "c2", "c3", None])
        rows.append(
            (
                merchant.id,
                NOW - dt.timedelta(microseconds=int(rng.integers(0, 5 * 86_400_000_000))),
                kind,
                "x",
                "Other" if number % 50 == 0 else "Products",
                client,
                user,
                None if client is None or rng.random() < 0.3 else int(rng.integers(1, 4)),
                rng.choice(["i0", "i1", "i2", "ü", "gone"]) if kind != 5 else None,
                float(rng.integers(1, 4)),
                float(rng.integers(0, 9)),
                f"o{rng.integers(0, 20)}" if kind == 4 or user is client is None else None,
                "tea, black" if kind == 5 else None,
                number % 40 != 1,
            )
        )
    async with database.merchant(merchant.id) as connection:
        driver = await raw(connection)
        await driver.execute("INSERT INTO section VALUES ($1, 'Products', 7)", merchant.id)
        for name in ("i0", "i1", "i2", "ü"):
            await driver.execute(
                "INSERT INTO item (merchant_id, section, id, name, version)"
                " VALUES ($1, 'Products', $2, $2, 1)",
                *(merchant.id, name),
            )
        await driver.execute(
            "INSERT INTO shopper_identity (merchant_id, client_id, user_id)"
            " VALUES ($1, 'c2', 'u2')",
            merchant.id,
        )
        days = [(NOW - dt.timedelta(days=day)).date() for day in range(6)]
        await driver.execute("SELECT ensure_event_partitions($1::date[])", days)
        places = ", ".join(f"${number + 1}" for number in range(14))
        await driver.executemany(f"INSERT INTO event ({COLUMNS}) VALUES ({places})", rows)
    return merchant


async def archive(database: Database, merchant: Any, url: str) -> int:
    days = EventDays(database)
    count = 0
    for day in range(6):
        date = (NOW - dt.timedelta(days=day)).date()
        count += await EventArchive(url).store(merchant.id, date, days.rows(merchant.id, date))
    return count


@pytest.fixture
def bucket() -> Any:
    """An object store in memory."""
    yield "memory://events"
    fsspec.filesystem("memory").rm("/events", recursive=True)


@pytest.mark.parametrize("hours", [0, 30])
async def test_both_sources_give_the_same_arrays(
    shop: Any, database: Database, bucket: str, hours: int
) -> None:
    assert await archive(database, shop, bucket) == 400
    until = (NOW - dt.timedelta(hours=hours)).timestamp() - 0.25
    reader = TrainingDataReader(database)
    wanted = await reader.read(shop.id, DEFAULT_SECTION, until, lambda _: None)
    said: list[str] = []
    found = await ParquetTrainingData(bucket, reader).read(
        shop.id, DEFAULT_SECTION, until, said.append
    )
    assert 200 < len(found.data.events) < 400
    for field in dataclasses.fields(wanted.data.events):
        one, other = (getattr(made.data.events, field.name) for made in (found, wanted))
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        else:
            assert one == other, field.name
    assert found.unknown_items == wanted.unknown_items > 0
    assert (found.data.now, found.catalogue_version) == (wanted.data.now, 7)
    assert found.data.items.ids == wanted.data.items.ids
    assert any("6 files" in text for text in said)


async def test_what_cannot_be_read_is_named(shop: Any, database: Database, tmp_path: Path) -> None:
    source = ParquetTrainingData(str(tmp_path), TrainingDataReader(database))

    async def read() -> None:
        await source.read(shop.id, DEFAULT_SECTION, time.time(), lambda _: None)

    with pytest.raises(NotFound, match="no Parquet files"):
        await read()
    await archive(database, shop, str(tmp_path))
    folder = tmp_path / shop.id
    pq.write_table(pa.table({"type": [1]}), folder / "2026-01-01.parquet")
    with pytest.raises(InvalidInput, match=r"2026-01-01\.parquet: lacks the column 'occurred_at'"):
        await read()
    (folder / "2026-01-01.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InvalidInput, match=r"2026-01-01\.parquet: cannot be read as events"):
        await read()


async def test_the_command_learns_from_a_folder(
    shop: Any,
    database: Database,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    await archive(database, shop, str(tmp_path / "lake"))
    async with database.merchant(shop.id) as connection:
        await (await raw(connection)).execute("DELETE FROM event")
    await StrategyConfigurationStore(database).create(
        shop.id, StrategyConfiguration(id="top", strategy="popular"), "test"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VITRINE_")},
        "VITRINE_DATABASE_URL": database_url,
        "VITRINE_REDIS_URL": redis_url,
        "VITRINE_HOME": str(tmp_path / "home"),
    }
    command = ["train", "--events-url", str(tmp_path / "lake")]
    done = await asyncio.to_thread(CliRunner().invoke, vitrine, command, env=environment)
    assert done.exit_code == 0, done.output
    serving = await ModelVersionStore(database).serving(shop.id, "top")
    assert serving is not None
    assert serving.manifest.metrics["events"] > 300
