"""A server of the catalogue alone, in this process, on a real PostgreSQL and a real Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, encode_basic_auth, web

from app.domain import errors
from app.domain.catalogue import DEFAULT_SECTION, ItemFeatures, Section
from app.domain.item_index import ItemIndex, ItemIndexes
from app.domain.merchant import Credential, Merchant, MerchantId, Role
from app.domain.rendered import RenderedItems
from app.http.application import build
from app.http.catalogue import CatalogueHandler, ItemGroupsHandler
from app.http.health import Readiness
from app.postgres.catalogue import Catalogue
from app.postgres.catalogue_write import CatalogueWriter
from app.postgres.database import Database, connect, raw
from app.redis.connection import RedisConnection
from app.redis.item_features import RedisItemFeatures
from app.services.catalogue_follow import Follower
from app.services.catalogue_sync import Projector
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


@asynccontextmanager
async def open_shop(
    database_url: str, redis_url: str, merchant: Any, home: Path
) -> AsyncIterator[CatalogueShop]:
    database = connect(database_url, pool=10)
    redis = RedisConnection(redis_url)
    catalogue = Catalogue(database)
    cache = RedisItemFeatures(redis)
    projector = Projector(catalogue, cache)
    ingest = Ingest(CatalogueWriter(database), projector)
    keys = Keys()
    keys.add(merchant)
    operations = [
        *CatalogueHandler(ingest, catalogue, keys).operations(),
        *ItemGroupsHandler(ingest, catalogue, keys).operations(),
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
            )
    finally:
        await runner.cleanup()
        await redis.close()
        await database.close()
