"""What services tell of themselves, counted. Each satisfies the `Observer` that its service states;
none of the domain's types is known here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from app.telemetry.metrics import STORE_BUCKETS, Metrics
from app.telemetry.tallies import Tally
from app.telemetry.traces import CURRENT


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Typed(Protocol):
    @property
    def type(self) -> _Named: ...


class EventObserver:
    """Satisfies `app.services.track.Observer`.

    Args:
        accepted: is called with each event that was accepted.
    """

    def __init__(
        self, metrics: Metrics, accepted: Callable[[Any], None] = lambda _event: None
    ) -> None:
        self._metrics = metrics
        self._accepted = accepted
        self._received: dict[tuple[object, str], Tally] = {}  # a type's name takes as long as all
        self._committed = metrics.event_commit_seconds.observe
        self._untracked = metrics.events.labels("unknown", "unconsented").inc

    def committed(self, events: int, seconds: float) -> None:  # noqa: ARG002  # each is counted below
        self._committed(seconds)

    def received(self, event: _Typed, outcome: str) -> None:
        tally = self._received.get((event.type, outcome))
        if tally is None:
            tally = self._metrics.tally(self._metrics.events, event.type.name.lower(), outcome)
            self._received[event.type, outcome] = tally
        tally.count += 1
        if outcome == "accepted":
            self._accepted(event)

    def untracked(self) -> None:
        """An event was not kept for want of consent."""
        self._untracked()


class ProjectionObserver:
    """Satisfies `app.services.catalogue_sync.Observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def projected(self, merchant: str, section: str, version: int, items: int) -> None:  # noqa: ARG002
        self._metrics.projected_items.labels(merchant, section).inc(items)

    def mended(self, merchant: str, section: str, items: int) -> None:
        self._metrics.mended_items.labels(merchant, section).inc(items)


def postgres_observer(metrics: Metrics) -> Callable[[float, bool], None]:
    """What `app.postgres.database.connect` tells of transactions."""
    return _timed("PostgreSQL", metrics.postgres_seconds.observe, metrics.postgres_unavailable.inc)


def redis_observer(
    metrics: Metrics, client: str, *, tallied: bool = False
) -> Callable[[float, bool], None]:
    """What a `RedisConnection` and those who share it tell of calls.

    Args:
        tallied: all of it is told by one thread, of a process that folds its tallies.
    """
    observe: Callable[[float], None] = metrics.redis_seconds.labels(client).observe
    if tallied:
        observe = metrics.timings(metrics.redis_seconds, STORE_BUCKETS, client).observe
    return _timed("Redis", observe, metrics.redis_unavailable.labels(client).inc)


def _timed(
    store: str, observe: Callable[[float], None], unavailable: Callable[[], None]
) -> Callable[[float, bool], None]:
    def told(seconds: float, answered: bool) -> None:
        observe(seconds)
        span = CURRENT.get()
        if span is not None:
            span.child(store, seconds, None if answered else "not answered")
        if not answered:
            unavailable()

    return told


class JobObserver:
    """Satisfies `app.jobs.worker.Observer` and `app.services.train.Observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def ended(self, task: str, outcome: str, seconds: float) -> None:
        self._metrics.jobs.labels(task, outcome).inc()
        self._metrics.job_seconds.labels(task).observe(seconds)

    def waiting(self, jobs: int, oldest: float) -> None:
        self._metrics.jobs_waiting.set(jobs)
        self._metrics.jobs_oldest.set(oldest)

    def trained(
        self, merchant: str, configuration: str, strategy: str, outcome: str, seconds: float
    ) -> None:
        self._metrics.trainings.labels(merchant, configuration, outcome).inc()
        self._metrics.training_seconds.labels(strategy).observe(seconds)
        span = CURRENT.get()
        if span is not None:
            failed = outcome if outcome == "failed" else None
            span.child(f"train {configuration}", seconds, failed)
