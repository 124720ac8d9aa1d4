"""Traces, as a port: where no tracer is given, or it decides not to sample, nothing is made."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Protocol


class Span(Protocol):
    """One sampled piece of work."""

    @property
    def trace_id(self) -> str: ...

    def attribute(self, name: str, value: str | int | float | bool) -> None: ...

    def child(self, name: str, seconds: float, error: str | None = None) -> None:
        """A piece of this work, which took `seconds` and has ended now."""
        ...

    def traceparent(self) -> str:
        """The header by which whom this work calls continues the trace (W3C)."""
        ...

    def end(self, error: BaseException | None = None) -> None: ...


CURRENT: Final[ContextVar[Span | None]] = ContextVar("vitrine_span", default=None)
"""The sampled request that this task answers; None: it is not sampled."""


class Tracer(Protocol):
    def begin(self, name: str, headers: Mapping[str, str]) -> Span | None:
        """A span for a request, in the trace that `headers` carry (W3C traceparent); None where it
        is not sampled, which is decided before anything is made. It is `CURRENT` until its end."""
        ...

    def close(self) -> None:
        """Exports what is left. Blocks: call it in a thread."""
        ...
