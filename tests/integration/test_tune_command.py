"""`vitrine tune` on a merchant's own events and what it writes; and what training finds out for a
pod with an objective."""

from __future__ import annotations

import asyncio
import datetime
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.cli import vitrine
from app.domain.objective import Objective
from app.domain.pod import Pod, StrategyConfiguration
from app.postgres.database import Database, raw
from app.postgres.model_versions import ModelVersionStore
from app.postgres.pods import PodStore
from app.postgres.strategy_configurations import StrategyConfigurationStore
from app.telemetry import logs

NOW = datetime.datetime(2026, 3, 20, 12, tzinfo=datetime.UTC)


@pytest.fixture
async def shop(database: Database, merchant: Any) -> Any:
    """Forty shoppers who walk through thirty items, three at a time, one a day."""
    async with database.merchant(merchant.id) as connection:
        driver = await raw(connection)
        await driver.execute("INSERT INTO section VALUES ($1, 'Products', 1)", merchant.id)
        await driver.executemany(
            "INSERT INTO item (merchant_id, section, id, name, version)"
            " VALUES ($1, 'Products', $2, $2, 1)",
            [(merchant.id, f"i{number}") for number in range(30)],
        )
        days = [(NOW - datetime.timedelta(days=day)).date() for day in range(15)]
        await driver.execute("SELECT ensure_event_partitions($1::date[])", days)
        await driver.executemany(
            "INSERT INTO event (merchant_id, occurred_at, type, action, section, user_id, item_id,"
            " quantity, revenue) VALUES ($1, $2, 1, 'view', 'Products', $3, $4, 1, 0)",
            [
                (
                    merchant.id,
                    NOW - datetime.timedelta(days=13 - day, minutes=who),
                    f"u{who}",
                    f"i{(who + 3 * day) % 30}",
                )
                for who in range(40)
                for day in range(14)
            ],
        )
    return merchant


@pytest.fixture
def environment(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """In which commands find the shop."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("VITRINE_")},
        "VITRINE_DATABASE_URL": database_url,
        "VITRINE_REDIS_URL": redis_url,
        "VITRINE_HOME": str(tmp_path / "home"),
    }


async def test_training_calibrates_what_a_pod_with_an_objective_serves(
    shop: Any, database: Database, environment: dict[str, str]
) -> None:
    store = StrategyConfigurationStore(database)
    for name in ("like", "top"):
        strategy = {"like": "similar", "top": "popular"}[name]
        await store.create(shop.id, StrategyConfiguration(id=name, strategy=strategy), "test")
    pod = Pod(id="home", display_name="Home", chain=("like",), objective=Objective.CLICKS)
    await PodStore(database).create(shop.id, pod, "test")
    done = await asyncio.to_thread(CliRunner().invoke, vitrine, ["train"], env=environment)
    assert done.exit_code == 0, done.output
    versions = ModelVersionStore(database)
    like, top = [await versions.serving(shop.id, name) for name in ("like", "top")]
    assert like is not None
    assert top is not None
    found = like.manifest.calibration
    assert found is not None
    assert found.clicks is not None
    assert found.purchases is None  # nobody bought anything
    assert found.shoppers == 40
    assert top.manifest.calibration is None


async def test_a_second_training_counts_only_what_is_new(
    shop: Any, database: Database, environment: dict[str, str]
) -> None:
    await StrategyConfigurationStore(database).create(
        shop.id, StrategyConfiguration(id="like", strategy="similar"), "test"
    )
    command = ["train", "like", "--incremental"]

    async def trained() -> Any:
        done = await asyncio.to_thread(CliRunner().invoke, vitrine, command, env=environment)
        assert done.exit_code == 0, done.output
        version = await ModelVersionStore(database).serving(shop.id, "like")
        assert version is not None
        return version.manifest

    first = await trained()
    assert (first.metrics["incremental"], first.metrics["events"]) == (0, 560)
    async with database.merchant(shop.id) as connection:
        await (await raw(connection)).execute(
            "INSERT INTO event (merchant_id, occurred_at, type, action, section, user_id, item_id)"
            " VALUES ($1, $2, 1, 'view', 'Products', 'u0', 'i7')",
            *(shop.id, NOW + datetime.timedelta(minutes=5)),
        )
    second = await trained()
    assert (second.metrics["incremental"], second.metrics["events"]) == (1, 561)
    assert second.files != first.files


async def test_the_best_is_applied_to_the_configuration(
    shop: Any,
    database: Database,
    environment: dict[str, str],
) -> None:
    store = StrategyConfigurationStore(database)
    # All it may know is what came before: what comes after is what is asked for.
    poor = {"backward": 1.0, "gaps": 1, "baskets": 0.0}
    await store.create(
        shop.id, StrategyConfiguration(id="like", strategy="similar", config=poor), "test"
    )

    async def tune(*more: str, code: int = 0) -> Result:
        command = ["tune", "like", "--metric", "mrr@5", "--trials", "8", "--only", "backward"]
        done = await asyncio.to_thread(
            CliRunner().invoke, vitrine, [*command, *more], env=environment
        )
        assert done.exit_code == code, done.output
        return done

    looked = await tune()
    assert "on 20 shoppers that the search did not see" in looked.output
    assert "they differ" in looked.output
    assert (await store.get(shop.id, "like")).value.config == poor

    applied = await tune("--apply")
    assert "8 trials (8 of an earlier run" in applied.output
    assert "applied to like" in applied.output
    config = (await store.get(shop.id, "like")).value.config
    assert config["backward"] < 1
    assert {**config, "backward": 1.0}.items() >= poor.items()

    nothing = await tune("--apply", "--seconds", "0", "--fix", "backward", code=1)
    assert "nothing is left to search" in nothing.output
