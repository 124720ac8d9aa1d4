"""One server process: what it starts, what it keeps running, and the order in which it stops."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import structlog
from aiohttp import web
from dependency_injector import providers

from app.container import Container
from app.domain.errors import VitrineError
from app.http.admission import Admission
from app.http.application import build
from app.http.health import Check, HealthHandler, Readiness
from app.http.metrics import MetricsHandler
from app.http.operation import Operation
from app.http.server import Limits, Place
from app.services.stopping import stop
from app.settings import Settings
from app.telemetry.embedded_metrics import EmbeddedMetrics
from app.telemetry.open_telemetry import tracer_from_environment

log = structlog.get_logger(module=__name__)

LONGEST_PAUSE: Final = 2.0  # seconds between two tries while a store is away


class ServingProcess:
    """Implements `app.http.server.Service`."""

    def __init__(self, container: Container, place: Place, also: Sequence[Operation] = ()) -> None:
        self._container = container
        self._place = place
        self._waiting: dict[str, str] = {}  # for what the start waits, and why
        self._tasks: list[asyncio.Task[None]] = []
        self._started: list[Callable[[], Awaitable[object]]] = []  # how to close, in start's order
        settings: Settings = container.settings()
        serving = container.serving()
        follower = container.follower()
        admission = Admission(
            settings.queue_seconds,
            key_rate=settings.key_rate,
            clock=time.monotonic,
            spent=time.process_time,
            count=place.metrics.http_requests.labels("GET", "(overload)", "503").inc,
        )
        self.limits = Limits(
            body_bytes=settings.max_body_bytes,
            connections=settings.max_connections,
            admission=admission,
        )
        self.readiness = Readiness(
            (
                Check("stores", self._stores_missing),
                Check("configuration", serving.missing),
                Check("catalogue", lambda: ", ".join(follower.waits_for()) or None),
                Check("configuration updates", serving.stale, required=False),
                Check("models", self._models_missing, required=False),
                Check("strategies", self._strategies_broken, required=False),
                Check("capacity", admission.overloaded, required=False),
            )
        )
        operations = [
            *also,
            *HealthHandler(self.readiness).operations(),
            *MetricsHandler(place.metrics, place.metrics_directory).operations(),
        ]
        for handler in container.public_handlers():
            operations += handler.operations()
        for handler in container.admin_handlers():
            operations += container.rate_limit().limited(handler.operations())
        self._tracer = tracer_from_environment()
        self.application: web.Application = build(
            operations,
            authenticator=serving,
            origins=serving,
            readiness=self.readiness,
            metrics=place.metrics,
            output=place.output,
            limits=self.limits,
            tracer=self._tracer,
        )

    async def start(self) -> None:
        """Waits for the stores, loads everything, and goes on following it."""
        container = self._container
        spool = container.spool()
        if spool is not None:
            await asyncio.to_thread(spool.open)
            self._started.append(lambda: asyncio.to_thread(spool.close))
        self._started.append(self._close_stores)
        self._started.append(container.strategy_processes().close)
        await self._until_done("PostgreSQL: configuration", container.serving().refresh)
        await self._until_done("catalogue", self._load_catalogue)
        await self._until_done("PostgreSQL: job queue", container.job_queue().open)
        for part in (container.history_keeper(), container.tracker()):
            await part.start()
            self._started.append(part.close)
        cluster = container.settings().embedded_metrics
        if cluster:
            self._run("embedded metrics", self._embed(cluster))
        for name, run in (
            ("configuration", container.serving().run),
            ("catalogue", container.follower().run),
            ("projector", container.projector().run),
            ("verifier", container.verifier().run),
            ("served samples", container.served_samples().run),
            ("attribution", container.attribution().run),
            ("vitals", container.vitals().run),
            ("log levels", container.log_levels().run),
        ):
            self._run(name, run())

    async def stop(self) -> None:
        """Nothing that was acknowledged is lost; a part that fails to stop stops no other's."""
        await stop(*self._tasks)
        for close in reversed(self._started):
            try:
                await close()
            except Exception:
                log.exception("stop_failed")
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        self._started.clear()

    async def _embed(self, cluster: str) -> None:
        place = self._place
        while place.slot is None:  # noqa: ASYNC110  # a spare: until it takes a dead one's place
            await asyncio.sleep(1)
        if place.slot == 0:  # one of the workers writes for all
            await EmbeddedMetrics(
                place.metrics, place.output, cluster, "vitrine", place.metrics_directory
            ).run()

    async def _load_catalogue(self) -> None:
        # The configuration is known, so all merchants' sections are.
        follower = self._container.follower()
        await follower.poll()
        while not follower.ready:
            await asyncio.sleep(0.05)
            await follower.poll()
        await self._container.serving().catch_up()

    async def _until_done(self, name: str, attempt: Callable[[], Awaitable[object]]) -> None:
        pause = 0.1
        while True:
            try:
                await attempt()
            except VitrineError as error:
                if self._waiting.get(name) != error.message:
                    log.warning("start_waits", part=name, reason=error.message)
                self._waiting[name] = error.message
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._waiting.pop(name, None)
                return

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        async def supervised() -> None:
            # The loops catch what they expect; what they do not must not go unseen.
            with contextlib.suppress(asyncio.CancelledError):
                try:
                    await work
                except Exception:
                    log.exception("background_work_ended", part=name)
                    raise

        self._tasks.append(asyncio.create_task(supervised(), name=name))

    async def _close_stores(self) -> None:
        container = self._container
        for close in (
            container.job_queue().close,
            container.request_redis().close,
            container.coalescing_redis().close,
            container.background_redis().close,
            container.event_database().close,
            container.database().close,
        ):
            try:
                await close()
            except Exception:
                log.exception("stop_failed")

    def _stores_missing(self) -> str | None:
        return "; ".join(f"{name}: {reason}" for name, reason in self._waiting.items()) or None

    def _models_missing(self) -> str | None:
        problems = self._container.serving().problems()
        return "; ".join(f"{p.merchant}/{p.subject}: {p.reason}" for p in problems) or None

    def _strategies_broken(self) -> str | None:
        said = [f"{one.name}: {one.reason}" for one in self._container.strategies().broken]
        for (merchant, name), state in self._container.runner().breakers().items():
            said.append(f"{merchant}/{name}: its breaker is {state}")
        return "; ".join(said) or None


def build_service(
    settings: Settings, place: Place, also: Sequence[Operation] = ()
) -> ServingProcess:
    """What `vitrine serve` runs in each process. Within its event loop, after the fork.

    Args:
        settings: with the stores' URLs filled in.
        also: further operations to serve: the demo's shop page.
    """
    container = Container(
        settings=providers.Object(settings), metrics=providers.Object(place.metrics)
    )
    return ServingProcess(container, place, also)
