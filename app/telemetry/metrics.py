"""All metrics, in one place: `Metrics` holds them, `Metrics.catalogue` lists them.

Names follow Prometheus' rules (base units, `_total`); labels are bounded: never an item, a shopper
or a raw path. Bind labels once (`metrics.strategy_seconds.labels("popular")`), not in a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)

from app.telemetry.tallies import FOLD_SECONDS, Tallies, Tally, Timings

REQUEST_BUCKETS: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
STRATEGY_BUCKETS: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1)
COMMIT_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
STORE_BUCKETS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 5.0)
JOB_BUCKETS: Final = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)

GaugeMode = Literal["livesum", "livemax", "livemin", "livemostrecent"]


@dataclass(frozen=True, slots=True)
class Described:
    """One entry of the catalogue of metrics."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


class _Nowhere:
    """Takes what a metric takes, and keeps nothing."""

    def labels(self, *_values: str) -> _Nowhere:
        return self

    def inc(self, _amount: float = 1) -> None: ...

    def set(self, _value: float) -> None: ...

    def observe(self, _amount: float) -> None: ...


class Metrics:
    """Every metric that Vitrine has. Made once a process, after `shared_metrics.share` where
    workers share.

    Args:
        counted: False: for work that is not to be counted (a preview). A second one that counts
            would write over the first one's values where processes share them.
    """

    def __init__(self, *, counted: bool = True) -> None:
        self._counted = counted
        self.registry = CollectorRegistry()
        self.catalogue: list[Described] = []
        self._bound: dict[tuple[Counter, tuple[str, ...]], Tally] = {}
        self._tallies = Tallies()
        self.registry.register(self._tallies)  # first: what is read after it is up to date

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
        self.breaker_open = self._gauge(
            "vitrine_strategy_breaker_open",
            "1 while a merchant's strategy is not asked, for it failed again and again.",
            ("merchant", "strategy"),
            "livemax",
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

        self.catalogue_lag = self._gauge(
            "vitrine_catalogue_lag_seconds",
            "How long a worker has known of a catalogue version that it does not serve yet.",
            ("merchant", "section"),
            "livemax",
        )
        self.configuration_stale = self._gauge(
            "vitrine_configuration_stale",
            "1 while a worker cannot ask for what is published.",
            (),
            "livemax",
        )

        # Events
        self.events = self._counter(
            "vitrine_events_total",
            "Events received, by type and outcome (accepted, duplicate, rejected, apart,"
            " unconsented).",
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

        self.event_spool_limit = self._gauge(
            "vitrine_event_spool_limit_bytes",
            "Events that the disk may take; 0: there is no spool.",
            (),
            "livesum",
        )

        # Business: what recommendations brought; see app/services/attribute.py
        placement = ("merchant", "pod", "strategy")
        self.impressions = self._counter(
            "vitrine_recommendation_impressions_total",
            "Items that shoppers saw in a pod.",
            placement,
        )
        self.clicks = self._counter(
            "vitrine_recommendation_clicks_total", "Clicks on items of a pod.", placement
        )
        self.carts = self._counter(
            "vitrine_recommendation_carts_total",
            "Items put into the cart after a click in a pod.",
            placement,
        )
        self.purchases = self._counter(
            "vitrine_recommendation_purchases_total",
            "Order lines of items that were clicked in a pod before.",
            placement,
        )
        self.revenue = self._counter(
            "vitrine_recommendation_revenue_total",
            "What those order lines brought, in the merchant's currency.",
            placement,
        )
        self.shop_purchases = self._counter(
            "vitrine_shop_purchases_total", "Order lines of the whole shop.", ("merchant",)
        )
        self.shop_revenue = self._counter(
            "vitrine_shop_revenue_total",
            "What all order lines brought, in the merchant's currency.",
            ("merchant",),
        )
        self.unattributed = self._counter(
            "vitrine_attribution_failures_total",
            "Events that could not be attributed, by reason (away, full).",
            ("reason",),
        )

        # Stores
        self.postgres_seconds = self._histogram(
            "vitrine_postgres_transaction_duration_seconds",
            "Time of a transaction, the wait for a connection included.",
            (),
            STORE_BUCKETS,
        )
        self.postgres_unavailable = self._counter(
            "vitrine_postgres_unavailable_total", "Transactions that PostgreSQL did not answer."
        )
        self.postgres_connections = self._gauge(
            "vitrine_postgres_pool_connections",
            "Connections by state (in_use, idle).",
            ("state",),
            "livesum",
        )
        self.postgres_limit = self._gauge(
            "vitrine_postgres_pool_limit", "Connections that may be opened.", (), "livesum"
        )
        self.redis_seconds = self._histogram(
            "vitrine_redis_call_duration_seconds",
            "Time of a call, by the client (request, background).",
            ("client",),
            STORE_BUCKETS,
        )
        self.redis_unavailable = self._counter(
            "vitrine_redis_unavailable_total", "Calls that Redis did not answer.", ("client",)
        )

        # Background work: `vitrine worker` has them at its own /metrics
        self.jobs = self._counter(
            "vitrine_jobs_total",
            "Jobs by outcome (done, failed, put_off).",
            ("task", "outcome"),
        )
        self.job_seconds = self._histogram(
            "vitrine_job_duration_seconds", "Time that a job took.", ("task",), JOB_BUCKETS
        )
        self.jobs_waiting = self._gauge(
            "vitrine_jobs_waiting", "Jobs that are due and not begun.", (), "livemax"
        )
        self.jobs_oldest = self._gauge(
            "vitrine_jobs_oldest_waiting_seconds",
            "How long the oldest of them has been due.",
            (),
            "livemax",
        )
        self.trainings = self._counter(
            "vitrine_trainings_total",
            "Fits by outcome (published, kept_back, fitted, failed).",
            ("merchant", "configuration", "outcome"),
        )
        self.training_seconds = self._histogram(
            "vitrine_training_duration_seconds",
            "Time from data to a stored model version.",
            ("strategy",),
            JOB_BUCKETS,
        )

        # Models
        self.model_watermark = self._gauge(
            "vitrine_model_watermark_timestamp_seconds",
            "Time of the newest event that the serving model could learn from.",
            ("merchant", "configuration"),
            "livemin",
        )
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
        self.loop_lag = self._gauge(
            "vitrine_event_loop_lag_seconds",
            "How late the event loop of the busiest worker woke up, last time it was looked at.",
            (),
            "livemax",
        )
        self.resident = self._gauge(
            "vitrine_resident_memory_bytes", "Memory of all workers.", (), "livesum"
        )
        self.cpu_seconds = self._counter(
            "vitrine_cpu_seconds_total", "Processor time that the workers used."
        )
        self.build = self._gauge(
            "vitrine_build_info", "1, with the version that runs.", ("version",), "livemax"
        )

    def route(self, method: str, route: str) -> Callable[[int, float], None]:
        """A recorder (status, seconds) of one route's requests, for the event loop's thread. Read
        by others after `fold`."""
        observe = self.timings(self.http_seconds, REQUEST_BUCKETS, method, route).observe
        bound: dict[int, Tally] = {}

        def record(status: int, seconds: float) -> None:
            tally = bound.get(status)
            if tally is None:
                tally = bound[status] = self.tally(self.http_requests, method, route, str(status))
            tally.count += 1
            observe(seconds)

        return record

    def tally(self, counter: Counter, *labels: str) -> Tally:
        """A counter with its labels bound, for the event loop's thread and a request's path: the
        same one each time. Read by others after `fold`."""
        tally = self._bound.get((counter, labels))
        if tally is None:
            tally = Tally(counter.labels(*labels).inc if labels else counter.inc)
            self._bound[counter, labels] = tally
            if self._counted:
                self._tallies.add(tally)
        return tally

    def timings(self, histogram: Histogram, bounds: tuple[float, ...], *labels: str) -> Timings:
        """The same of a histogram. `bounds`: those that it was made with."""
        timings = Timings(histogram.labels(*labels), bounds)
        if self._counted:
            self._tallies.add(timings)
        return timings

    def fold(self) -> None:
        """Make what was tallied visible to other processes."""
        self._tallies.fold()

    async def keep_folding(self) -> None:
        """Does so until it is cancelled."""
        while True:
            await asyncio.sleep(FOLD_SECONDS)
            self.fold()

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        self.catalogue.append(Described(name, "counter", labels, text))
        if not self._counted:
            return cast("Counter", _Nowhere())
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...], mode: GaugeMode) -> Gauge:
        self.catalogue.append(Described(name, "gauge", labels, text))
        if not self._counted:
            return cast("Gauge", _Nowhere())
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        self.catalogue.append(Described(name, "histogram", labels, text))
        if not self._counted:
            return cast("Histogram", _Nowhere())
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
