"""Traces: sampled before anything is made, continued from and to others, in log lines."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.telemetry import logs
from app.telemetry.metrics import Metrics
from app.telemetry.observers import redis_observer
from app.telemetry.open_telemetry import OpenTelemetryTracer, tracer_from_environment
from app.telemetry.output import Output
from app.telemetry.traces import CURRENT
from tests.whole_service import whole_service

export: Any = pytest.importorskip("opentelemetry.sdk.trace.export", reason="the extra `otel`")
memory: Any = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
encoder: Any = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter() -> Any:
    return memory.InMemorySpanExporter()


def tracer(exporter: Any, share: float, chance: float = 0.5) -> OpenTelemetryTracer:
    return OpenTelemetryTracer(exporter, share, at_once=True, chance=lambda: chance)


def test_a_trace_is_continued_as_its_caller_decided(exporter: Any) -> None:
    never = tracer(exporter, 0.0)
    span = never.begin("GET /x", {"traceparent": SAMPLED})
    assert span is not None
    assert span.trace_id == SAMPLED[3:35]
    assert span.traceparent()[:36] == SAMPLED[:36]
    span.end()
    always = tracer(exporter, 1.0)
    assert always.begin("GET /x", {"traceparent": SAMPLED[:-1] + "0"}) is None
    (finished,) = exporter.get_finished_spans()
    assert f"{finished.parent.span_id:016x}" == SAMPLED[36:52]


@pytest.mark.parametrize("brought", ["", "nonsense", SAMPLED + "0", "01" + SAMPLED[2:]])
def test_what_is_no_traceparent_is_as_none(exporter: Any, brought: str) -> None:
    assert tracer(exporter, 0.4).begin("x", {"traceparent": brought}) is None
    span = tracer(exporter, 0.6).begin("x", {"traceparent": brought})
    assert span is not None
    assert span.trace_id != SAMPLED[3:35]
    span.end()


def test_stores_are_its_children_and_log_lines_carry_it(exporter: Any, tmp_path: Path) -> None:
    told = redis_observer(Metrics(), "request")
    told(0.002, True)  # of a request that is not sampled
    descriptor = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    logs.configure("info", Output(descriptor))
    span = tracer(exporter, 1.0).begin("GET /x", {})
    assert span is not None
    assert CURRENT.get() is span
    told(0.25, False)
    span.attribute("items", 3)
    logs.get("test").info("within")
    span.end(RuntimeError("postgresql://app:secret@db"))
    assert CURRENT.get() is None
    logs.get("test").info("outside")
    logs.configure("info")
    os.close(descriptor)
    child, parent = exporter.get_finished_spans()
    assert child.name == "Redis"
    assert child.parent.span_id == parent.context.span_id
    assert child.end_time - child.start_time == 250_000_000
    assert not child.status.is_ok
    assert "secret" not in parent.to_json()
    (resource,) = encoder.encode_spans(exporter.get_finished_spans()).resource_spans
    sent, last = resource.scope_spans[0].spans  # as a collector gets them
    assert (sent.parent_span_id, sent.trace_id) == (last.span_id, last.trace_id)
    assert [one.key for one in last.attributes] == ["items"]
    assert sent.status.message == "not answered"
    within, outside = (tmp_path / "log").read_text().splitlines()
    assert span.trace_id in within
    assert "trace_id" not in outside


def test_the_environment_is_obeyed_and_errors_name_the_variable() -> None:
    assert tracer_from_environment({}) is None
    console = {"OTEL_TRACES_EXPORTER": "console"}
    assert tracer_from_environment({**console, "OTEL_SDK_DISABLED": "true"}) is None
    assert tracer_from_environment(console) is not None
    with pytest.raises(ValueError, match="OTEL_TRACES_EXPORTER"):
        tracer_from_environment({"OTEL_TRACES_EXPORTER": "zipkin"})
    with pytest.raises(ValueError, match="OTEL_TRACES_SAMPLER_ARG"):
        tracer_from_environment({**console, "OTEL_TRACES_SAMPLER_ARG": "1.5"})


async def test_a_running_server_traces_its_requests(
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    exporter: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = tracer(exporter, 0.0)
    monkeypatch.setattr("app.process.tracer_from_environment", lambda: made)
    async with (
        whole_service(database_url, redis_url, tmp_path) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        for headers in ({}, {"traceparent": SAMPLED}):
            async with http.get(f"{url}/health/live", headers=headers) as response:
                assert response.status == 200
    (span,) = exporter.get_finished_spans()
    assert span.name == "GET /health/live"
    assert span.attributes["http.response.status_code"] == 200
    assert f"{span.context.trace_id:032x}" == SAMPLED[3:35]
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if "/health/live" in line]
    assert [SAMPLED[3:35] in line for line in lines] == [False, True]


async def test_a_paused_span_goes_on_in_another_task(exporter: Any) -> None:
    span = tracer(exporter, 1.0).begin("GET /x", {})
    assert span is not None
    span.pause()
    assert CURRENT.get() is None

    async def rest() -> None:
        span.resume()
        assert CURRENT.get() is span
        span.end()

    await asyncio.create_task(rest())
    assert CURRENT.get() is None
    assert len(exporter.get_finished_spans()) == 1
