"""The whole service, as `vitrine serve` makes it, in this process and on real stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.http.server import Place, Server, listening_socket
from app.process import ServingProcess, build_service
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output


@asynccontextmanager
async def whole_service(
    database_url: str, redis_url: str, home: Path, **settings: Any
) -> AsyncIterator[tuple[str, ServingProcess]]:
    """Its URL, and itself."""
    chosen = Settings(database_url=database_url, redis_url=redis_url, home=home, **settings)
    with (home / "log").open("ab") as log:
        service = build_service(chosen, Place(Output(log.fileno()), Metrics()))
        service.readiness.warm = False
        server = Server(service.application, service.limits)
        await server.start()
        listening = listening_socket("127.0.0.1", 0)
        port = listening.getsockname()[1]
        try:
            await service.start()
            service.readiness.warm = True
            await server.listen(listening)
            yield f"http://127.0.0.1:{port}", service
        finally:
            await server.stop(0.1)
            await service.stop()
