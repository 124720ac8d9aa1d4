"""What a server process holds and how far it has followed, measured now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from app.domain.item_index import ItemIndexes
from app.domain.merchant import MerchantId
from app.services.snapshot import ServingSnapshot
from app.telemetry.metrics import Metrics

SECONDS: Final = 5.0


class Snapshots(Protocol):
    def merchants(self) -> Mapping[MerchantId, ServingSnapshot]: ...


class Vitals:
    def __init__(
        self, serving: Snapshots, indexes: ItemIndexes, metrics: Metrics, version: str
    ) -> None:
        self._serving = serving
        self._indexes = indexes
        self._metrics = metrics
        metrics.build.labels(version).set(1)

    async def run(self) -> None:
        """Measures until it is cancelled."""
        while True:
            self.measure()
            await asyncio.sleep(SECONDS)

    def measure(self) -> None:
        metrics = self._metrics
        metrics.near_cache_bytes.set(self._indexes.rendered.held_bytes)
        for merchant, section in self._indexes:
            index = self._indexes.get(merchant, section)
            metrics.index_items.labels(merchant, section).set(index.item_count)
            metrics.catalogue_version.labels(merchant, section).set(index.version)
        for merchant, snapshot in self._serving.merchants().items():
            version = snapshot.configuration.merchant.configuration_version
            metrics.configuration_version.labels(merchant).set(version)
            for name, model in snapshot.models.items():
                metrics.model_number.labels(merchant, name).set(model.published.number)
