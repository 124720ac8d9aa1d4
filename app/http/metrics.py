"""`/metrics`, for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from app.http.operation import Operation, Security
from app.telemetry.metrics import Metrics
from app.telemetry.shared_metrics import CONTENT_TYPE, render


class MetricsHandler:
    """Answers for all workers that share `directory`; None: for this process alone."""

    def __init__(self, metrics: Metrics, directory: Path | None = None) -> None:
        self._metrics = metrics
        self._directory = directory

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                "/metrics",
                "getMetrics",
                "operations",
                "Metrics of all workers, in Prometheus' text format",
                self.metrics,
                security=Security.NONE,
                responses={200: str},
                response_media_type="text/plain",
            ),
        )

    async def metrics(self, _request: web.Request) -> web.Response:
        body = await asyncio.to_thread(render, self._metrics, self._directory)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
