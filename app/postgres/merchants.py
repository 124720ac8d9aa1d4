"""Merchants, their storefront keys and their tokens. Every change steps the configuration version
and is noted in the audit log, in its own transaction; servers take it up by polling."""

from __future__ import annotations

import datetime
import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from app.domain.merchant import (
    IssuedToken,
    KeyRecord,
    Merchant,
    MerchantId,
    Role,
    TokenRecord,
    TrackingSettings,
    token_digest,
)
from app.postgres import audit
from app.postgres.configuration import editing
from app.postgres.database import Database
from app.postgres.tables import merchant as merchant_table
from app.postgres.tables import storefront_key, token

# It becomes part of Redis keys and of artefacts' paths.
_MERCHANT_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MAX_LABEL: Final = 200
_SECRET_BYTES: Final = 32


class Merchants:
    """The store of merchants. Each method's `actor` is the token's id, or "cli"."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        merchant: str,
        name: str,
        *,
        tracking: TrackingSettings | None = None,
        actor: str,
    ) -> Merchant:
        """
        Raises:
            InvalidInput: the id or the name is not of the allowed form.
            Conflict: there is a merchant of that id.
        """
        if not _MERCHANT_ID.fullmatch(merchant):
            raise InvalidInput.field(
                "id", "must be 1 to 63 of a-z, 0-9, - and _, and begin with a letter or digit"
            )
        if not 1 <= len(name.strip()) <= MAX_LABEL:
            raise InvalidInput.field("name", f"must have 1 to {MAX_LABEL} characters")
        made = Merchant(id=MerchantId(merchant), name=name, tracking=tracking or TrackingSettings())
        async with self._database.merchant(made.id) as connection:
            insert = (
                pg.insert(merchant_table)
                .values(id=made.id, name=name, settings=_settings(made.tracking))
                .on_conflict_do_nothing()
                .returning(merchant_table)
            )
            row = (await connection.execute(insert)).mappings().one_or_none()
            if row is None:
                raise Conflict(f"there is a merchant {merchant!r} already")
            await audit.record(connection, made.id, actor, "merchant.create", made.id, after=made)
            return _merchant(row)

    async def page(self, *, after: str | None = None, limit: int = 100) -> Sequence[Merchant]:
        """By id, those after `after`."""
        query = sa.select(merchant_table).order_by(merchant_table.c.id).limit(limit)
        if after is not None:
            query = query.where(merchant_table.c.id > after)
        async with self._database.system() as connection:
            return [_merchant(row) for row in (await connection.execute(query)).mappings()]

    async def get(self, merchant: MerchantId) -> Merchant:
        """
        Raises:
            NotFound: there is no such merchant.
        """
        async with self._database.merchant(merchant) as connection:
            row = (
                (
                    await connection.execute(
                        sa.select(merchant_table).where(merchant_table.c.id == merchant)
                    )
                )
                .mappings()
                .one_or_none()
            )
        if row is None:
            raise NotFound(f"there is no merchant {merchant!r}")
        return _merchant(row)

    async def tracking(self, merchant: MerchantId) -> TrackingSettings:
        """Which traffic is kept apart.

        Raises:
            NotFound: there is no such merchant.
        """
        return (await self.get(merchant)).tracking

    async def set_tracking(
        self,
        merchant: MerchantId,
        tracking: TrackingSettings,
        *,
        expected: frozenset[int] | None = None,
        actor: str,
    ) -> TrackingSettings:
        """Say which traffic is kept apart.

        Args:
            expected: versions of the settings that may be replaced; None: any.

        Raises:
            NotFound: there is no such merchant.
            PreconditionFailed: the settings have another version.
        """
        async with editing(self._database, merchant) as connection:
            mine = merchant_table.c.id == merchant
            found = await connection.execute(sa.select(merchant_table).where(mine))
            row = found.mappings().one()
            now = _merchant(row).tracking
            if expected is not None and now.version not in expected:
                raise PreconditionFailed(
                    "the tracking settings were changed since they were read: read them again"
                )
            settings = {**row["settings"], **_settings(tracking)}
            await connection.execute(
                sa.update(merchant_table).where(mine).values(settings=settings)
            )
            await audit.record(
                connection, merchant, actor, "merchant.settings", merchant,
                row["settings"], settings,
            )  # fmt: skip
            return tracking

    async def create_key(
        self,
        merchant: MerchantId,
        *,
        label: str = "",
        allowed_origins: Sequence[str] = (),
        actor: str,
    ) -> KeyRecord:
        """A new public key of the merchant's index.

        Args:
            allowed_origins: as browsers send them, "https://shop.example"; none: any.

        Raises:
            InvalidInput: a wrong label or origin.
            NotFound: there is no such merchant.
        """
        _check_label(label)
        for place, origin in enumerate(allowed_origins):
            if not re.fullmatch(r"https?://[^/\s?#]+", origin):
                raise InvalidInput.field(
                    f"/allowed_origins/{place}", "must be scheme and host, as https://shop.example"
                )
        insert = (
            sa.insert(storefront_key)
            .values(
                key=f"key_{secrets.token_urlsafe(15)}",
                merchant_id=merchant,
                label=label,
                allowed_origins=list(allowed_origins),
            )
            .returning(storefront_key)
        )
        async with editing(self._database, merchant) as connection:
            made = _key((await connection.execute(insert)).mappings().one())
            await audit.record(connection, merchant, actor, "key.create", made.key, after=made)
            return made

    async def keys(self, merchant: MerchantId) -> Sequence[KeyRecord]:
        """All, revoked ones included, oldest first."""
        query = (
            sa.select(storefront_key)
            .where(storefront_key.c.merchant_id == merchant)
            .order_by(storefront_key.c.created_at, storefront_key.c.key)
        )
        async with self._database.merchant(merchant) as connection:
            return [_key(row) for row in (await connection.execute(query)).mappings()]

    async def revoke_key(self, merchant: MerchantId, key: str, *, actor: str) -> KeyRecord:
        """From the next poll on, the key names nothing. Revoking it again changes nothing.

        Raises:
            NotFound: the merchant has no such key.
        """
        async with editing(self._database, merchant) as connection:
            row = await _revoke(connection, storefront_key, storefront_key.c.key, merchant, key)
            if row is None:
                raise NotFound(f"there is no key {key!r}")
            revoked = _key(row)
            await audit.record(connection, merchant, actor, "key.revoke", key, after=revoked)
            return revoked

    async def create_token(
        self,
        merchant: MerchantId,
        role: Role,
        *,
        label: str = "",
        expires_at: float | None = None,
        actor: str,
    ) -> IssuedToken:
        """
        Args:
            expires_at: Unix seconds; None: never.

        Raises:
            InvalidInput: a wrong label, or a time that is past.
            NotFound: there is no such merchant.
        """
        _check_label(label)
        async with editing(self._database, merchant) as connection:
            if expires_at is not None and expires_at <= await _now(connection):
                raise InvalidInput.field("expires_at", "must be in the future")
            issued = await _issue(connection, merchant, role, label, expires_at)
            await audit.record(
                connection, merchant, actor, "token.create", issued.token.id, after=issued.token
            )
            return issued

    async def tokens(self, merchant: MerchantId) -> Sequence[TokenRecord]:
        """All, expired and revoked ones included, oldest first; never their secrets."""
        query = (
            sa.select(token)
            .where(token.c.merchant_id == merchant)
            .order_by(token.c.created_at, token.c.id)
        )
        async with self._database.merchant(merchant) as connection:
            return [_token(row) for row in (await connection.execute(query)).mappings()]

    async def revoke_token(self, merchant: MerchantId, token_id: str, *, actor: str) -> TokenRecord:
        """From the next poll on, the token opens nothing. Revoking it again changes nothing.

        Raises:
            NotFound: the merchant has no such token.
        """
        async with editing(self._database, merchant) as connection:
            row = await _revoke(connection, token, token.c.id, merchant, token_id)
            if row is None:
                raise NotFound(f"there is no token {token_id!r}")
            revoked = _token(row)
            await audit.record(connection, merchant, actor, "token.revoke", token_id, after=revoked)
            return revoked

    async def rotate_token(
        self, merchant: MerchantId, token_id: str, *, overlap_seconds: float = 0, actor: str
    ) -> IssuedToken:
        """A new token in the place of one, of the same role, label and expiry.

        Args:
            overlap_seconds: how long the old one stays valid; 0: it is revoked at once.

        Raises:
            NotFound: the merchant has no such token.
            Conflict: the token is revoked or expired already.
        """
        if not 0 <= overlap_seconds <= 90 * 86400:
            raise InvalidInput.field("overlap_seconds", "must be from 0 to 7776000 (90 days)")
        mine = sa.and_(token.c.merchant_id == merchant, token.c.id == token_id)
        async with editing(self._database, merchant) as connection:
            row = (await connection.execute(sa.select(token).where(mine))).mappings().one_or_none()
            if row is None:
                raise NotFound(f"there is no token {token_id!r}")
            old = _token(row)
            now = await _now(connection)
            if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
                raise Conflict(f"the token {token_id!r} is no longer valid: create a new one")
            issued = await _issue(connection, merchant, old.role, old.label, old.expires_at)
            if overlap_seconds == 0:
                change: dict[str, Any] = {"revoked_at": sa.func.now()}
            else:
                until = now + overlap_seconds
                change = {"expires_at": _time(min(until, old.expires_at or until))}
            await connection.execute(sa.update(token).where(mine).values(change))
            await audit.record(
                connection, merchant, actor, "token.rotate", token_id, old, issued.token
            )
            return issued


async def _now(connection: AsyncConnection) -> float:
    """PostgreSQL's clock, which judges expiry everywhere."""
    now: datetime.datetime = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
    return now.timestamp()


async def _issue(
    connection: AsyncConnection,
    merchant: MerchantId,
    role: Role,
    label: str,
    expires_at: float | None,
) -> IssuedToken:
    secret = f"vitrine_{secrets.token_urlsafe(_SECRET_BYTES)}"
    insert = (
        sa.insert(token)
        .values(
            id=f"tok_{secrets.token_hex(8)}",
            merchant_id=merchant,
            digest=token_digest(secret),
            role=role.value,
            label=label,
            expires_at=_time(expires_at),
        )
        .returning(token)
    )
    row = (await connection.execute(insert)).mappings().one()
    return IssuedToken(token=_token(row), secret=secret)


async def _revoke(
    connection: AsyncConnection,
    table: sa.Table,
    column: sa.Column[str],
    merchant: MerchantId,
    value: str,
) -> sa.RowMapping | None:
    update = (
        sa.update(table)
        .where(table.c.merchant_id == merchant, column == value)
        .values(revoked_at=sa.func.coalesce(table.c.revoked_at, sa.func.now()))
        .returning(table)
    )
    found: sa.RowMapping | None = (await connection.execute(update)).mappings().one_or_none()
    return found


def _check_label(label: str) -> None:
    if len(label) > MAX_LABEL:
        raise InvalidInput.field("label", f"must have at most {MAX_LABEL} characters")


def _settings(tracking: TrackingSettings) -> dict[str, Any]:
    return {"tracking": msgspec.to_builtins(tracking)}


def _merchant(row: sa.RowMapping) -> Merchant:
    return Merchant(
        id=row["id"],
        name=row["name"],
        configuration_version=row["configuration_version"],
        tracking=msgspec.convert(row["settings"].get("tracking", {}), TrackingSettings),
    )


def _key(row: sa.RowMapping) -> KeyRecord:
    return KeyRecord(
        key=row["key"],
        merchant=row["merchant_id"],
        label=row["label"],
        allowed_origins=tuple(row["allowed_origins"]),
        created_at=row["created_at"].timestamp(),
        revoked_at=_seconds(row["revoked_at"]),
    )


def _token(row: sa.RowMapping) -> TokenRecord:
    return TokenRecord(
        id=row["id"],
        merchant=row["merchant_id"],
        role=Role(row["role"]),
        label=row["label"],
        created_at=row["created_at"].timestamp(),
        expires_at=_seconds(row["expires_at"]),
        revoked_at=_seconds(row["revoked_at"]),
    )


def _seconds(time: datetime.datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _time(seconds: float | None) -> datetime.datetime | None:
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC)
