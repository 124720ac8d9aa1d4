"""The gate: what is worse on the newest days than what serves does not serve by itself."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from app.domain.gate import GateRule
from app.domain.merchant import MerchantId
from app.domain.model import ModelState
from app.domain.pod import StrategyConfiguration
from app.plugins.artefacts import ArtefactStore
from app.plugins.discovery import discover
from app.plugins.fitting import ChildFitter
from app.postgres.database import Database, raw
from app.postgres.model_versions import ModelVersionStore
from app.postgres.strategy_configurations import StrategyConfigurationStore
from app.postgres.training_data import TrainingDataReader
from app.services.models import Models
from app.services.train import Trained, Training

NOW = 1_760_000_000
DAY = 86_400
SHOPPERS = 30
CONFIGURATION = StrategyConfiguration(id="bought", strategy="bought")

Train = Callable[..., Coroutine[Any, Any, Trained]]


@pytest.fixture
async def train(
    third_party_strategies: Path, database: Database, merchant: Any, tmp_path: Path
) -> Train:
    """Trains `bought` with a config, up to a day before NOW."""
    await fill(database, merchant.id)
    store = ArtefactStore(str(tmp_path / "artefacts"), tmp_path / "cache")
    versions = ModelVersionStore(database)
    configurations = StrategyConfigurationStore(database)
    await configurations.create(merchant.id, CONFIGURATION, "test")

    async def train_with(
        *, reverse: bool, days_ago: float, least: int = 20, fails_before: int = 0
    ) -> Trained:
        await configurations.replace(
            merchant.id,
            StrategyConfiguration(
                id="bought",
                strategy="bought",
                config={"reverse": reverse, "fails_before": fails_before},
            ),
            None,
            "test",
        )
        rule = GateRule(metric="ndcg@3", margin=0.1, least=least)
        training = Training(
            source=TrainingDataReader(database, tmp_path / "scratch"),
            fitter=ChildFitter(store, tmp_path / "scratch", gate=rule),
            artefacts=store,
            versions=versions,
            configurations=configurations,
            strategies=discover(),
            publish=Models(versions, store).publish,
            run_in_thread=asyncio.to_thread,
        )
        (trained,) = await training.train(merchant.id, actor="test", until=NOW - days_ago * DAY)
        return trained

    return train_with


async def fill(database: Database, merchant: MerchantId) -> None:
    """Ten items. Each shopper buys one of the first three each day for ten days."""
    async with database.merchant(merchant) as connection:
        driver = await raw(connection)
        await driver.execute("INSERT INTO section VALUES ($1, 'Products', 1)", merchant)
        await driver.executemany(
            "INSERT INTO item (merchant_id, section, id, name, version)"
            " VALUES ($1, 'Products', $2, $2, 1)",
            [(merchant, f"i{number}") for number in range(10)],
        )
        times = [
            datetime.datetime.fromtimestamp(NOW - day * DAY - 60, datetime.UTC) for day in range(10)
        ]
        await driver.execute(
            "SELECT ensure_event_partitions($1::date[])", [time.date() for time in times]
        )
        await driver.executemany(
            "INSERT INTO event (merchant_id, occurred_at, type, action, section, user_id, item_id)"
            " VALUES ($1, $2, 4, 'purchase', 'Products', $3, $4)",
            [
                (merchant, time, f"u{shopper}", f"i{(shopper + day) % 3}")
                for day, time in enumerate(times)
                for shopper in range(SHOPPERS)
            ],
        )


async def test_a_worse_model_is_kept_back_and_a_good_one_serves(
    train: Train, database: Database, merchant: Any
) -> None:
    first = await train(reverse=False, days_ago=3)
    assert first.version is not None
    assert first.version.verdict is None  # nothing served before it

    worse = await train(reverse=True, days_ago=0)
    assert worse.version is not None
    assert worse.error is None
    assert worse.kept_back is not None
    assert "worse than version 1" in worse.kept_back
    assert worse.version.state is ModelState.FITTED
    serving = await ModelVersionStore(database).serving(merchant.id, "bought")
    assert serving is not None
    assert serving.number == 1

    # What it found is kept with the version.
    (kept,) = await ModelVersionStore(database).page(merchant.id, limit=1)
    verdict = kept.verdict
    assert verdict is not None
    assert (verdict.passed, verdict.judged, verdict.against, verdict.shoppers, verdict.days) == (
        False,
        True,
        1,
        SHOPPERS,
        3,
    )
    assert verdict.candidate is not None
    assert verdict.published is not None
    assert verdict.difference is not None
    assert verdict.candidate.value == 0
    assert verdict.published.value > 0.5
    assert verdict.difference.high < 0

    good = await train(reverse=False, days_ago=0)
    assert good.version is not None
    assert good.version.state is ModelState.PUBLISHED
    assert good.version.verdict is not None
    assert good.version.verdict.judged
    assert good.kept_back is None


async def test_with_too_few_shoppers_nothing_is_judged(train: Train) -> None:
    await train(reverse=False, days_ago=3)
    second = await train(reverse=True, days_ago=0, least=SHOPPERS + 1)
    assert second.version is not None
    assert second.version.state is ModelState.PUBLISHED
    verdict = second.version.verdict
    assert verdict is not None
    assert not verdict.judged
    assert verdict.reason == "only 30 known shoppers did anything since, and 31 are needed"


async def test_what_cannot_be_judged_does_not_serve_by_itself(
    train: Train, database: Database, merchant: Any
) -> None:
    """Its arrays serve, but a fit on the days before fails."""
    await train(reverse=False, days_ago=3)
    second = await train(reverse=False, fails_before=NOW - 2 * DAY, days_ago=0)
    assert second.error is None
    assert second.kept_back == "could not be judged: ValueError"
    serving = await ModelVersionStore(database).serving(merchant.id, "bought")
    assert serving is not None
    assert serving.number == 1


async def test_a_catalogue_that_changed_is_judged_by_ids(
    train: Train, database: Database, merchant: Any
) -> None:
    """Positions differ between the two models: an item came before all others, one went."""
    await train(reverse=False, days_ago=3)
    async with database.merchant(merchant.id) as connection:
        driver = await raw(connection)
        await driver.execute(
            "INSERT INTO item (merchant_id, section, id, name, version)"
            " VALUES ($1, 'Products', 'a', 'a', 2)",
            merchant.id,
        )
        await driver.execute("UPDATE item SET deleted = true WHERE id = 'i9'")
    second = await train(reverse=False, days_ago=0)
    assert second.version is not None
    verdict = second.version.verdict
    assert verdict is not None
    assert verdict.candidate == verdict.published
    assert verdict.passed
