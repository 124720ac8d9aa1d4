"""What is kept for a while only, and goes by the clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import structlog

from app.domain.merchant import MerchantId

log = structlog.get_logger()


class ExpiringRows(Protocol):
    async def delete(self, merchant: MerchantId, days: Mapping[str, int]) -> Mapping[str, int]:
        """Delete what is older than its days; how many rows went, by kind."""
        ...


class ModelClearing(Protocol):
    async def clear_away(self, merchant: MerchantId) -> int: ...


class MerchantSource(Protocol):
    async def versions(self) -> Mapping[MerchantId, int]: ...


class Retention:
    """
    Args:
        days: by kind, see `app.postgres.retention`: fingerprints of events, the sample of what
            was served, idempotency keys, tasks.
    """

    def __init__(
        self,
        rows: ExpiringRows,
        models: ModelClearing,
        merchants: MerchantSource,
        days: Mapping[str, int],
    ) -> None:
        self._rows = rows
        self._models = models
        self._merchants = merchants
        self._days = days

    async def run(self) -> None:
        """
        Raises:
            Unavailable: a store is away; the next turn does the rest.
        """
        for merchant in await self._merchants.versions():
            deleted = await self._rows.delete(merchant, self._days)
            artefacts = await self._models.clear_away(merchant)
            log.info("retention", merchant=merchant, artefacts=artefacts, **deleted)
