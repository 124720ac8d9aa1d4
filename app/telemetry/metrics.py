"""All metrics, in one place: `Metrics` holds them, `Metrics.catalogue` lists them.

Names follow Prometheus' rules (base units, `_total`); labels are bounded: never an item, a shopper
or a raw path. Bind labels once (`metrics.strategy_seconds.labels("popular")`), not in a request.

Several processes: each worker writes its values into memory-mapped files named by its **slot** (its
place among the workers, not its process id), and a scrape that any worker answers adds up all
files. A worker that replaces a dead one carries on in the dead one's files, so that counters never
fall and files never pile up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
REQUEST_BUCKETS: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
STRATEGY_BUCKETS: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1)
COMMIT_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)

GaugeMode = Literal["livesum", "livemax", "livemin", "livemostrecent"]


@dataclass(frozen=True, slots=True)
class Described:
    """One entry of the catalogue of metrics."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


class Metrics:
    """Every metric that Vitrine has. Made once a process, after `share` where workers share."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.catalogue: list[Described] = []

        # HTTP
        self.http_requests = self._counter(
            "vitrine_http_requests_total",
            "Requests answered.",
            ("method", "route", "status"),
        )
        self.http_seconds = self._histogram(
            "vitrine_http_request_duration_seconds",
            "Time from a request's headers to its answer.",
            ("method", "route"),
            REQUEST_BUCKETS,
        )
        self.http_errors = self._counter(
            "vitrine_http_unexpected_errors_total",
            "Requests that failed by a defect of the server: each has a stack in the log.",
            ("route",),
        )

        # Recommendations
        self.recommendations = self._counter(
            "vitrine_recommendations_total",
            "Lists answered, by the strategy configuration that gave their first result.",
            ("merchant", "pod", "strategy"),
        )
        self.strategy_seconds = self._histogram(
            "vitrine_strategy_duration_seconds",
            "Time that a strategy took for one list of candidates.",
            ("strategy",),
            STRATEGY_BUCKETS,
        )
        self.strategy_failures = self._counter(
            "vitrine_strategy_failures_total",
            "Times that a strategy gave nothing, by reason (late, raised, invalid, unfitted).",
            ("strategy", "reason"),
        )
        self.fallbacks = self._counter(
            "vitrine_recommendation_fallbacks_total",
            "Lists whose first strategy did not answer, by the reason.",
            ("merchant", "pod", "reason"),
        )
        self.short_lists = self._counter(
            "vitrine_recommendation_short_lists_total",
            "Lists with fewer results than asked for.",
            ("merchant", "pod"),
        )
        self.degraded = self._counter(
            "vitrine_recommendations_degraded_total",
            "Lists answered without something that was away.",
            ("missing",),
        )
        self.dropped_candidates = self._counter(
            "vitrine_candidates_dropped_total",
            "Candidates left out before the cut, by reason.",
            ("reason",),
        )

        self.prepared_lists = self._counter(
            "vitrine_prepared_lists_total",
            "Requests that a ready list could answer (hit), or that had to be computed (miss).",
            ("outcome",),
        )

        # Near-cache and item index
        self.near_cache_hits = self._counter(
            "vitrine_near_cache_hits_total", "Items rendered from the process' own cache."
        )
        self.near_cache_misses = self._counter(
            "vitrine_near_cache_misses_total", "Items that had to be fetched from Redis."
        )
        self.near_cache_bytes = self._gauge(
            "vitrine_near_cache_bytes", "Size of the rendered items held.", (), "livesum"
        )
        self.index_items = self._gauge(
            "vitrine_item_index_items",
            "Items of a section that a process knows.",
            ("merchant", "section"),
            "livemin",
        )
        self.catalogue_version = self._gauge(
            "vitrine_catalogue_version",
            "Catalogue version that the slowest worker serves.",
            ("merchant", "section"),
            "livemin",
        )
        self.configuration_version = self._gauge(
            "vitrine_configuration_version",
            "Configuration version that the slowest worker serves.",
            ("merchant",),
            "livemin",
        )

        self.projected_items = self._counter(
            "vitrine_catalogue_projected_items_total",
            "Items written to Redis to bring it to the catalogue's version.",
            ("merchant", "section"),
        )
        self.mended_items = self._counter(
            "vitrine_catalogue_mended_items_total",
            "Items that Redis held otherwise than PostgreSQL, found by comparing.",
            ("merchant", "section"),
        )

        # Events
        self.events = self._counter(
            "vitrine_events_total",
            "Events received, by type and outcome (stored, repeated, refused, apart).",
            ("type", "outcome"),
        )
        self.event_commit_seconds = self._histogram(
            "vitrine_event_commit_duration_seconds",
            "Time to make one group of events durable.",
            (),
            COMMIT_BUCKETS,
        )

        self.events_waiting = self._gauge(
            "vitrine_events_waiting", "Events that wait to be committed.", (), "livesum"
        )
        self.event_spool_bytes = self._gauge(
            "vitrine_event_spool_bytes",
            "Events on the disk that wait for PostgreSQL.",
            (),
            "livesum",
        )

        # Models
        self.model_number = self._gauge(
            "vitrine_model_version_number",
            "Number of the model version that the slowest worker serves.",
            ("merchant", "configuration"),
            "livemin",
        )

        # The process
        self.ready = self._gauge(
            "vitrine_workers_ready", "Workers that are ready to serve.", (), "livesum"
        )
        self.build = self._gauge(
            "vitrine_build_info", "1, with the version that runs.", ("version",), "livemax"
        )

    def route(self, method: str, route: str) -> Callable[[int, float], None]:
        """A recorder (status, seconds) of one route's requests, its labels bound before."""
        observe = self.http_seconds.labels(method, route).observe
        bound: dict[int, Callable[[], None]] = {}

        def record(status: int, seconds: float) -> None:
            count = bound.get(status)
            if count is None:
                count = self.http_requests.labels(method, route, str(status)).inc
                bound[status] = count
            count()
            observe(seconds)

        return record

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        self.catalogue.append(Described(name, "counter", labels, text))
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...], mode: GaugeMode) -> Gauge:
        self.catalogue.append(Described(name, "gauge", labels, text))
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        self.catalogue.append(Described(name, "histogram", labels, text))
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)


def share(directory: Path, slot: int) -> None:
    """Write this process' metrics into files of `directory` from now on, as worker `slot`.

    Call it before `Metrics` is made. What the slot's former holder counted is carried on; its
    gauges of a live process are forgotten.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    forget(directory, slot)
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def forget(directory: Path, slot: int) -> None:
    """Take the gauges of a worker that has ended out of the sum."""
    for path in directory.glob(f"gauge_live*_{slot}.db"):
        path.unlink(missing_ok=True)


def prepare(directory: Path) -> None:
    """An empty directory for a new set of workers."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.db"):
        path.unlink(missing_ok=True)


def render(metrics: Metrics, directory: Path | None = None) -> bytes:
    """All values in Prometheus' text format: of all workers that share `directory`, or of this
    process. Takes milliseconds: call it in a thread."""
    if directory is None:
        return generate_latest(metrics.registry)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
