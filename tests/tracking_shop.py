"""A server of tracking alone, in this process, on a real PostgreSQL and a real Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import ClientSession, encode_basic_auth
from redis.asyncio import Redis

from app.domain import errors
from app.domain.event import HistoryEntry, Shopper
from app.domain.merchant import Credential, Merchant, MerchantId, Role, TrackingSettings
from app.http.application import build
from app.http.client_address import ClientAddress
from app.http.health import Readiness
from app.http.native_events import NativeEventsHandler
from app.http.server import Limits
from app.http.tracking import Tracking
from app.postgres.database import Database, connect, raw
from app.postgres.event_log import EventLog
from app.postgres.merchants import Merchants
from app.redis.connection import RedisConnection
from app.redis.history import HistoryStore
from app.services.track import Spool, Tracker
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output
from tests.recommending_shop import running


@dataclass
class Keys:
    """Merchants by key and by token, as a process' snapshot has them."""

    by_key: dict[str, Merchant]
    by_secret: dict[str, tuple[Merchant, Role]] = field(default_factory=dict)

    def merchant_of_key(self, key: str) -> Merchant:
        if key not in self.by_key:
            raise errors.Unauthenticated("key: there is no index with this key")
        return self.by_key[key]

    def merchant(self, merchant: MerchantId) -> Merchant:
        return next(m for m in self.by_key.values() if m.id == merchant)

    def allowed_origins(self, key: str) -> Sequence[str] | None:
        return () if key in self.by_key else None

    def token(self, secret: str) -> Credential:
        if secret not in self.by_secret:
            raise errors.Unauthenticated("the token is not known")
        merchant, role = self.by_secret[secret]
        return Credential(f"t-{role}", merchant.id, role, b"")


@dataclass
class TrackingShop:
    url: str
    http: ClientSession
    keys: Keys
    database: Database
    redis: Redis
    history: HistoryStore
    tracker: Tracker
    log: EventLog
    untracked: list[None]
    merchant: Merchant
    key: str

    def settings(self, **changes: Any) -> None:
        """Changes the merchant's tracking settings."""
        tracking = msgspec.structs.replace(self.merchant.tracking, **changes)
        self.merchant = msgspec.structs.replace(self.merchant, tracking=tracking)
        self.keys.by_key[self.key] = self.merchant

    async def post(
        self,
        action: str,
        body: Mapping[str, Any] | bytes | str | None = None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> dict[str, Any]:
        """Sends one of the tracker's POST calls, by default with what each of them has."""
        if isinstance(body, Mapping):
            common = {"key": self.key, "i": "client-1", "s": 1, "_dt": 1}
            body = msgspec.json.encode({**common, **body})
        async with self.http.post(
            f"{self.url}/v2/behavioral_action/{action}",
            data=body,
            params={"key": self.key, **query},
            headers={"Content-Type": "text/plain", **(headers or {})},
        ) as response:
            answer = await response.json()
            assert response.status == status, answer
            return dict(answer)

    async def send(
        self, body: Any, *, token: str = "s-ingest", status: int = 200, media: str | None = None
    ) -> dict[str, Any]:
        """POST /v1/events."""
        async with self.http.post(
            f"{self.url}/v1/events",
            data=body if isinstance(body, bytes) else msgspec.json.encode(body),
            headers={
                "Authorization": encode_basic_auth(token, ""),
                "Content-Type": media or "application/json",
            },
        ) as response:
            answer = await response.json()
            assert response.status == status, answer
            return dict(answer)

    async def rows(self, merchant: str | None = None) -> list[dict[str, Any]]:
        """The event log, oldest first."""
        async with self.database.merchant(MerchantId(merchant or self.merchant.id)) as connection:
            found = await (await raw(connection)).fetch(
                "SELECT * FROM event ORDER BY occurred_at, item_id"
            )
        return [dict(row) for row in found]

    async def query(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        async with self.database.merchant(self.merchant.id) as connection:
            return [dict(row) for row in await (await raw(connection)).fetch(sql, *args)]

    async def recent(
        self, client_id: str | None = None, user_id: str | None = None
    ) -> list[HistoryEntry]:
        shopper = Shopper(client_id, user_id)
        return list(await self.history.read(self.merchant.id, shopper, 100))


@asynccontextmanager
async def open_shop(
    database_url: str,
    redis_url: str,
    *,
    spool: Spool | None = None,
    start: bool = True,
    **options: Any,
) -> AsyncIterator[TrackingShop]:
    """With a new merchant, so that tests may share a database. `options` go to Tracker."""
    database = connect(database_url, pool=4)
    name = f"shop-{secrets.token_hex(8)}"
    own = Merchant(id=MerchantId(name), name="Shop", tracking=TrackingSettings())
    await Merchants(database).create(own.id, own.name, actor="test")
    key = f"key-{name}"
    redis = RedisConnection(redis_url)
    history = HistoryStore(redis.client, run=redis.run)
    log = EventLog(database)
    tracker = Tracker(log, history, spool, **options)
    keys = Keys(
        {key: own},
        {"s-ingest": (own, Role.INGEST), "s-reader": (own, Role.READER)},
    )
    untracked: list[None] = []
    handlers = (
        Tracking(
            keys,
            tracker,
            address=ClientAddress("127.0.0.0/8"),
            on_untracked=lambda: untracked.append(None),
        ),
        NativeEventsHandler(keys, tracker, on_untracked=lambda: untracked.append(None)),
    )
    output = Output(descriptor=2)
    application = build(
        [operation for handler in handlers for operation in handler.operations()],
        authenticator=keys,
        origins=keys,
        readiness=Readiness(),
        metrics=Metrics(),
        output=output,
    )
    if start:
        await tracker.start()
    try:
        async with running(application, Limits()) as url, ClientSession() as http:
            yield TrackingShop(
                url,
                http,
                keys,
                database,
                redis.client,
                history,
                tracker,
                log,
                untracked,
                own,
                key,
            )
    finally:
        await asyncio.wait_for(tracker.close(), 20)
        await redis.close()
        await database.close()
