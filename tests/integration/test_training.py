"""Training, end to end: PostgreSQL, a child process, an artefact, a published version."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.catalogue import DEFAULT_SECTION, Section
from app.domain.errors import Conflict, NotFound
from app.domain.merchant import MerchantId
from app.domain.model import ModelState
from app.domain.pod import StrategyConfiguration
from app.plugins.artefacts import ArtefactStore
from app.plugins.discovery import discover
from app.plugins.fitting import ChildFitter
from app.plugins.model_loader import ArtefactModelLoader
from app.postgres.configuration import ConfigurationReader
from app.postgres.database import Database, connect, raw
from app.postgres.model_versions import ModelVersionStore
from app.postgres.strategy_configurations import StrategyConfigurationStore
from app.postgres.training_data import TrainingDataReader
from app.services.configuration import StrategyConfigurations
from app.services.models import Models
from app.services.train import Training
from vitrine_sdk import Context, EventType, Facet

NOW = 1_760_000_000


class Shop:
    """One merchant's training, wired by hand."""

    def __init__(
        self, database: Database, merchant: MerchantId, home: Path, timeout: float = 60
    ) -> None:
        self.merchant = merchant
        self.strategies = discover()
        self.store = ArtefactStore(str(home / "artefacts"), home / "cache")
        self.versions = ModelVersionStore(database)
        self.models = Models(self.versions, self.store, keep=1)
        configurations = StrategyConfigurationStore(database)
        self.configurations = StrategyConfigurations(configurations, self.strategies)
        self.source = TrainingDataReader(database, home / "scratch")
        self.scratch = home / "scratch"
        self.reader = ConfigurationReader(database)
        self.loader = ArtefactModelLoader(self.store, self.strategies)
        self.training = Training(
            source=self.source,
            fitter=ChildFitter(self.store, home / "scratch", timeout=timeout),
            artefacts=self.store,
            versions=self.versions,
            configurations=configurations,
            strategies=self.strategies,
            publish=self.models.publish,
            run_in_thread=asyncio.to_thread,
        )

    async def configure(self, name: str, strategy: str, **config: Any) -> None:
        await self.configurations.create(
            self.merchant, StrategyConfiguration(id=name, strategy=strategy, config=config), "test"
        )

    async def published(self) -> dict[str, int]:
        configuration = await self.reader.load(self.merchant)
        assert configuration is not None
        return {id_: model.number for id_, model in configuration.models.items()}

    async def recommended(self, configuration_id: str) -> list[str]:
        configuration = await self.reader.load(self.merchant)
        assert configuration is not None
        loaded = await self.loader.load(
            configuration.strategies[configuration_id], configuration.models[configuration_id]
        )
        candidates = loaded.model.recommend(Context(now=NOW), 3)
        return [loaded.item_ids[position] for position in candidates.items]


@pytest.fixture
async def shop(
    third_party_strategies: Path, database: Database, merchant: Any, tmp_path: Path
) -> Shop:
    await add_items(database, merchant.id)
    return Shop(database, merchant.id, tmp_path)


async def add_items(
    database: Database, merchant: MerchantId, section: Section = DEFAULT_SECTION
) -> None:
    """Four items, one gone; the newest is not to be had."""
    items = [
        ("a", 1, {"price": 10, "facets": {"brand": ["x"]}, "group_ids": ["shoes"]}, False),
        ("b", 2, {"price": 20, "sale_price": 15, "facets": {"brand": ["x", "y"]}}, False),
        ("c", 3, {"facets": {"brand": ["y"]}, "group_ids": ["shirts", "sale"]}, False),
        ("d", 4, {"price": 1, "availability": "out of stock", "brand": "y"}, False),
        ("gone", 5, {}, True),
    ]
    async with database.merchant(merchant) as connection:
        driver = await raw(connection)
        await driver.execute(
            "INSERT INTO section VALUES ($1, $2, 7) ON CONFLICT DO NOTHING", merchant, section
        )
        for name, age, data, deleted in items:
            await driver.execute(
                "INSERT INTO item (merchant_id, section, id, name, data, version, deleted,"
                " created_at) VALUES ($1, $2, $3, $4, $5::text::jsonb, 1, $6, $7)",
                *(merchant, section, name, name.upper(), json.dumps(data), deleted),
                at(age),
            )
        for group, parent in (("shoes", "clothes"), ("shirts", "clothes"), ("clothes", None)):
            await driver.execute(
                "INSERT INTO item_group (merchant_id, section, id, name, parent_id, version)"
                " VALUES ($1, $2, $3, $3, $4, 1)",
                *(merchant, section, group, parent),
            )


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(NOW - 10_000 + seconds, datetime.UTC)


async def add_events(
    database: Database, merchant: MerchantId, rows: Sequence[dict[str, Any]]
) -> None:
    """Rows of the table, `t` in seconds."""
    async with database.merchant(merchant) as connection:
        driver = await raw(connection)
        await driver.execute("SELECT ensure_event_partitions($1::date[])", [at(0).date()])
        for row in rows:
            values = {
                "merchant_id": merchant,
                "occurred_at": at(row["t"]),
                "type": int(row.get("type", EventType.VIEW)),
                "action": "test",
                "section": row.get("section", DEFAULT_SECTION),
                **{k: v for k, v in row.items() if k not in ("t", "type", "section")},
            }
            marks = ", ".join(f"${n + 1}" for n in range(len(values)))
            await driver.execute(
                f"INSERT INTO event ({', '.join(values)}) VALUES ({marks})", *values.values()
            )


def values(facet: Facet, item: int) -> list[str]:
    start, end = facet.offsets[item : item + 2]
    return [facet.values[code] for code in facet.codes[start:end]]


# Training data


async def test_the_catalogue_in_columns(shop: Shop) -> None:
    found = await shop.source.read(shop.merchant, DEFAULT_SECTION, NOW, print)
    items = found.data.items
    assert found.catalogue_version == 7
    assert list(items.ids) == ["a", "b", "c", "d"]
    assert list(items.names) == ["A", "B", "C", "D"]
    assert items.available.tolist() == [True, True, True, False]
    assert items.price[:2].tolist() == [10, 15]
    assert math.isnan(items.price[2])
    assert np.diff(items.created).tolist() == [1, 1, 1]
    assert [values(items.groups, item) for item in range(4)] == [
        ["shoes", "clothes"],
        [],
        ["shirts", "clothes", "sale"],
        [],
    ]
    assert [values(items.facets["brand"], item) for item in range(4)] == [
        ["x"],
        ["x", "y"],
        ["y"],
        ["y"],
    ]


async def test_events_in_columns(shop: Shop, database: Database) -> None:
    purchase = {"type": EventType.PURCHASE, "user_id": "u", "quantity": 2.0, "revenue": 9.5}
    await add_events(
        database,
        shop.merchant,
        [
            # Before the log-in; the same shopper as u.
            {"t": 10, "client_id": "k", "item_id": "b"},
            {"t": 50, **purchase, "item_id": "a", "order_id": "o1"},
            {"t": 51, **purchase, "item_id": "c", "order_id": "o1"},
            {"t": 52, **purchase, "item_id": "c", "order_id": "o2"},
            # Another's, whose session numbers are the same.
            {"t": 5, "client_id": "z", "session": 1, "item_id": "a"},
            {"t": 9000, "client_id": "z", "session": 1, "item_id": "gone"},
            {"t": 9001, "client_id": "z", "session": 2, "type": EventType.SEARCH, "term": 'a,"\nb'},
            # No session: a pause of more than half an hour divides.
            {"t": 100, "client_id": "y", "item_id": "a"},
            {"t": 1900, "client_id": "y", "item_id": "a"},
            {"t": 3701, "client_id": "y", "item_id": ""},
            # An order of a guest.
            {"t": 1, "type": EventType.PURCHASE, "order_id": "guest", "item_id": "d"},
            # Not learned from.
            {"t": 60, "client_id": "robot", "item_id": "a", "learn": False},
            {"t": 60, "client_id": "k", "section": "Content", "item_id": "a"},
            {"t": 10_001, "client_id": "k", "item_id": "a"},
            {"t": 60, "item_id": "a"},
        ],
    )
    async with database.merchant(shop.merchant) as connection:
        await (await raw(connection)).execute(
            "INSERT INTO shopper_identity (merchant_id, client_id, user_id) VALUES ($1, 'k', 'u')",
            shop.merchant,
        )
    found = await shop.source.read(shop.merchant, DEFAULT_SECTION, NOW, print)
    events = found.data.events
    assert found.data.now == NOW - 10_000 + 9001  # the last event
    assert found.data.items.created.max() <= found.data.now
    assert found.unknown_items == 2  # one is no longer, one never was in the catalogue
    assert events.shoppers == 4
    assert list(events.terms) == ['a,"\nb']
    time_of = (events.time - (NOW - 10_000)).tolist()
    rows = list(
        zip(
            events.shopper.tolist(),
            time_of,
            events.item.tolist(),
            events.session.tolist(),
            events.quantity.tolist(),
            events.term.tolist(),
            strict=True,
        )
    )
    assert rows == [
        (0, 100, 0, 0, 1.0, -1),
        (0, 1900, 0, 0, 1.0, -1),
        (0, 3701, -1, 1, 1.0, -1),
        (1, 5, 0, 2, 1.0, -1),
        (1, 9000, -1, 2, 1.0, -1),
        (1, 9001, -1, 3, 1.0, 0),
        (2, 1, 3, 4, 1.0, -1),
        (3, 10, 1, 5, 1.0, -1),
        (3, 50, 0, 6, 2.0, -1),
        (3, 51, 2, 6, 2.0, -1),
        (3, 52, 2, 7, 2.0, -1),
    ]
    assert events.revenue.sum() == pytest.approx(3 * 9.5)
    assert events.type.dtype == np.int8


async def test_no_events_and_no_items(database: Database, merchant: Any, tmp_path: Path) -> None:
    found = await TrainingDataReader(database, tmp_path).read(
        merchant.id, DEFAULT_SECTION, NOW, print
    )
    assert (len(found.data.items), len(found.data.events), found.data.events.shoppers) == (0, 0, 0)


async def test_equal_rows_give_equal_columns_in_whatever_order_they_came(
    shop: Shop, database: Database, database_url: str, create_merchant: Any
) -> None:
    rows = [
        {"t": n % 7, "client_id": f"c{n % 5}", "item_id": "abc"[n % 3], "session": n % 2}
        for n in range(60)
    ]
    other = await create_merchant(database_url, "other")
    await add_items(database, other.id)
    await add_events(database, shop.merchant, rows)
    await add_events(database, other.id, list(reversed(rows)))
    one, two = [
        (await shop.source.read(merchant, DEFAULT_SECTION, NOW, print)).data.events
        for merchant in (shop.merchant, other.id)
    ]
    assert len(one) == 60
    for name in ("shopper", "item", "type", "time", "session", "term"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


# Fit, publish, roll back


async def test_train_publish_load_and_roll_back(shop: Shop, database: Database) -> None:
    await shop.configure("new", "newest")
    said: list[str] = []
    (trained,) = await shop.training.train(shop.merchant, actor="test", progress=said.append)
    assert trained.error is None
    assert await shop.recommended("new") == ["c", "b", "a"]
    version = trained.version
    assert version is not None
    assert version.state is ModelState.PUBLISHED
    manifest = version.manifest
    assert (manifest.strategy, manifest.strategy_version) == ("newest", "1.2.3")
    assert manifest.config == {"keep": 1000}
    assert manifest.metrics["items"] == 4
    assert {"events", "seconds", "peak_mib", "bytes", "shoppers"} <= set(manifest.metrics)
    assert any("fitting new (newest 1.2.3)" in line for line in said)
    assert list(shop.scratch.iterdir()) == []

    await add_items(database, shop.merchant, Section("Content"))
    async with database.merchant(shop.merchant) as connection:
        await (await raw(connection)).execute("UPDATE item SET deleted = true WHERE id = 'c'")
    await shop.training.train(shop.merchant, ["new"], actor="test")
    assert await shop.published() == {"new": 2}
    assert await shop.recommended("new") == ["b", "a"]

    await shop.models.roll_back(shop.merchant, "new", "test")
    assert await shop.published() == {"new": 1}
    assert await shop.recommended("new") == ["c", "b", "a"]
    with pytest.raises(NotFound, match="no version before"):
        await shop.models.roll_back(shop.merchant, "new", "test")
    await shop.models.publish_number(shop.merchant, "new", 2, "test")
    assert await shop.published() == {"new": 2}


async def test_the_same_data_config_and_seed_give_the_same_bytes(shop: Shop) -> None:
    await shop.configure("new", "newest")
    until = float(NOW)
    one, two = [
        (await shop.training.train(shop.merchant, actor="test", until=until))[0] for _ in range(2)
    ]
    assert one.version is not None
    assert two.version is not None
    assert one.version.manifest.files == two.version.manifest.files


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", "fit: ZeroDivisionError: no events"),
        ("kill", "SIGKILL"),
        ("exit", "ended by itself with code 3"),
        ("objects", "objects are not stored"),
        ("unloadable", "could not be loaded: ValueError: array 'model' is missing"),
        ("hang", "longer than"),
        ("memory", "out of memory"),
    ],
)
async def test_a_failed_fit_leaves_the_published_one_in_place(
    third_party_strategies: Path,
    database: Database,
    merchant: Any,
    tmp_path: Path,
    how: str,
    reason: str,
) -> None:
    shop = Shop(database, merchant.id, tmp_path)
    await shop.configure("bad", "crashing")
    await shop.training.train(merchant.id, actor="test")
    found = await shop.configurations.get(merchant.id, "bad")
    await shop.configurations.replace(
        merchant.id,
        StrategyConfiguration(id="bad", strategy="crashing", config={"how": how}),
        frozenset({found.version}),
        "test",
    )
    later = Shop(database, merchant.id, tmp_path, timeout=2 if how == "hang" else 60)
    (bad,) = await later.training.train(merchant.id, actor="test")
    assert bad.version is None
    assert bad.error is not None
    assert reason in bad.error
    assert "second line" not in bad.error
    assert await shop.published() == {"bad": 1}
    configuration = await shop.reader.load(merchant.id)
    assert configuration is not None
    await shop.loader.load(configuration.strategies["bad"], configuration.models["bad"])
    assert list((tmp_path / "artefacts" / ".staging").iterdir()) == []


async def test_a_failed_fit_stops_none_of_the_others(shop: Shop) -> None:
    await shop.configure("bad", "crashing", how="raise")
    await shop.configure("new", "newest")
    bad, new = await shop.training.train(shop.merchant, actor="test")
    assert bad.error is not None
    assert new.error is None
    assert await shop.published() == {"new": 1}


async def test_a_version_whose_artefact_is_damaged_is_not_published(shop: Shop) -> None:
    await shop.configure("new", "newest")
    for _ in range(2):
        await shop.training.train(shop.merchant, actor="test")
    old = await shop.versions.find(shop.merchant, "new", 1)
    directory = Path(shop.store._root) / old.location
    (directory / "scores.npy").write_bytes(b"other")
    with pytest.raises(Conflict, match=r"scores\.npy is not what was written"):
        await shop.models.roll_back(shop.merchant, "new", "test")
    assert await shop.published() == {"new": 2}


async def test_a_number_without_a_row_is_passed_over(shop: Shop) -> None:
    """As a crash between the artefact and its row leaves one."""
    await shop.configure("new", "newest")
    (Path(shop.store._root) / shop.store.location(shop.merchant, "new", 1)).mkdir(parents=True)
    (trained,) = await shop.training.train(shop.merchant, actor="test")
    assert trained.version is not None
    assert trained.version.number == 2


async def test_old_versions_are_cleared_away(shop: Shop) -> None:
    await shop.configure("new", "newest")
    for _ in range(3):
        await shop.training.train(shop.merchant, actor="test")
    await shop.models.clear_away(shop.merchant)
    left = await shop.models.page(shop.merchant)
    assert [version.number for version in left] == [3, 2]  # 3 serves; 2 is for a rollback
    assert sorted(shop.store.locations(shop.merchant, "new")) == [2, 3]
    assert await shop.recommended("new") == ["c", "b", "a"]


async def test_an_unknown_configuration_is_named(shop: Shop) -> None:
    await shop.configure("new", "newest")
    with pytest.raises(NotFound, match=r"'nwe'; there are: new"):
        await shop.training.train(shop.merchant, ["nwe"], actor="test")


async def test_without_publishing_the_published_one_serves_on(shop: Shop) -> None:
    await shop.configure("new", "newest")
    await shop.training.train(shop.merchant, actor="test")
    (trained,) = await shop.training.train(shop.merchant, actor="test", publish=False)
    assert trained.version is not None
    assert trained.version.state is ModelState.FITTED
    assert await shop.published() == {"new": 1}


async def test_a_second_process_sees_a_publication_and_its_rollback(
    shop: Shop, database_url: str
) -> None:
    """Another database connection, as another server process has: the version that it polls grows
    with every publication, and what it loads is whole."""
    await shop.configure("new", "newest")
    other = connect(database_url, pool=1)
    try:
        reader = ConfigurationReader(other)
        seen = []
        for step in (
            lambda: shop.training.train(shop.merchant, actor="test"),
            lambda: shop.training.train(shop.merchant, actor="test"),
            lambda: shop.models.roll_back(shop.merchant, "new", "test"),
        ):
            before = (await reader.versions())[shop.merchant]
            await step()
            assert (await reader.versions())[shop.merchant] == before + 1
            configuration = await reader.load(shop.merchant)
            assert configuration is not None
            assert configuration.merchant.configuration_version == before + 1
            seen.append(configuration.models["new"].number)
        assert seen == [1, 2, 1]
    finally:
        await other.close()
