"""One trace from a request through its job and the webhook that tells of it: stores, strategies,
artefacts and the fit are spans of it, and the merchant's own server is handed the context."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.cli.wiring import wire
from app.domain.merchant import Role
from app.domain.task import TRAINING
from app.http.webhook_sender import HttpWebhookSender
from app.jobs.queue import JobQueue
from app.jobs.worker import Worker
from app.postgres.database import Database, raw
from app.postgres.webhooks import WebhookStore
from app.services.webhooks import WebhookDelivery
from app.settings import Settings
from app.telemetry.open_telemetry import OpenTelemetryTracer
from tests.small_shop import SmallShop
from tests.whole_service import whole_service

memory: Any = pytest.importorskip(
    "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="the extra `otel`"
)

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[str, list[str | None]]]:
    """A merchant's server: its address, and the contexts that it was handed."""
    handed: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        handed.append(request.headers.get("traceparent"))
        return web.Response()

    application = web.Application()
    application.router.add_post("/hook", handle)
    async with TestServer(application) as server:
        yield str(server.make_url("/hook")), handed


class Spans:
    def __init__(self, exporter: Any) -> None:
        self.all = exporter.get_finished_spans()

    def one(self, name: str) -> Any:
        (found,) = (span for span in self.all if span.name == name)
        return found

    def of(self, parent: Any) -> set[str]:
        """What it consists of."""
        own = parent.context.span_id
        return {span.name for span in self.all if span.parent and span.parent.span_id == own}


async def test_a_request_its_job_and_its_webhooks_are_one_trace(
    database: Database,
    database_url: str,
    redis_url: str,
    merchant: Any,
    tmp_path: Path,
    receiver: tuple[str, list[str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter = memory.InMemorySpanExporter()
    tracer = OpenTelemetryTracer(exporter, 0.0, at_once=True)  # what nobody asked for is not traced
    monkeypatch.setattr("app.process.tracer_from_environment", lambda: tracer)
    monkeypatch.setattr(tracer, "close", lambda: None)
    address, handed = receiver
    async with (
        whole_service(database_url, redis_url, tmp_path) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        shop = SmallShop(http, url, merchant.key, merchant.secrets[Role.ADMINISTRATOR])
        await shop.fill()
        await shop.send(
            "POST",
            "/admin/v1/strategy-configurations",
            {"id": "viewed", "strategy": "recently_viewed"},
        )
        pod = {"id": "home_viewed", "display_name": "Viewed", "chain": ["viewed"]}
        await shop.send("POST", "/admin/v1/pods", pod)
        async with database.merchant(merchant.id) as connection:
            await (await raw(connection)).execute(
                "INSERT INTO webhook (merchant_id, id, url, secret, events)"
                " VALUES ($1, 'w', $2, 's', '{task.done}')",
                merchant.id,
                address,
            )
        assert exporter.get_finished_spans() == ()
        async with http.post(
            f"{url}/admin/v1/trainings", json={}, headers={**shop.headers, **SAMPLED}
        ) as response:
            assert response.status == 202, await response.text()

        settings = Settings(database_url=database_url, redis_url=redis_url, home=tmp_path)
        container = wire(settings)
        queue = JobQueue(database_url, pool=5)
        await queue.open()
        worker = Worker(queue, {TRAINING: container.training_tasks().run}, tracer=tracer)
        await worker.run(until_idle=True)
        await queue.close()
        sender = HttpWebhookSender(allow_internal=True)
        delivery = WebhookDelivery(WebhookStore(database), sender, tracer=tracer)
        assert await delivery.run_once() == 1
        await sender.close()
        await container.database().close()

        while None in [
            one["model_number"]
            for one in (await shop.send("GET", "/admin/v1/running", None))["strategies"]
        ]:
            await asyncio.sleep(0.05)
        personal = {"key": merchant.key, "i": "c", "s": "1"}
        async with http.get(
            f"{url}/recommendations/v1/pods/home_viewed", params=personal, headers=SAMPLED
        ) as response:
            assert response.status == 200

    spans = Spans(exporter)
    assert {f"{span.context.trace_id:032x}" for span in spans.all} == {TRACE}
    request = spans.one("POST /admin/v1/trainings")
    assert f"{request.parent.span_id:016x}" == CALLER
    assert "PostgreSQL" in spans.of(request)

    job = spans.one("job training")
    assert job.parent.span_id == request.context.span_id
    assert job.kind.name == "CONSUMER"
    assert {"PostgreSQL", "train popular", "train similar", "artefacts put"} <= spans.of(job)

    told = spans.one("webhook task.done")
    assert told.parent.span_id == job.context.span_id
    assert "POST" in spans.of(told)
    assert handed == [f"00-{TRACE}-{told.context.span_id:016x}-01"]

    asked = spans.one("GET /recommendations/v1/pods/{pod_id}")
    assert {"strategy viewed", "Redis"} <= spans.of(asked)


async def test_a_worker_that_does_not_trace_hands_the_context_on_as_it_came(
    database: Database, merchant: Any, receiver: tuple[str, list[str | None]]
) -> None:
    address, handed = receiver
    async with database.merchant(merchant.id) as connection:
        driver = await raw(connection)
        await driver.execute(
            "INSERT INTO webhook (merchant_id, id, url, secret, events)"
            " VALUES ($1, 'w', $2, 's', '{}')",
            merchant.id,
            address,
        )
        for traceparent in (SAMPLED["traceparent"], None):
            await driver.execute(
                "INSERT INTO webhook_delivery (merchant_id, webhook_id, event, payload,"
                " traceparent) VALUES ($1, 'w', 'task.done', '{}', $2)",
                merchant.id,
                traceparent,
            )
    sender = HttpWebhookSender(allow_internal=True)
    assert await WebhookDelivery(WebhookStore(database), sender).run_once() == 2
    await sender.close()
    assert sorted(handed, key=str) == [SAMPLED["traceparent"], None]
