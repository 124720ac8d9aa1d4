"""Samples of the answers that were given, stored off the requests' path."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections import deque
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql as pg

from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId
from app.postgres.database import Database
from app.postgres.tables import served_sample
from app.services.recommend import ServedSample

log = structlog.get_logger(module=__name__)

_BATCH: Final = 100  # their JSON is encoded at once: 1 to 2 ms


class PostgresServedSamples:
    """Implements `app.services.recommend.ServedSampleLog`: a bounded queue, and `run`, which
    empties it. A sample may be lost, and is counted then.

    Args:
        limit: samples that wait at most.
        interval: seconds between two writes.
    """

    def __init__(self, database: Database, *, limit: int = 10_000, interval: float = 1.0) -> None:
        self._database = database
        self._limit = limit
        self._interval = interval
        self._waiting: deque[ServedSample] = deque()
        self.lost = 0
        self.stored = 0

    def record(self, sample: ServedSample) -> None:
        if len(self._waiting) >= self._limit:
            self.lost += 1
            return
        self._waiting.append(sample)

    async def run(self) -> None:
        """Store what is recorded until cancelled; then store what is left, if that is quick."""
        try:
            while True:
                await asyncio.sleep(self._interval)
                await self._store_or_wait()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._store_or_wait()

    async def flush(self) -> None:
        """Store all that waits.

        Raises:
            Unavailable: what was not stored waits on.
        """
        while self._waiting:
            batch = [self._waiting[i] for i in range(min(_BATCH, len(self._waiting)))]
            by_merchant: dict[MerchantId, list[ServedSample]] = {}
            for sample in batch:
                by_merchant.setdefault(sample.merchant, []).append(sample)
            for merchant, samples in by_merchant.items():
                await self._store(merchant, samples)
            for _ in batch:
                self._waiting.popleft()

    async def _store_or_wait(self) -> None:
        lost = self.lost
        with contextlib.suppress(Unavailable):
            await self.flush()  # else they wait on; what finds no place any more is counted
        if self.lost > lost:
            log.warning("served_samples_lost", samples=self.lost)

    async def _store(self, merchant: MerchantId, samples: list[ServedSample]) -> None:
        try:
            await self._insert(merchant, samples)
            self.stored += len(samples)
        except sa.exc.SQLAlchemyError as error:
            if len(samples) == 1:
                self.lost += 1
                log.warning("served_sample_refused", pod=samples[0].pod_id, exc_info=error)
                return
            # One of them cannot be stored, such as a term with a zero byte: find out which.
            for sample in samples:
                await self._store(merchant, [sample])

    async def _insert(self, merchant: MerchantId, samples: list[ServedSample]) -> None:
        rows = [
            {
                "merchant_id": merchant,
                "result_id": sample.result_id,
                "served_at": dt.datetime.fromtimestamp(sample.served_at, dt.UTC),
                "pod_id": sample.pod_id,
                "request": sample.request,
                "items": list(sample.items),
                "strategies": list(sample.strategies),
            }
            for sample in samples
        ]
        # A batch that was stored, and of which that is not known, comes again.
        insert = pg.insert(served_sample).on_conflict_do_nothing()
        async with self._database.merchant(merchant) as connection:
            await connection.execute(insert, rows)
