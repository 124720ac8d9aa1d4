"""Traces, as a port: where no tracer is given, or it decides not to sample, nothing is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Span(Protocol):
    """One sampled piece of work."""

    @property
    def trace_id(self) -> str: ...

    def attribute(self, name: str, value: str | int | float | bool) -> None: ...

    def end(self, error: BaseException | None = None) -> None: ...


class Tracer(Protocol):
    def begin(self, name: str, headers: Mapping[str, str]) -> Span | None:
        """A span for a request, in the trace that `headers` carry (W3C traceparent); None where it
        is not sampled, which is decided before anything is made."""
        ...
