"""What previews look back at: requests that were served lately, and what items brought in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.domain.merchant import MerchantId
from app.postgres.database import Database
from app.postgres.tables import event, served_sample
from vitrine_sdk import EventType


class RuleSamples:
    """See `app.services.preview.SampleReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def recent(
        self, merchant: MerchantId, pod_ids: Sequence[str], limit: int
    ) -> Sequence[Mapping[str, Any]]:
        query = (
            sa.select(served_sample.c.request)
            .where(served_sample.c.merchant_id == merchant)
            .order_by(served_sample.c.served_at.desc())
            .limit(limit)
        )
        if pod_ids:
            query = query.where(served_sample.c.pod_id.in_(pod_ids))
        async with self._database.merchant(merchant) as connection:
            return list(await connection.scalars(query))

    async def revenue(
        self, merchant: MerchantId, days: int, items: Collection[str] | None = None
    ) -> Mapping[str, float]:
        query = (
            sa.select(event.c.item_id, sa.func.sum(event.c.revenue))
            .where(
                event.c.merchant_id == merchant,
                event.c.occurred_at >= sa.func.now() - dt.timedelta(days=days),
                event.c.type == int(EventType.PURCHASE),
                event.c.item_id.is_not(None),
                event.c.learn,
            )
            .group_by(event.c.item_id)
        )
        if items is not None:
            wanted = sa.literal(list(items), sa.ARRAY(sa.Text))
            query = query.where(event.c.item_id == sa.any_(wanted))
        async with self._database.merchant(merchant) as connection:
            rows = await connection.execute(query)
            return {item_id: float(revenue) for item_id, revenue in rows}
