"""What services tell of themselves, counted. Each satisfies the `Observer` that its service states;
none of the domain's types is known here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from app.telemetry.metrics import Metrics


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Typed(Protocol):
    @property
    def type(self) -> _Named: ...


class EventObserver:
    """Satisfies `app.services.track.Observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counted: dict[tuple[str, str], Callable[[], None]] = {}
        self._committed = metrics.event_commit_seconds.observe
        self._waiting = metrics.events_waiting.set
        self._spooled = metrics.event_spool_bytes.set

    def committed(self, events: int, seconds: float) -> None:  # noqa: ARG002  # each is counted below
        self._committed(seconds)

    def received(self, event: _Typed, outcome: str) -> None:
        key = event.type.name, outcome
        count = self._counted.get(key)
        if count is None:
            count = self._metrics.events.labels(key[0].lower(), outcome).inc
            self._counted[key] = count
        count()

    def depth(self, queued: int, spooled_bytes: int) -> None:
        self._waiting(queued)
        self._spooled(spooled_bytes)


class ProjectionObserver:
    """Satisfies `app.services.catalogue_sync.Observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def projected(self, merchant: str, section: str, version: int, items: int) -> None:  # noqa: ARG002
        self._metrics.projected_items.labels(merchant, section).inc(items)

    def mended(self, merchant: str, section: str, items: int) -> None:
        self._metrics.mended_items.labels(merchant, section).inc(items)
