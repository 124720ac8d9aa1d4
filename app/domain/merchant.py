"""Merchants (tenants), their public keys and their secret tokens."""

from __future__ import annotations

import enum
import hashlib
import zlib
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

    @property
    def version(self) -> int:
        """Settings are few and have no history: what they say is their version."""
        return zlib.crc32(msgspec.json.encode(msgspec.to_builtins(self)))


class Merchant(msgspec.Struct, frozen=True, kw_only=True):
    id: MerchantId
    name: str
    configuration_version: int = 0  # grows with every published change of pods, rules, models, keys
    tracking: TrackingSettings = TrackingSettings()


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A storefront key as administrators see it. It is public: it names an index, it opens
    nothing that a shop's page does not show."""

    key: str
    merchant: MerchantId
    label: str = ""
    allowed_origins: tuple[str, ...] = ()
    created_at: float  # Unix seconds, as the ones below
    revoked_at: float | None = None


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A token as administrators see it, without its secret."""

    id: str
    merchant: MerchantId
    role: Role
    label: str = ""
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None


class IssuedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new token with its secret, which is shown this once and kept nowhere."""

    token: TokenRecord
    secret: str

    def __repr__(self) -> str:
        return f"IssuedToken(token={self.token!r}, secret='…')"


def token_digest(secret: str) -> bytes:
    """What is kept of a token: SHA-256. The secret is 256 random bits, so that a slow hash would
    protect nothing and cost every request."""
    return hashlib.sha256(secret.encode()).digest()
