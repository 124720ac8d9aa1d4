"""Webhooks: what a merchant's own systems are told of, signed."""

from __future__ import annotations

import enum
import hashlib
import hmac
from typing import Annotated, Any, Final, NamedTuple

import msgspec

MAX_WEBHOOKS: Final = 20
MAX_ATTEMPTS: Final = 8
"""The last one comes some hours after the first."""

FIRST_PAUSE: Final = 10.0
"""Seconds between the first attempt and the second; each further pause is three times as long."""

SIGNATURE: Final = "Vitrine-Signature"
ID: Final = "Vitrine-Delivery"


class WebhookEvent(enum.StrEnum):
    RULES_PUBLISHED = "rule_set.published"
    RULES_WITHDRAWN = "rule_set.withdrawn"
    MODEL_PUBLISHED = "model.published"
    TASK_DONE = "task.done"
    TASK_FAILED = "task.failed"


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    url: str
    events: tuple[WebhookEvent, ...] = ()  # empty: all
    enabled: bool = True
    version: int = 1
    created_at: float = 0.0  # Unix seconds


class WebhookChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A webhook as its owner writes it."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    events: Annotated[tuple[WebhookEvent, ...], msgspec.Meta(max_length=20)] = ()
    enabled: bool = True


class DeliveryState(enum.StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # given up


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one webhook."""

    id: int
    webhook_id: str
    event: str
    payload: dict[str, Any]
    state: DeliveryState
    attempts: int
    last_status: int | None  # what the webhook answered last
    last_error: str | None
    created_at: float  # Unix seconds
    due_at: float  # of the next attempt


class DueDelivery(NamedTuple):
    """A message to be sent now."""

    delivery: Delivery
    url: str
    secret: str
    traceparent: str | None  # of the request or job that it tells of (W3C)


def pause(attempts: int) -> float:
    """Seconds to wait after so many attempts."""
    return FIRST_PAUSE * float(3 ** (attempts - 1))


def sign(secret: str, body: bytes, now: int) -> str:
    """The signature header: `t=<now>,v1=<hex>`, the HMAC-SHA256 of `<now>.<body>`. The time lets
    the receiver refuse what was recorded and sent again."""
    message = f"{now}.".encode() + body
    return f"t={now},v1={hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()}"
