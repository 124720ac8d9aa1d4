"""What a server process holds and how far it has followed, measured now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final, Protocol

import psutil

from app.domain.catalogue import Section
from app.domain.item_index import ItemIndexes
from app.domain.merchant import MerchantId
from app.services.snapshot import ServingSnapshot
from app.telemetry.metrics import Metrics

SECONDS: Final = 5.0


class Snapshots(Protocol):
    def merchants(self) -> Mapping[MerchantId, ServingSnapshot]: ...

    def stale(self) -> str | None: ...


class Lags(Protocol):
    def lags(self) -> Mapping[tuple[MerchantId, Section], float]: ...


class Pool(Protocol):
    def connections(self) -> tuple[int, int, int]: ...


class Spool(Protocol):
    @property
    def bytes(self) -> int: ...

    @property
    def max_bytes(self) -> int: ...


class Vitals:
    def __init__(
        self,
        serving: Snapshots,
        indexes: ItemIndexes,
        metrics: Metrics,
        version: str,
        *,
        follower: Lags,
        pool: Pool,
        spool: Spool | None = None,
    ) -> None:
        self._follower = follower
        self._pool = pool
        self._spool = spool
        self._cpu = 0.0
        self._serving = serving
        self._indexes = indexes
        self._metrics = metrics
        metrics.build.labels(version).set(1)

    async def run(self) -> None:
        """Measures until it is cancelled."""
        while True:
            self.measure()
            until = time.monotonic() + SECONDS
            await asyncio.sleep(SECONDS)
            self._metrics.loop_lag.set(max(0.0, time.monotonic() - until))

    def measure(self) -> None:
        metrics = self._metrics
        self._measure_process(metrics)
        for (merchant, section), seconds in self._follower.lags().items():
            metrics.catalogue_lag.labels(merchant, section).set(seconds)
        metrics.configuration_stale.set(self._serving.stale() is not None)
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
                metrics.model_watermark.labels(merchant, name).set(model.watermark)

    def _measure_process(self, metrics: Metrics) -> None:
        in_use, idle, limit = self._pool.connections()
        metrics.postgres_connections.labels("in_use").set(in_use)
        metrics.postgres_connections.labels("idle").set(idle)
        metrics.postgres_limit.set(limit)
        if self._spool is not None:
            metrics.event_spool_bytes.set(self._spool.bytes)
            metrics.event_spool_limit.set(self._spool.max_bytes)
        cpu = time.process_time()
        metrics.cpu_seconds.inc(max(0.0, cpu - self._cpu))
        self._cpu = cpu
        metrics.resident.set(psutil.Process().memory_info().rss)
