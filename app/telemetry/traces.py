"""Traces, as a port: where no tracer is given, or it decides not to sample, nothing is made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

    def pause(self) -> None:
        """It is not `CURRENT` until `resume`, which may be called in another task."""
        ...

    def resume(self) -> None: ...

    def end(self, error: BaseException | None = None) -> None: ...


CURRENT: Final[ContextVar[Span | None]] = ContextVar("vitrine_span", default=None)
"""The sampled request that this task answers; None: it is not sampled."""


class Tracer(Protocol):
    def begin(
        self, name: str, headers: Mapping[str, str], *, consumer: bool = False
    ) -> Span | None:
        """A span for a request, in the trace that `headers` carry (W3C traceparent); None where it
        is not sampled, which is decided before anything is made. It is `CURRENT` until its end.

        Args:
            consumer: of work that was left for later, by whom nobody waits for an answer.
        """
        ...

    def close(self) -> None:
        """Exports what is left. Blocks: call it in a thread."""
        ...


TRACEPARENT: Final = "traceparent"


def carried() -> dict[str, str]:
    """The header by which work that is left for later, or for others, continues the trace; empty
    where this is none."""
    span = CURRENT.get()
    return {} if span is None else {TRACEPARENT: span.traceparent()}


@contextmanager
def spanned(name: str) -> Iterator[None]:
    """What happens within, as a part of the work that is traced, if any is."""
    span = CURRENT.get()
    if span is None:
        yield
        return
    began = time.perf_counter()
    try:
        yield
    except BaseException as error:
        span.child(name, time.perf_counter() - began, type(error).__name__)
        raise
    span.child(name, time.perf_counter() - began)
