"""Merchants (tenants), their public keys and their secret tokens."""

from __future__ import annotations

import enum
from typing import NewType

import msgspec

MerchantId = NewType("MerchantId", str)


class Role(enum.StrEnum):
    """What a token may do. Storefront keys have no role: they read recommendations and track."""

    READER = "reader"  # reads everything of the merchant's
    INGEST = "ingest"  # writes catalogue and events
    MERCHANDISER = "merchandiser"  # reads all; changes pods, rules, experiments
    ADMINISTRATOR = "administrator"  # everything, keys and tokens included


class Credential(msgspec.Struct, frozen=True):
    """A token as the server knows it: never the secret, only its SHA-256."""

    id: str
    merchant: MerchantId
    role: Role
    digest: bytes  # 32 bytes
    expires_at: float | None = None  # Unix seconds


class StorefrontKey(msgspec.Struct, frozen=True):
    key: str
    merchant: MerchantId
    allowed_origins: tuple[str, ...] = ()  # empty: any


class TrackingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept apart when a merchant's events are learned from."""

    internal_ips: tuple[str, ...] = ()  # addresses or networks (CIDR) of the merchant's own staff
    internal_user_ids: tuple[str, ...] = ()
    robot_agents: tuple[str, ...] = ()  # further parts of User-Agent, beside the built-in list
    conversion_types: tuple[str, ...] = ("add_to_wishlist", "like", "message", "make_offer", "read")
    require_consent: bool = False  # then only events that say `consent=true` are tracked
    privacy_signals: bool = True
    """Whether the headers `Sec-GPC: 1` and `DNT: 1` count as a refusal of consent, unless the event
    itself says `consent=true`."""
    attribution_days: float = 7
    """How long after a click on a recommendation a purchase of the item is ascribed to it."""


class Merchant(msgspec.Struct, frozen=True, kw_only=True):
    id: MerchantId
    name: str
    configuration_version: int = 0  # grows with every published change of pods, rules, models, keys
    tracking: TrackingSettings = TrackingSettings()
