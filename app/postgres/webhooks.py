"""Webhooks and the outbox of what they are to be told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import Conflict, NotFound, PreconditionFailed
from app.domain.merchant import MerchantId
from app.domain.webhook import (
    MAX_WEBHOOKS,
    Delivery,
    DeliveryState,
    DueDelivery,
    Webhook,
    WebhookChange,
    WebhookEvent,
)
from app.postgres import audit
from app.postgres.database import Database
from app.postgres.tables import merchant as merchant_table
from app.postgres.tables import webhook as table
from app.postgres.tables import webhook_delivery as outbox
from app.telemetry.traces import TRACEPARENT, carried


async def announce(
    connection: AsyncConnection, merchant: MerchantId, event: str, payload: Mapping[str, Any]
) -> None:
    """Put a message for every webhook that wants the event into the outbox, within the transaction
    of what it tells.

    Args:
        event: an `app.domain.webhook.WebhookEvent`.
    """
    wanted = sa.select(
        table.c.merchant_id,
        table.c.id,
        sa.literal(event, sa.Text),
        sa.literal(dict(payload), outbox.c.payload.type),
        sa.literal(carried().get(TRACEPARENT), sa.Text),
    ).where(
        table.c.merchant_id == merchant,
        table.c.enabled,
        sa.or_(
            sa.func.cardinality(table.c.events) == 0,
            sa.literal(event, sa.Text) == sa.any_(table.c.events),
        ),
    )
    await connection.execute(
        outbox.insert().from_select(
            ["merchant_id", "webhook_id", "event", "payload", "traceparent"], wanted
        )
    )


class WebhookStore:
    """See `app.services.webhooks.WebhookStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[Webhook]:
        query = (
            sa.select(table)
            .where(table.c.merchant_id == merchant)
            .order_by(table.c.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(table.c.id > after)
        async with self._database.merchant(merchant) as connection:
            return [_webhook(row) for row in (await connection.execute(query)).mappings()]

    async def get(self, merchant: MerchantId, webhook_id: str) -> Webhook:
        """
        Raises:
            NotFound: there is no such webhook.
        """
        async with self._database.merchant(merchant) as connection:
            return await _get(connection, merchant, webhook_id)

    async def create(
        self, merchant: MerchantId, webhook_id: str, change: WebhookChange, secret: str, actor: str
    ) -> Webhook:
        """
        Raises:
            Conflict: the merchant has as many as it may.
        """
        async with self._database.merchant(merchant) as connection:
            count = await connection.scalar(
                sa.select(sa.func.count()).where(table.c.merchant_id == merchant)
            )
            if (count or 0) >= MAX_WEBHOOKS:
                raise Conflict(f"there are {MAX_WEBHOOKS} webhooks already: delete one first")
            insert = (
                sa.insert(table)
                .values(
                    merchant_id=merchant,
                    id=webhook_id,
                    url=change.url,
                    events=list(change.events),
                    enabled=change.enabled,
                    secret=secret,
                )
                .returning(table)
            )
            row = (await connection.execute(insert)).mappings().one()
            await audit.record(
                connection, merchant, actor, "webhook.create", webhook_id, after=change
            )
            return _webhook(row)

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
            NotFound: there is no such webhook.
            PreconditionFailed: it has another version.
        """
        async with self._database.merchant(merchant) as connection:
            before = await _expect(connection, merchant, webhook_id, expected)
            update = (
                sa.update(table)
                .where(table.c.merchant_id == merchant, table.c.id == webhook_id)
                .values(
                    url=change.url,
                    events=list(change.events),
                    enabled=change.enabled,
                    version=table.c.version + 1,
                )
                .returning(table)
            )
            row = (await connection.execute(update)).mappings().one()
            await audit.record(
                connection, merchant, actor, "webhook.change", webhook_id, before, change
            )
            return _webhook(row)

    async def delete(
        self, merchant: MerchantId, webhook_id: str, expected: frozenset[int] | None, actor: str
    ) -> None:
        """Raises as `replace` does. What it was still to be told is dropped."""
        async with self._database.merchant(merchant) as connection:
            before = await _expect(connection, merchant, webhook_id, expected)
            await connection.execute(
                sa.delete(table).where(table.c.merchant_id == merchant, table.c.id == webhook_id)
            )
            await audit.record(
                connection, merchant, actor, "webhook.delete", webhook_id, before=before
            )

    async def deliveries(
        self, merchant: MerchantId, webhook_id: str, *, before: int | None, limit: int
    ) -> Sequence[Delivery]:
        """
        Raises:
            NotFound: there is no such webhook.
        """
        query = (
            sa.select(outbox)
            .where(outbox.c.merchant_id == merchant, outbox.c.webhook_id == webhook_id)
            .order_by(outbox.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(outbox.c.id < before)
        async with self._database.merchant(merchant) as connection:
            await _get(connection, merchant, webhook_id)
            return [_delivery(row) for row in (await connection.execute(query)).mappings()]

    async def merchants(self) -> Sequence[MerchantId]:
        async with self._database.system() as connection:
            return [
                MerchantId(id_) for id_ in await connection.scalars(sa.select(merchant_table.c.id))
            ]

    async def due(self, merchant: MerchantId, limit: int, lease: float) -> Sequence[DueDelivery]:
        """Messages whose time has come; nobody else gets them within the next `lease` seconds."""
        chosen = (
            sa.select(outbox.c.id)
            .where(
                outbox.c.merchant_id == merchant,
                outbox.c.state == DeliveryState.PENDING,
                outbox.c.due_at <= sa.func.now(),
            )
            .order_by(outbox.c.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        taken = (
            sa.update(outbox)
            .where(
                outbox.c.id.in_(chosen),
                table.c.merchant_id == outbox.c.merchant_id,
                table.c.id == outbox.c.webhook_id,
            )
            .values(due_at=sa.func.now() + dt.timedelta(seconds=lease))
            .returning(outbox, table.c.url, table.c.secret)
        )
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(taken)).mappings().all()
        return [
            DueDelivery(_delivery(row), row["url"], row["secret"], row["traceparent"])
            for row in rows
        ]

    async def settle(
        self,
        merchant: MerchantId,
        delivery: int,
        state: DeliveryState,
        *,
        status: int | None,
        error: str | None,
        again_in: float,
    ) -> None:
        update = (
            sa.update(outbox)
            .where(outbox.c.merchant_id == merchant, outbox.c.id == delivery)
            .values(
                state=state.value,
                attempts=outbox.c.attempts + 1,
                last_status=status,
                last_error=error,
                due_at=sa.func.now() + dt.timedelta(seconds=again_in),
            )
        )
        async with self._database.merchant(merchant) as connection:
            await connection.execute(update)


async def _get(connection: AsyncConnection, merchant: MerchantId, webhook_id: str) -> Webhook:
    query = sa.select(table).where(table.c.merchant_id == merchant, table.c.id == webhook_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id!r}")
    return _webhook(row)


async def _expect(
    connection: AsyncConnection,
    merchant: MerchantId,
    webhook_id: str,
    expected: frozenset[int] | None,
) -> Webhook:
    found = await _get(connection, merchant, webhook_id)
    if expected is not None and found.version not in expected:
        raise PreconditionFailed(
            f"webhook {webhook_id!r} was changed meanwhile: read it again and repeat the change"
        )
    return found


def _webhook(row: Any) -> Webhook:
    return Webhook(
        id=row["id"],
        url=row["url"],
        events=tuple(WebhookEvent(event) for event in row["events"]),
        enabled=row["enabled"],
        version=row["version"],
        created_at=row["created_at"].timestamp(),
    )


def _delivery(row: Any) -> Delivery:
    return Delivery(
        id=row["id"],
        webhook_id=row["webhook_id"],
        event=row["event"],
        payload=row["payload"],
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        last_status=row["last_status"],
        last_error=row["last_error"],
        created_at=row["created_at"].timestamp(),
        due_at=row["due_at"].timestamp(),
    )
