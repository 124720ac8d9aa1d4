"""Server processes with the admin API and the storefront, in this process, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, encode_basic_auth, web

from app.domain.catalogue import DEFAULT_SECTION, Item, ItemFeatures, ItemId, Section
from app.domain.event import Shopper
from app.domain.item_features import features
from app.domain.item_index import ItemIndexes
from app.domain.merchant import MerchantId, Role
from app.domain.past import NO_PAST, Past
from app.domain.rendered import RenderedItems
from app.http.admin_audit import AdminAudit
from app.http.admin_keys import AdminKeys
from app.http.admin_models import AdminModels
from app.http.admin_pods import AdminPods
from app.http.admin_strategies import AdminStrategies
from app.http.admin_tracking import AdminTracking
from app.http.application import build
from app.http.health import Readiness
from app.http.idempotency import Idempotency
from app.http.storefront import Storefront, result_ids
from app.jobs.queue import JobQueue
from app.plugins.artefacts import ArtefactStore
from app.plugins.discovery import discover
from app.plugins.fitting import ChildFitter
from app.plugins.model_loader import ArtefactModelLoader
from app.plugins.runner import SUPPORTED_MODES, StrategyRunner
from app.postgres.audit import AuditLog
from app.postgres.configuration import ConfigurationReader
from app.postgres.database import Database, connect, raw
from app.postgres.idempotency import IdempotencyKeyStore
from app.postgres.merchants import Merchants
from app.postgres.model_versions import ModelVersionStore
from app.postgres.pods import PodStore
from app.postgres.strategy_configurations import StrategyConfigurationStore
from app.postgres.tasks import Tasks
from app.postgres.training_data import TrainingDataReader
from app.services.configuration import StrategyConfigurations
from app.services.models import Models
from app.services.recommend import Recommend, ServedSample
from app.services.serving import Serving
from app.services.shopper_history import Histories
from app.services.train import Training
from app.services.training_tasks import TrainingRequests, TrainingTasks
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output


@dataclass
class Catalogue:
    """Items in memory, as Redis has them."""

    items: dict[str, ItemFeatures] = field(default_factory=dict)

    async def features(
        self, merchant: MerchantId, section: Section, ids: Sequence[ItemId]
    ) -> Sequence[ItemFeatures | None]:
        return [self.items.get(item_id) for item_id in ids]

    async def read(self, merchant: MerchantId, shopper: Shopper, limit: int, until: float) -> Past:
        return NO_PAST

    def record(self, sample: ServedSample) -> None:
        pass


class Process:
    """One server process' part of it."""

    def __init__(
        self, database: Database, queue: JobQueue, merchant: Any, home: Path, catalogue: Catalogue
    ) -> None:
        self.database = database
        self.merchant: MerchantId = merchant.id
        self.secrets: Mapping[Role, str] = merchant.secrets
        self.key: str = merchant.key
        self.catalogue = catalogue
        strategies = discover()
        store = ArtefactStore(str(home / "artefacts"), home / "cache")
        self.indexes = ItemIndexes(RenderedItems(1 << 20))
        reader = ConfigurationReader(database)
        self.serving = Serving(reader, ArtefactModelLoader(store, strategies), self.indexes)
        self.tasks = Tasks(database)
        versions = ModelVersionStore(database)
        models = Models(versions, store)
        configurations = StrategyConfigurationStore(database)
        trainings = TrainingRequests(self.tasks, queue, configurations)
        self.trainings = TrainingTasks(
            self.tasks,
            Training(
                source=TrainingDataReader(database, home / "scratch"),
                fitter=ChildFitter(store, home / "scratch"),
                artefacts=store,
                versions=versions,
                configurations=configurations,
                strategies=strategies,
                publish=models.publish,
                run_in_thread=asyncio.to_thread,
            ),
            trainings,
            reader,
            queue,
        )
        idempotency = Idempotency(IdempotencyKeyStore(database))
        metrics = Metrics()
        recommend = Recommend(
            StrategyRunner(metrics),
            Histories(catalogue),
            catalogue,
            catalogue,
            metrics,
            random=random.random,
            budget=5.0,
            sample_rate=0.0,
        )
        handlers = (
            AdminPods(PodStore(database), idempotency),
            AdminStrategies(
                strategies,
                StrategyConfigurations(configurations, strategies, SUPPORTED_MODES),
                idempotency,
            ),
            AdminModels(models, trainings, idempotency),
            AdminAudit(AuditLog(database)),
            AdminKeys(Merchants(database), idempotency),
            AdminTracking(Merchants(database)),
            Storefront(self.serving, recommend, result_ids()),
        )
        self.application = build(
            [operation for handler in handlers for operation in handler.operations()],
            authenticator=self.serving,
            origins=self.serving,
            readiness=Readiness(),
            metrics=metrics,
            output=Output(descriptor=2),
        )
        self.http: ClientSession
        self.url: str

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: Role = Role.ADMINISTRATOR,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Any:
        """The answer's JSON; None where it has none."""
        answer, _ = await self.call_for_headers(
            method, path, body, role=role, status=status, headers=headers, **query
        )
        return answer

    async def call_for_headers(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: Role = Role.ADMINISTRATOR,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> tuple[Any, Mapping[str, str]]:
        async with self.http.request(
            method,
            f"{self.url}{path}",
            data=None if body is None else body if isinstance(body, bytes) else json.dumps(body),
            params=query,
            headers={
                "Authorization": encode_basic_auth(self.secrets[role], ""),
                "Content-Type": "application/json",
                **(headers or {}),
            },
        ) as response:
            text = await response.read()
            assert response.status == status, text
            return json.loads(text) if text else None, response.headers

    async def recommended(self, pod: str, **query: Any) -> Any:
        async with self.http.get(
            f"{self.url}/recommendations/v1/pods/{pod}", params={"key": self.key, **query}
        ) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer

    async def add_items(self, *names: str) -> None:
        """Items from old to new, in PostgreSQL and in this process' index."""
        async with self.database.merchant(self.merchant) as connection:
            driver = await raw(connection)
            await driver.execute(
                "INSERT INTO section VALUES ($1, $2, 1) ON CONFLICT DO NOTHING",
                *(self.merchant, DEFAULT_SECTION),
            )
            for age, name in enumerate(names):
                await driver.execute(
                    "INSERT INTO item (merchant_id, section, id, name, version, created_at)"
                    " VALUES ($1, $2, $3, $3, 1, now() - make_interval(days => $4))",
                    *(self.merchant, DEFAULT_SECTION, name, len(names) - age),
                )
        self.index_items(*names)

    def index_items(self, *names: str) -> None:
        found = [features(Item(id=ItemId(name), name=name), version=1) for name in names]
        self.catalogue.items.update({item.id: item for item in found})
        index = self.indexes.get(self.merchant, DEFAULT_SECTION)
        index.apply([index.prepare(found)], 1)


@asynccontextmanager
async def open_processes(
    database_url: str, merchant: Any, home: Path
) -> AsyncIterator[Callable[[], Any]]:
    """A function that starts a server process and returns it."""
    catalogue = Catalogue()
    async with AsyncExitStack() as stack:

        async def start() -> Process:
            database = connect(database_url, pool=3)
            stack.push_async_callback(database.close)
            queue = JobQueue(database_url)
            await queue.open()
            stack.push_async_callback(queue.close)
            process = Process(database, queue, merchant, home, catalogue)
            await process.serving.refresh()
            runner = web.AppRunner(process.application)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            process.url = f"http://127.0.0.1:{port}"
            process.http = await stack.enter_async_context(ClientSession())
            return process

        yield start
