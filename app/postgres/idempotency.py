"""Idempotency keys and the answers that were given under them, for a day."""

from __future__ import annotations

import datetime as dt
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.errors import Conflict
from app.domain.merchant import MerchantId
from app.postgres.database import Database
from app.postgres.tables import idempotency_key as table
from app.services.idempotency import RememberedAnswer

KEPT: Final = dt.timedelta(hours=24)
STUCK: Final = dt.timedelta(seconds=60)
"""After which a call that was never finished is taken for dead."""

UNDER_WAY: Final = 0  # status of a key whose call has not been answered


class IdempotencyKeyStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, merchant: MerchantId, key: str, digest: bytes) -> RememberedAnswer | None:
        """See `app.services.idempotency.IdempotencyKeys`."""
        now = sa.func.now()
        over = sa.or_(
            table.c.created_at < now - KEPT,
            sa.and_(table.c.status == UNDER_WAY, table.c.created_at < now - STUCK),
        )
        fresh = {
            "request_digest": digest,
            "status": UNDER_WAY,
            "body": b"",
            "headers": {},
            "created_at": now,
        }
        insert = (
            pg.insert(table)
            .values(merchant_id=merchant, key=key, **fresh)
            .on_conflict_do_update(
                index_elements=[table.c.merchant_id, table.c.key], set_=fresh, where=over
            )
            .returning(table.c.key)
        )
        async with self._database.merchant(merchant) as connection:
            await connection.execute(
                sa.delete(table).where(
                    table.c.merchant_id == merchant,
                    table.c.created_at < now - KEPT,
                    table.c.key != key,
                )
            )
            if await connection.scalar(insert) is not None:
                return None
            query = sa.select(table).where(table.c.merchant_id == merchant, table.c.key == key)
            row = (await connection.execute(query)).mappings().one()
        if row["request_digest"] != digest:
            raise Conflict(
                "Idempotency-Key: was used for another call already: take a new key for a new call"
            )
        if row["status"] == UNDER_WAY:
            raise Conflict("Idempotency-Key: a call with it is on its way: ask again in a moment")
        return RememberedAnswer(row["status"], row["body"], row["headers"])

    async def finish(self, merchant: MerchantId, key: str, answer: RememberedAnswer) -> None:
        update = (
            sa.update(table)
            .where(table.c.merchant_id == merchant, table.c.key == key)
            .values(status=answer.status, body=answer.body, headers=dict(answer.headers))
        )
        async with self._database.merchant(merchant) as connection:
            await connection.execute(update)

    async def release(self, merchant: MerchantId, key: str) -> None:
        delete = sa.delete(table).where(
            table.c.merchant_id == merchant, table.c.key == key, table.c.status == UNDER_WAY
        )
        async with self._database.merchant(merchant) as connection:
            await connection.execute(delete)
