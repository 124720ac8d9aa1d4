"""Traces by OpenTelemetry, where its packages are installed (`pip install 'vitrine[otel]'`) and the
standard environment variables ask for them:

| variable | what |
|---|---|
| OTEL_TRACES_EXPORTER | otlp, console or none; default: otlp with an endpoint, else none |
| OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, ..._HEADERS | where to (HTTP) |
| OTEL_TRACES_SAMPLER_ARG | share of the requests that begin a trace; default 0.01 |
| OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES | who is tracing; default: vitrine |
| OTEL_SDK_DISABLED | true: nothing |

A request that brings a `traceparent` is sampled as its caller decided, others by chance, before
anything is made: what is not sampled costs one look at the headers and a random number.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from contextvars import Token
from importlib.util import find_spec
from typing import Any, Final

from app.telemetry.logs import get as get_log
from app.telemetry.traces import CURRENT, Span, Tracer

DEFAULT_SHARE: Final = 0.01

_traceparent = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z").match
_log = get_log(__name__)


class OpenTelemetryTracer:
    """Implements `app.telemetry.traces.Tracer`. One a process, made after the fork.

    Args:
        exporter: an OpenTelemetry SpanExporter.
        share: of the requests without a `traceparent` that are sampled.
        at_once: export each span when it ends, in the caller's thread: for tests and consoles.
    """

    def __init__(
        self,
        exporter: Any,
        share: float,
        *,
        at_once: bool = False,
        chance: Callable[[], float] = random.random,
    ) -> None:
        from opentelemetry import trace  # an extra
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import (
            BatchSpanProcessor,
            SimpleSpanProcessor,
        )

        name = os.environ.get("OTEL_SERVICE_NAME", "vitrine")
        self._trace = trace
        self._share = share
        self._chance = chance
        # It is decided here, before the SDK is called.
        self._provider = TracerProvider(
            sampler=sampling.ALWAYS_ON, resource=Resource.create({SERVICE_NAME: name})
        )
        processor = SimpleSpanProcessor if at_once else BatchSpanProcessor
        self._provider.add_span_processor(processor(exporter))
        self._tracer = self._provider.get_tracer("vitrine")

    def begin(
        self, name: str, headers: Mapping[str, str], *, consumer: bool = False
    ) -> Span | None:
        brought = headers.get("traceparent")
        parent = None if brought is None else _traceparent(brought)
        if parent is None:
            if self._chance() >= self._share:
                return None
            context = None
        else:
            if not int(parent[3], 16) & 1:
                return None
            context = self._context(parent[1], parent[2])
        kinds = self._trace.SpanKind
        kind = kinds.CONSUMER if consumer else kinds.SERVER
        return _Span(self._trace, self._tracer, name, kind, context)

    def close(self) -> None:
        """Exports what is left. Blocks: call it in a thread."""
        self._provider.shutdown()

    def _context(self, trace_id: str, span_id: str) -> Any:
        trace = self._trace
        parent = trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(1)
        )
        return trace.set_span_in_context(trace.NonRecordingSpan(parent))


class _Span:
    def __init__(self, trace: Any, tracer: Any, name: str, kind: Any, context: Any) -> None:
        self._trace = trace
        self._tracer = tracer
        self._span = tracer.start_span(name, context=context, kind=kind)
        self._token: Token[Span | None] = CURRENT.set(self)

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    def attribute(self, name: str, value: str | int | float | bool) -> None:
        self._span.set_attribute(name, value)

    def child(self, name: str, seconds: float, error: str | None = None) -> None:
        now = time.time_ns()
        child = self._tracer.start_span(
            name,
            context=self._trace.set_span_in_context(self._span),
            kind=self._trace.SpanKind.CLIENT,
            start_time=now - round(seconds * 1e9),
        )
        if error is not None:
            child.set_status(self._trace.StatusCode.ERROR, error)
        child.end(now)

    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def pause(self) -> None:
        CURRENT.reset(self._token)

    def resume(self) -> None:
        self._token = CURRENT.set(self)

    def end(self, error: BaseException | None = None) -> None:
        CURRENT.reset(self._token)
        if error is not None:
            # Its text may hold what no trace may: the log has it, under the trace's id.
            self._span.set_status(self._trace.StatusCode.ERROR, type(error).__name__)
        self._span.end()


def tracer_from_environment(environment: Mapping[str, str] | None = None) -> Tracer | None:
    """The tracer that the environment asks for; None: it asks for none.

    Raises:
        ValueError: a variable is wrong, or asks for what is not installed.
    """
    wanted = asked_for(os.environ if environment is None else environment)
    if wanted is None:
        return None
    exporter, share = wanted
    _log.info("tracing", exporter=exporter, share=share)
    if exporter == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return OpenTelemetryTracer(ConsoleSpanExporter(), share, at_once=True)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter,
    )

    return OpenTelemetryTracer(OTLPSpanExporter(), share)


def asked_for(environment: Mapping[str, str]) -> tuple[str, float] | None:
    """The exporter and the share that the environment asks for; None: no traces.

    Raises:
        ValueError: a variable is wrong, or asks for what is not installed.
    """
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    exporter = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter not in ("otlp", "console"):
        raise ValueError(f"OTEL_TRACES_EXPORTER: {exporter!r} is none of otlp, console, none")
    text = environment.get("OTEL_TRACES_SAMPLER_ARG", str(DEFAULT_SHARE))
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG: {text!r} is no share between 0 and 1")
    needed = "opentelemetry.sdk" if exporter == "console" else "opentelemetry.exporter.otlp.proto"
    try:
        there = find_spec(needed) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise ValueError("OTEL_TRACES_EXPORTER: traces are asked for: pip install 'vitrine[otel]'")
    return exporter, share
