# ruff: noqa: E501  # queries are long
"""What the dashboards show: plain data, no Grafana in it."""

from __future__ import annotations

from dataclasses import dataclass

from ops.alerts.slos import LISTS, SLOS

R = "$__rate_interval"
POD = 'merchant=~"$merchant"'


@dataclass(frozen=True)
class Panel:
    """`queries`: (PromQL, legend). `unit` is Grafana's."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    about: str = ""
    stat: bool = False  # one figure instead of a graph


@dataclass(frozen=True)
class Board:
    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def _quantile(q: float, metric: str, by: str = "", selector: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}[{R}])))"


def _rate(metric: str, by: str = "", selector: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{selector}}}[{R}]))"


SERVICE = Board(
    "vitrine-service",
    "Vitrine / Service",
    (
        (
            "Now",
            (
                Panel(
                    "Workers ready", "short", (("sum(vitrine_workers_ready)", "ready"),), stat=True
                ),
                Panel(
                    "Lists a second",
                    "reqps",
                    ((_rate("vitrine_http_requests_total", "", LISTS), "lists"),),
                    stat=True,
                ),
                Panel(
                    "p99",
                    "s",
                    ((_quantile(0.99, "vitrine_http_request_duration_seconds", "", LISTS), "p99"),),
                    stat=True,
                ),
                Panel(
                    "Versions",
                    "short",
                    (("count by (version) (vitrine_build_info)", "{{version}}"),),
                    stat=True,
                ),
            ),
        ),
        (
            "Requests",
            (
                Panel(
                    "Requests by route",
                    "reqps",
                    ((_rate("vitrine_http_requests_total", "route"), "{{route}}"),),
                ),
                Panel(
                    "Errors by route and status",
                    "reqps",
                    (
                        (
                            _rate("vitrine_http_requests_total", "route, status", 'status=~"5.."'),
                            "{{route}} {{status}}",
                        ),
                    ),
                ),
                Panel(
                    "Latency of lists",
                    "s",
                    tuple(
                        (
                            _quantile(q, "vitrine_http_request_duration_seconds", "", LISTS),
                            f"p{q * 100:g}",
                        )
                        for q in (0.5, 0.95, 0.99)
                    ),
                    "Measured in the server; the objective is 50 ms for 99 %.",
                ),
                Panel(
                    "Defects",
                    "reqps",
                    ((_rate("vitrine_http_unexpected_errors_total", "route"), "{{route}}"),),
                    "Each has a stack in the log.",
                ),
            ),
        ),
        (
            "Answers",
            (
                Panel(
                    "Degraded lists",
                    "percentunit",
                    (
                        (
                            f"{_rate('vitrine_recommendations_degraded_total', 'missing')} / ignoring(missing) group_left sum(rate(vitrine_recommendations_total[{R}]))",
                            "{{missing}}",
                        ),
                    ),
                ),
                Panel(
                    "Ready lists",
                    "percentunit",
                    (
                        (
                            f'sum(rate(vitrine_prepared_lists_total{{outcome="hit"}}[{R}])) / sum(rate(vitrine_prepared_lists_total[{R}]))',
                            "answered by a ready list",
                        ),
                    ),
                ),
                Panel(
                    "Near-cache hits",
                    "percentunit",
                    (
                        (
                            f"sum(rate(vitrine_near_cache_hits_total[{R}])) / (sum(rate(vitrine_near_cache_hits_total[{R}])) + sum(rate(vitrine_near_cache_misses_total[{R}])))",
                            "hits",
                        ),
                    ),
                ),
                Panel(
                    "Near-cache size",
                    "bytes",
                    (("sum by (instance) (vitrine_near_cache_bytes)", "{{instance}}"),),
                ),
            ),
        ),
        (
            "Events",
            (
                Panel(
                    "Events by type and outcome",
                    "eps",
                    ((_rate("vitrine_events_total", "type, outcome"), "{{type}} {{outcome}}"),),
                ),
                Panel(
                    "Time to make events durable",
                    "s",
                    (
                        (_quantile(0.5, "vitrine_event_commit_duration_seconds"), "p50"),
                        (_quantile(0.99, "vitrine_event_commit_duration_seconds"), "p99"),
                    ),
                ),
                Panel(
                    "Events that wait",
                    "short",
                    (("sum by (instance) (vitrine_events_waiting)", "{{instance}}"),),
                ),
                Panel(
                    "Spool",
                    "bytes",
                    (
                        ("sum by (instance) (vitrine_event_spool_bytes)", "{{instance}}"),
                        (
                            "sum by (instance) (vitrine_event_spool_limit_bytes)",
                            "{{instance}} limit",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

STRATEGIES = Board(
    "vitrine-strategies",
    "Vitrine / Strategies",
    (
        (
            "Serving",
            (
                Panel(
                    "Lists by strategy",
                    "reqps",
                    ((_rate("vitrine_recommendations_total", "strategy", POD), "{{strategy}}"),),
                ),
                Panel(
                    "Time of a strategy, p99",
                    "s",
                    (
                        (
                            _quantile(0.99, "vitrine_strategy_duration_seconds", "strategy"),
                            "{{strategy}}",
                        ),
                    ),
                ),
                Panel(
                    "Failures by reason",
                    "reqps",
                    (
                        (
                            _rate("vitrine_strategy_failures_total", "strategy, reason"),
                            "{{strategy}} {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    "Breakers open",
                    "short",
                    (
                        (
                            f"max by (merchant, strategy) (vitrine_strategy_breaker_open{{{POD}}})",
                            "{{merchant}} {{strategy}}",
                        ),
                    ),
                ),
                Panel(
                    "Fallbacks by pod and reason",
                    "reqps",
                    (
                        (
                            _rate("vitrine_recommendation_fallbacks_total", "pod, reason", POD),
                            "{{pod}} {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    "Short lists by pod",
                    "percentunit",
                    (
                        (
                            f"{_rate('vitrine_recommendation_short_lists_total', 'pod', POD)} / {_rate('vitrine_recommendations_total', 'pod', POD)}",
                            "{{pod}}",
                        ),
                    ),
                ),
                Panel(
                    "Candidates left out",
                    "short",
                    ((_rate("vitrine_candidates_dropped_total", "reason"), "{{reason}}"),),
                ),
            ),
        ),
        (
            "Training",
            (
                Panel(
                    "Trainings by outcome, a day",
                    "short",
                    (
                        (
                            f"sum by (configuration, outcome) (increase(vitrine_trainings_total{{{POD}}}[1d]))",
                            "{{configuration}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    "Time of a training, mean",
                    "s",
                    (
                        (
                            "sum by (strategy) (rate(vitrine_training_duration_seconds_sum[1d])) / sum by (strategy) (rate(vitrine_training_duration_seconds_count[1d]))",
                            "{{strategy}}",
                        ),
                    ),
                ),
                Panel(
                    "Model versions that serve",
                    "short",
                    (
                        (
                            f"min by (merchant, configuration) (vitrine_model_version_number{{{POD}}})",
                            "{{merchant}} {{configuration}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

FRESHNESS = Board(
    "vitrine-freshness",
    "Vitrine / Data freshness",
    (
        (
            "Catalogue",
            (
                Panel(
                    "Lag of the slowest worker",
                    "s",
                    (
                        (
                            f"max by (merchant, section) (vitrine_catalogue_lag_seconds{{{POD}}})",
                            "{{merchant}}/{{section}}",
                        ),
                    ),
                ),
                Panel(
                    "Version that is served",
                    "short",
                    (
                        (
                            f"min by (merchant, section) (vitrine_catalogue_version{{{POD}}})",
                            "{{merchant}}/{{section}}",
                        ),
                    ),
                ),
                Panel(
                    "Items",
                    "short",
                    (
                        (
                            f"min by (merchant, section) (vitrine_item_index_items{{{POD}}})",
                            "{{merchant}}/{{section}}",
                        ),
                    ),
                ),
                Panel(
                    "Items written to Redis",
                    "short",
                    (
                        (
                            _rate(
                                "vitrine_catalogue_projected_items_total", "merchant, section", POD
                            ),
                            "{{merchant}}/{{section}}",
                        ),
                    ),
                ),
                Panel(
                    "Items mended in Redis, an hour",
                    "short",
                    (
                        (
                            f"sum by (merchant, section) (increase(vitrine_catalogue_mended_items_total{{{POD}}}[1h]))",
                            "{{merchant}}/{{section}}",
                        ),
                    ),
                ),
            ),
        ),
        (
            "Configuration and models",
            (
                Panel(
                    "Configuration version",
                    "short",
                    (
                        (
                            f"min by (merchant) (vitrine_configuration_version{{{POD}}})",
                            "{{merchant}}",
                        ),
                    ),
                ),
                Panel(
                    "Configuration cannot be asked for",
                    "short",
                    (("max by (instance) (vitrine_configuration_stale)", "{{instance}}"),),
                ),
                Panel(
                    "Age of what models learned",
                    "s",
                    (
                        (
                            f"time() - min by (merchant, configuration) (vitrine_model_watermark_timestamp_seconds{{{POD}}} > 0)",
                            "{{merchant}} {{configuration}}",
                        ),
                    ),
                ),
            ),
        ),
        (
            "Background work",
            (
                Panel(
                    "Jobs by outcome, an hour",
                    "short",
                    (
                        (
                            "sum by (task, outcome) (increase(vitrine_jobs_total[1h]))",
                            "{{task}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    "Time of a job, mean",
                    "s",
                    (
                        (
                            "sum by (task) (rate(vitrine_job_duration_seconds_sum[1h])) / sum by (task) (rate(vitrine_job_duration_seconds_count[1h]))",
                            "{{task}}",
                        ),
                    ),
                ),
                Panel("Jobs that wait", "short", (("max(vitrine_jobs_waiting)", "jobs"),)),
                Panel(
                    "The oldest has waited",
                    "s",
                    (("max(vitrine_jobs_oldest_waiting_seconds)", "oldest"),),
                ),
            ),
        ),
    ),
)

_PLACE = "merchant, pod, strategy"
_LEGEND = "{{pod}} {{strategy}}"

BUSINESS = Board(
    "vitrine-business",
    "Vitrine / Business",
    (
        (
            "By pod and strategy",
            (
                Panel(
                    "Items seen",
                    "short",
                    (
                        (
                            f"sum by ({_PLACE}) (increase(vitrine_recommendation_impressions_total{{{POD}}}[1h]))",
                            _LEGEND,
                        ),
                    ),
                    "An hour.",
                ),
                Panel(
                    "Clicks",
                    "short",
                    (
                        (
                            f"sum by ({_PLACE}) (increase(vitrine_recommendation_clicks_total{{{POD}}}[1h]))",
                            _LEGEND,
                        ),
                    ),
                    "An hour.",
                ),
                Panel(
                    "Click-through of items seen",
                    "percentunit",
                    (
                        (
                            f"sum by ({_PLACE}) (increase(vitrine_recommendation_clicks_total{{{POD}}}[1h])) / sum by ({_PLACE}) (increase(vitrine_recommendation_impressions_total{{{POD}}}[1h]))",
                            _LEGEND,
                        ),
                    ),
                ),
                Panel(
                    "Put into the cart after a click",
                    "short",
                    (
                        (
                            f"sum by ({_PLACE}) (increase(vitrine_recommendation_carts_total{{{POD}}}[1d]))",
                            _LEGEND,
                        ),
                    ),
                    "A day.",
                ),
                Panel(
                    "Order lines after a click",
                    "short",
                    (
                        (
                            f"sum by ({_PLACE}) (increase(vitrine_recommendation_purchases_total{{{POD}}}[1d]))",
                            _LEGEND,
                        ),
                    ),
                    "A day.",
                ),
                Panel(
                    "Revenue after a click",
                    "short",
                    (
                        (
                            f"sum by ({_PLACE}) (increase(vitrine_recommendation_revenue_total{{{POD}}}[1d]))",
                            _LEGEND,
                        ),
                    ),
                    "A day, in the merchant's currency.",
                ),
            ),
        ),
        (
            "The whole shop",
            (
                Panel(
                    "Share of revenue that recommendations brought",
                    "percentunit",
                    (
                        (
                            f"sum by (merchant) (increase(vitrine_recommendation_revenue_total{{{POD}}}[1d])) / sum by (merchant) (increase(vitrine_shop_revenue_total{{{POD}}}[1d]))",
                            "{{merchant}}",
                        ),
                    ),
                ),
                Panel(
                    "Share of order lines",
                    "percentunit",
                    (
                        (
                            f"sum by (merchant) (increase(vitrine_recommendation_purchases_total{{{POD}}}[1d])) / sum by (merchant) (increase(vitrine_shop_purchases_total{{{POD}}}[1d]))",
                            "{{merchant}}",
                        ),
                    ),
                ),
                Panel(
                    "Not attributed",
                    "short",
                    ((_rate("vitrine_attribution_failures_total", "reason"), "{{reason}}"),),
                ),
            ),
        ),
    ),
)

INFRASTRUCTURE = Board(
    "vitrine-infrastructure",
    "Vitrine / Infrastructure",
    (
        (
            "Processes",
            (
                Panel(
                    "Processor time",
                    "short",
                    (
                        (
                            "sum by (instance) (rate(vitrine_cpu_seconds_total[$__rate_interval]))",
                            "{{instance}}",
                        ),
                    ),
                    "Cores.",
                ),
                Panel(
                    "Memory",
                    "bytes",
                    (("sum by (instance) (vitrine_resident_memory_bytes)", "{{instance}}"),),
                ),
                Panel(
                    "Event loop wakes up late by",
                    "s",
                    (("max by (instance) (vitrine_event_loop_lag_seconds)", "{{instance}}"),),
                ),
                Panel("Targets that answer", "short", (("sum by (job) (up)", "{{job}}"),)),
            ),
        ),
        (
            "PostgreSQL",
            (
                Panel(
                    "Transactions",
                    "ops",
                    (
                        (
                            f"sum by (instance) (rate(vitrine_postgres_transaction_duration_seconds_count[{R}]))",
                            "{{instance}}",
                        ),
                    ),
                ),
                Panel(
                    "Time of a transaction",
                    "s",
                    (
                        (_quantile(0.5, "vitrine_postgres_transaction_duration_seconds"), "p50"),
                        (_quantile(0.99, "vitrine_postgres_transaction_duration_seconds"), "p99"),
                    ),
                ),
                Panel(
                    "Connections",
                    "short",
                    (
                        ("sum by (state) (vitrine_postgres_pool_connections)", "{{state}}"),
                        ("sum(vitrine_postgres_pool_limit)", "limit"),
                    ),
                ),
                Panel(
                    "Not answered",
                    "ops",
                    ((_rate("vitrine_postgres_unavailable_total", "instance"), "{{instance}}"),),
                ),
            ),
        ),
        (
            "Redis",
            (
                Panel(
                    "Calls",
                    "ops",
                    (
                        (
                            f"sum by (client) (rate(vitrine_redis_call_duration_seconds_count[{R}]))",
                            "{{client}}",
                        ),
                    ),
                ),
                Panel(
                    "Time of a call, p99",
                    "s",
                    (
                        (
                            _quantile(0.99, "vitrine_redis_call_duration_seconds", "client"),
                            "{{client}}",
                        ),
                    ),
                ),
                Panel(
                    "Not answered",
                    "ops",
                    ((_rate("vitrine_redis_unavailable_total", "client"), "{{client}}"),),
                ),
            ),
        ),
    ),
)

OBJECTIVES = Board(
    "vitrine-slos",
    "Vitrine / Objectives",
    tuple(
        (
            slo.title,
            (
                Panel(
                    "Bad, three days",
                    "percentunit",
                    (
                        (f'vitrine:slo_bad:ratio_3d{{slo="{slo.name}"}}', "bad"),
                        (f'vitrine:slo_budget:ratio{{slo="{slo.name}"}}', "budget"),
                    ),
                    slo.words + ".",
                ),
                Panel(
                    "Budget burns so many times too fast",
                    "short",
                    tuple(
                        (
                            f'vitrine:slo_bad:ratio_{w}{{slo="{slo.name}"}} / on (slo) vitrine:slo_budget:ratio{{slo="{slo.name}"}}',
                            w,
                        )
                        for w in ("5m", "1h", "6h", "1d")
                    ),
                    "A page at 14.4 (5 m and 1 h), or 6 (30 m and 6 h).",
                ),
            ),
        )
        for slo in SLOS
    ),
)

BOARDS = (SERVICE, STRATEGIES, FRESHNESS, BUSINESS, INFRASTRUCTURE, OBJECTIVES)
