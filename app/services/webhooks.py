"""Webhooks: kept by the admin API, sent by the worker.

Messages are written to an outbox in the transaction of what they tell; here they are sent, at least
once each, with pauses that grow.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec
import structlog

from app.domain.errors import InvalidInput
from app.domain.merchant import MerchantId
from app.domain.webhook import (
    ID,
    MAX_ATTEMPTS,
    SIGNATURE,
    Delivery,
    DeliveryState,
    DueDelivery,
    Webhook,
    WebhookChange,
    pause,
    sign,
)
from app.telemetry.traces import TRACEPARENT, Tracer, carried, spanned

log = structlog.get_logger(module=__name__)

BATCH: Final = 50
_encode = msgspec.json.Encoder().encode


class WebhookStore(Protocol):
    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[Webhook]: ...

    async def get(self, merchant: MerchantId, webhook_id: str) -> Webhook: ...

    async def create(
        self, merchant: MerchantId, webhook_id: str, change: WebhookChange, secret: str, actor: str
    ) -> Webhook: ...

    async def replace(
        self,
        merchant: MerchantId,
        webhook_id: str,
        change: WebhookChange,
        expected: frozenset[int] | None,
        actor: str,
    ) -> Webhook: ...

    async def delete(
        self, merchant: MerchantId, webhook_id: str, expected: frozenset[int] | None, actor: str
    ) -> None: ...

    async def deliveries(
        self, merchant: MerchantId, webhook_id: str, *, before: int | None, limit: int
    ) -> Sequence[Delivery]: ...

    async def merchants(self) -> Sequence[MerchantId]: ...

    async def due(self, merchant: MerchantId, limit: int, lease: float) -> Sequence[DueDelivery]:
        """Messages whose time has come; nobody else gets them within the next `lease` seconds."""
        ...

    async def settle(
        self,
        merchant: MerchantId,
        delivery: int,
        state: DeliveryState,
        *,
        status: int | None,
        error: str | None,
        again_in: float,
    ) -> None: ...


class WebhookSender(Protocol):
    async def send(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """The status that was answered.

        Raises:
            OSError: no answer, or an address that is not on the public internet.
        """
        ...


class Webhooks:
    """
    Args:
        allow_http: also http:// URLs; for tests and private networks.
    """

    def __init__(self, store: WebhookStore, *, allow_http: bool = False) -> None:
        self._store = store
        self._schemes = ("https", "http") if allow_http else ("https",)

    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[Webhook]:
        return await self._store.page(merchant, after=after, limit=limit)

    async def get(self, merchant: MerchantId, webhook_id: str) -> Webhook:
        """
        Raises:
            NotFound: there is no such webhook.
        """
        return await self._store.get(merchant, webhook_id)

    async def create(
        self, merchant: MerchantId, change: WebhookChange, actor: str
    ) -> tuple[Webhook, str]:
        """The webhook and its secret, which is never told again.

        Raises:
            InvalidInput: the URL cannot be called.
            Conflict: the merchant has as many as it may.
        """
        self._check(change)
        secret = f"whsec_{secrets.token_urlsafe(32)}"
        webhook_id = f"wh_{secrets.token_hex(8)}"
        return await self._store.create(merchant, webhook_id, change, secret, actor), secret

    async def replace(
        self,
        merchant: MerchantId,
        webhook_id: str,
        change: WebhookChange,
        expected: frozenset[int] | None,
        actor: str,
    ) -> Webhook:
        """
        Raises:
            InvalidInput: the URL cannot be called.
            NotFound: there is no such webhook.
            PreconditionFailed: it has another version than those expected.
        """
        self._check(change)
        return await self._store.replace(merchant, webhook_id, change, expected, actor)

    async def delete(
        self, merchant: MerchantId, webhook_id: str, expected: frozenset[int] | None, actor: str
    ) -> None:
        """Raises as `replace` does."""
        await self._store.delete(merchant, webhook_id, expected, actor)

    async def deliveries(
        self, merchant: MerchantId, webhook_id: str, *, before: int | None, limit: int
    ) -> Sequence[Delivery]:
        """Newest first.

        Raises:
            NotFound: there is no such webhook.
        """
        return await self._store.deliveries(merchant, webhook_id, before=before, limit=limit)

    def _check(self, change: WebhookChange) -> None:
        schemes = " or ".join(f"{scheme}://" for scheme in self._schemes)
        try:
            parts = urlsplit(change.url)
            valid = parts.scheme in self._schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid or not change.url.isascii() or any(c <= " " for c in change.url):
            raise InvalidInput.field("/url", f"must be a URL that begins with {schemes}")
        if parts.username is not None or parts.password is not None:
            raise InvalidInput.field("/url", "must hold no user name or password")


class WebhookDelivery:
    """Sends what is due. Runs in the worker.

    Args:
        clock: Unix seconds.
        lease: seconds that one message may take; then another worker tries.
        tracer: of the messages; each continues the trace of what it tells of, and hands it on.
    """

    def __init__(
        self,
        store: WebhookStore,
        sender: WebhookSender,
        *,
        clock: Callable[[], float] = time.time,
        lease: float = 60.0,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._store = store
        self._sender = sender
        self._clock = clock
        self._lease = lease

    async def run_once(self) -> int:
        """Try every message that is due, once; how many that were.

        Raises:
            Unavailable: the store is away.
        """
        tried = 0
        for merchant in await self._store.merchants():
            for due in await self._store.due(merchant, BATCH, self._lease):
                await self._traced(merchant, due)
                tried += 1
        return tried

    async def _traced(self, merchant: MerchantId, due: DueDelivery) -> None:
        brought = {} if due.traceparent is None else {TRACEPARENT: due.traceparent}
        span = None
        if self._tracer is not None:
            span = self._tracer.begin(f"webhook {due.delivery.event}", brought, consumer=True)
        if span is None:
            await self._try(merchant, due, brought)
            return
        try:
            await self._try(merchant, due, carried())
        except BaseException as error:
            span.end(error)
            raise
        span.end()

    async def _try(self, merchant: MerchantId, due: DueDelivery, trace: dict[str, str]) -> None:
        delivery, url, secret, _ = due
        body = _encode(
            {
                "id": delivery.id,
                "event": delivery.event,
                "created_at": delivery.created_at,
                "data": delivery.payload,
            }
        )
        headers = {
            "Content-Type": "application/json",
            ID: str(delivery.id),
            SIGNATURE: sign(secret, body, int(self._clock())),
            **trace,
        }
        status: int | None = None
        error: str | None = None
        try:
            with spanned("POST"):
                status = await self._sender.send(url, body, headers)
            if not 200 <= status < 300:
                error = f"answered {status}"
        except OSError as failure:
            error = str(failure) or type(failure).__name__
        attempts = delivery.attempts + 1
        if error is None:
            state = DeliveryState.DELIVERED
        elif attempts >= MAX_ATTEMPTS:
            state = DeliveryState.FAILED
            log.warning(
                "webhook_given_up", merchant=merchant, webhook=delivery.webhook_id, reason=error
            )
        else:
            state = DeliveryState.PENDING
        await self._store.settle(
            merchant,
            delivery.id,
            state,
            status=status,
            error=error,
            again_in=pause(attempts) if state is DeliveryState.PENDING else 0.0,
        )
