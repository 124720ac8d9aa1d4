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
        from opentelemetry.sdk.trace.export import (
            BatchSpanProcessor,
            SimpleSpanProcessor,
        )

        self._trace = trace
        self._share = share
        self._chance = chance
        processor = SimpleSpanProcessor if at_once else BatchSpanProcessor
        self._processor = processor(exporter)
        name = os.environ.get("OTEL_SERVICE_NAME", "vitrine")
        self._told = _Told(self._processor.on_end, Resource.create({SERVICE_NAME: name}))

    def begin(
        self, name: str, headers: Mapping[str, str], *, consumer: bool = False
    ) -> Span | None:
        brought = headers.get("traceparent")
        parent = None if brought is None else _traceparent(brought)
        if parent is None:
            if self._chance() >= self._share:
                return None
            trace_id, caller = random.getrandbits(128), None
        else:
            if not int(parent[3], 16) & 1:
                return None
            trace_id = int(parent[1], 16)
            caller = self._trace.SpanContext(
                trace_id, int(parent[2], 16), is_remote=True, trace_flags=self._told.sampled
            )
        kinds = self._trace.SpanKind
        kind = kinds.CONSUMER if consumer else kinds.SERVER
        return _Span(self._told, name, kind, trace_id, caller)

    def close(self) -> None:
        """Exports what is left. Blocks: call it in a thread."""
        self._processor.shutdown()


class _Told:
    """Makes spans as they are exported, once they have ended: a fifth of what the SDK's own take,
    which can be changed, limited and read while they last.

    Args:
        on_end: a span processor's.
    """

    def __init__(self, on_end: Callable[[Any], None], resource: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self.sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        self.client = trace.SpanKind.CLIENT
        self._trace = trace
        self._made = ReadableSpan
        self._on_end = on_end
        self._resource = resource
        self._scope = InstrumentationScope("vitrine")
        self._unset = trace.Status()

    def context(self, trace_id: int) -> Any:
        """Of a new span."""
        return self._trace.SpanContext(trace_id, random.getrandbits(64), False, self.sampled)

    def ended(
        self,
        name: str,
        context: Any,
        parent: Any,
        kind: Any,
        times: tuple[int, int],
        attributes: Mapping[str, Any],
        error: str | None,
    ) -> None:
        status = self._unset
        if error is not None:
            status = self._trace.Status(self._trace.StatusCode.ERROR, error)
        self._on_end(
            self._made(
                name,
                context,
                parent,
                self._resource,
                attributes,
                kind=kind,
                status=status,
                start_time=times[0],
                end_time=times[1],
                instrumentation_scope=self._scope,
            )
        )


class _Span:
    def __init__(self, told: _Told, name: str, kind: Any, trace_id: int, caller: Any) -> None:
        self._told = told
        self._name = name
        self._kind = kind
        self._caller = caller
        self._context = told.context(trace_id)
        self._attributes: dict[str, str | int | float | bool] = {}
        self._began = time.time_ns()
        self._token: Token[Span | None] = CURRENT.set(self)

    @property
    def trace_id(self) -> str:
        return f"{self._context.trace_id:032x}"

    def attribute(self, name: str, value: str | int | float | bool) -> None:
        self._attributes[name] = value

    def child(self, name: str, seconds: float, error: str | None = None) -> None:
        told, now = self._told, time.time_ns()
        context = told.context(self._context.trace_id)
        times = now - round(seconds * 1e9), now
        told.ended(name, context, self._context, told.client, times, {}, error)

    def traceparent(self) -> str:
        return f"00-{self._context.trace_id:032x}-{self._context.span_id:016x}-01"

    def pause(self) -> None:
        CURRENT.reset(self._token)

    def resume(self) -> None:
        self._token = CURRENT.set(self)

    def end(self, error: BaseException | None = None) -> None:
        CURRENT.reset(self._token)
        # Its text may hold what no trace may: the log has it, under the trace's id.
        failed = None if error is None else type(error).__name__
        times = self._began, time.time_ns()
        self._told.ended(
            self._name, self._context, self._caller, self._kind, times, self._attributes, failed
        )


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
