"""A server of the catalogue alone, in this process, on a real PostgreSQL and a real Redis."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, FormData, encode_basic_auth, web

from app.domain import errors
from app.domain.catalogue import DEFAULT_SECTION, ItemFeatures, Section
from app.domain.item_index import ItemIndex, ItemIndexes
from app.domain.merchant import Credential, Merchant, MerchantId, Role
from app.domain.rendered import RenderedItems
from app.files.catalogue_files import CatalogueFiles
from app.http.application import build
from app.http.catalogue import CatalogueHandler, ItemGroupsHandler
from app.http.catalogue_files import CatalogueFilesHandler, CatalogueTasksHandler
from app.http.health import Readiness
from app.postgres.catalogue import Catalogue
from app.postgres.catalogue_write import CatalogueWriter
from app.postgres.configuration import ConfigurationReader
from app.postgres.database import Database, connect, raw
from app.postgres.tasks import Tasks
from app.redis.connection import RedisConnection
from app.redis.item_features import RedisItemFeatures
from app.services.catalogue_follow import Follower
from app.services.catalogue_import import JOB, CatalogueImport, ImportRecovery
from app.services.catalogue_sync import Projector
from app.services.catalogue_verify import Verifier
from app.services.ingest import Ingest
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output


@dataclass
class Keys:
    """Merchants by key and by token, as a process' snapshot has them."""

    by_key: dict[str, Merchant] = field(default_factory=dict)
    by_secret: dict[str, tuple[MerchantId, Role]] = field(default_factory=dict)

    def add(self, merchant: Any) -> None:
        """A `TestMerchant`."""
        self.by_key[merchant.key] = Merchant(id=merchant.id, name=merchant.id)
        for role, secret in merchant.secrets.items():
            self.by_secret[secret] = (merchant.id, role)

    def merchant_of_key(self, key: str) -> Merchant:
        if key not in self.by_key:
            raise errors.Unauthenticated("key: there is no index with this key")
        return self.by_key[key]

    def allowed_origins(self, key: str) -> Sequence[str] | None:
        return () if key in self.by_key else None

    def token(self, secret: str) -> Credential:
        if secret not in self.by_secret:
            raise errors.Unauthenticated("the token is not known")
        merchant, role = self.by_secret[secret]
        return Credential(f"t-{role}", merchant, role, b"")


class InProcessQueue:
    """Imports run in this process, after the call that submitted them was answered."""

    def __init__(self) -> None:
        self.imports: CatalogueImport | None = None
        self.waiting: list[dict[str, Any]] = []

    async def enqueue(self, name: str, args: Mapping[str, Any]) -> None:
        assert name == JOB
        self.waiting.append(dict(args))

    async def pending(self, name: str) -> Sequence[Mapping[str, Any]]:
        assert name == JOB
        return self.waiting

    async def work(self) -> None:
        """Runs what waits, at once and side by side."""
        assert self.imports is not None
        jobs, self.waiting = self.waiting, []
        await asyncio.gather(*(self.imports.run_import(**args) for args in jobs))


@dataclass
class CatalogueShop:
    url: str
    http: ClientSession
    keys: Keys
    merchant: Any
    database: Database
    catalogue: Catalogue
    cache: RedisItemFeatures
    redis: RedisConnection
    projector: Projector
    verifier: Verifier
    tasks: Tasks
    imports: CatalogueImport
    queue: InProcessQueue
    files: CatalogueFiles
    writer: CatalogueWriter

    @property
    def id(self) -> MerchantId:
        return MerchantId(self.merchant.id)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        status: int = 200,
        token: str | None = None,
        **query: Any,
    ) -> Any:
        """A call with the administrator's token; the answer's JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with self.http.request(
            method,
            self.url + path,
            data=data,
            params=query,
            headers={"Authorization": encode_basic_auth(token or self.merchant.token, "")},
        ) as response:
            answer = await response.json(content_type=None)
            assert response.status == status, answer
            return answer

    async def put(self, *items: Mapping[str, Any], **query: Any) -> None:
        """Puts items; `name` is made up where it is not said."""
        named = [{"name": f"Item {item['id']}", **item} for item in items]
        await self.call("PUT", "/v2/items", {"items": named}, **query)

    def follower(self) -> tuple[Follower, ItemIndexes]:
        """As each server process has it."""
        indexes = ItemIndexes(RenderedItems(1 << 20))
        return Follower(indexes, self.cache, self.catalogue, poll_seconds=0.02), indexes

    async def upload(
        self,
        method: str = "PUT",
        *,
        status: int = 202,
        files: Mapping[str, bytes | str] | None = None,
        **query: Any,
    ) -> Any:
        """Uploads files by kind (or by an archive's name); the answer's JSON."""
        form = FormData()
        for name, content in (files or {}).items():
            data = content.encode() if isinstance(content, str) else content
            form.add_field(name, io.BytesIO(data), filename=f"{name}.csv")
        async with self.http.request(
            method,
            f"{self.url}/v1/catalog",
            data=form,
            params=query,
            headers={"Authorization": encode_basic_auth(self.merchant.token, "")},
        ) as response:
            answer = await response.json(content_type=None)
            assert response.status == status, answer
            return answer

    async def run(self, method: str = "PUT", **more: Any) -> Any:
        """Uploads files, lets the import run, and tells what became of it."""
        started = await self.upload(method, **more)
        await self.queue.work()
        return await self.call("GET", started["task_status_path"])

    async def recover(self) -> int:
        """As the worker does it now and then; how many imports were enqueued."""
        merchants = ConfigurationReader(self.database)
        before = len(self.queue.waiting)
        await ImportRecovery(
            self.tasks, self.files, self.queue, self.queue, merchants, enqueued_within=0
        ).run()
        return len(self.queue.waiting) - before

    async def ids(self) -> list[str]:
        return sorted(await self.in_postgres())

    async def version(self, section: Section = DEFAULT_SECTION) -> int:
        return await self.catalogue.version(self.id, section)

    async def in_postgres(self, section: Section = DEFAULT_SECTION) -> dict[str, ItemFeatures]:
        """All features, made from what PostgreSQL has."""
        async with self.catalogue.snapshot(self.id, section) as snapshot:
            return {item.id: item async for part, _ in snapshot.changes(0) for item in part}

    async def in_redis(self, section: Section = DEFAULT_SECTION) -> dict[str, ItemFeatures]:
        """All features in Redis."""
        return {i.id: i async for part in self.cache.scan(self.id, section) for i in part}

    async def query(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        async with self.database.merchant(self.id) as connection:
            return [dict(row) for row in await (await raw(connection)).fetch(sql, *args)]


def shown(index: ItemIndex) -> dict[str, tuple[bool, float | None]]:
    """What an index shows: availability and price by id."""
    return {
        index.ids[row]: (
            bool(index.available[row]),
            None if index.price[row] != index.price[row] else round(float(index.price[row]), 4),
        )
        for row in range(len(index))
        if index.present[row]
    }


_numbers = itertools.count(1)


@asynccontextmanager
async def open_shop(
    database_url: str,
    redis_url: str,
    create_merchant: Callable[..., Any],
    home: Path,
    *,
    max_upload_bytes: int = 64 * 1024 * 1024,
) -> AsyncIterator[CatalogueShop]:
    """A shop of a new merchant: tests of a module may share its stores."""
    merchant = await create_merchant(database_url, f"shop-{next(_numbers)}")
    database = connect(database_url, pool=10)
    redis = RedisConnection(redis_url)
    catalogue = Catalogue(database)
    cache = RedisItemFeatures(redis)
    projector = Projector(catalogue, cache)
    writer = CatalogueWriter(database)
    ingest = Ingest(writer, projector)
    tasks = Tasks(database)
    queue = InProcessQueue()
    files = CatalogueFiles(home / "uploads", max_bytes=max_upload_bytes)
    imports = queue.imports = CatalogueImport(writer, tasks, projector, files, queue)
    keys = Keys()
    keys.add(merchant)
    operations = [
        *CatalogueHandler(ingest, catalogue, keys).operations(),
        *ItemGroupsHandler(ingest, catalogue, keys).operations(),
        *CatalogueFilesHandler(imports, keys, max_upload_bytes=max_upload_bytes).operations(),
        *CatalogueTasksHandler(tasks, keys).operations(),
    ]
    output = Output(descriptor=2)
    application = build(
        operations,
        authenticator=keys,
        origins=keys,
        readiness=Readiness(),
        metrics=Metrics(),
        output=output,
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]
    try:
        async with ClientSession() as http:
            yield CatalogueShop(
                url=f"http://127.0.0.1:{port}",
                http=http,
                keys=keys,
                merchant=merchant,
                database=database,
                catalogue=catalogue,
                cache=cache,
                redis=redis,
                projector=projector,
                verifier=Verifier(catalogue, cache),
                tasks=tasks,
                imports=imports,
                queue=queue,
                files=files,
                writer=writer,
            )
    finally:
        await runner.cleanup()
        await redis.close()
        await database.close()
