# ruff: noqa: E501  # series are long
"""Every alert, once: Prometheus' rules and tests and CloudWatch's alarms are made from this.

`python -m ops.alerts.generate` writes them; a test fails when they lag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ops.alerts.slos import FAST, SLOS, SLOW

PAGE = "page"  # somebody is woken
TICKET = "ticket"  # somebody looks in working hours


@dataclass(frozen=True)
class Alarm:
    """The same in CloudWatch. `metrics`: id -> (namespace, name, dimensions, statistic); dimensions'
    values may be CloudFormation parameters, `${Name}`.

    Each task writes its metrics to the log in embedded metric format
    (app/telemetry/embedded_metrics.py), of which CloudWatch makes the namespace Vitrine; counters
    arrive as increases.
    """

    metrics: Mapping[str, tuple[str, str, Mapping[str, str], str]]
    expression: str
    threshold: float
    minutes: int = 5
    above: bool = True
    missing: str = "notBreaching"
    rolls_back: bool = False  # a deployment during which it goes off is taken back


@dataclass(frozen=True)
class Alert:
    """
    Args:
        hold: how long the expression must be true.
        fires, quiet: promtool series (a value a minute) at which it fires, or must not, at `at`.
        labels: that the fired alert has beside its severity.
    """

    name: str
    severity: str
    expr: str
    hold: str
    summary: str
    runbook: str  # of ops/runbooks, without .md
    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    at: str = "30m"
    labels: Mapping[str, str] = field(default_factory=dict)
    alarm: Alarm | None = None


ECS = {"ClusterName": "${ClusterName}", "ServiceName": "${ApiServiceName}"}
ALB = {"LoadBalancer": "${LoadBalancerName}"}
POSTGRES = {"DBInstanceIdentifier": "${DatabaseIdentifier}"}
REDIS = {"ReplicationGroupId": "${ReplicationGroupId}"}
VITRINE = {"ClusterName": "${ClusterName}"}


def _vitrine(name: str, statistic: str) -> tuple[str, str, Mapping[str, str], str]:
    return ("Vitrine", name, VITRINE, statistic)


_SLO_ALARMS = {
    "availability": Alarm(
        {
            "bad": ("AWS/ApplicationELB", "HTTPCode_Target_5XX_Count", ALB, "Sum"),
            "none": ("AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count", ALB, "Sum"),
            "all": ("AWS/ApplicationELB", "RequestCount", ALB, "Sum"),
        },
        "100*(FILL(bad,0)+FILL(none,0))/all",
        0.72,
        rolls_back=True,
    ),
    "latency": Alarm(
        {"p99": ("AWS/ApplicationELB", "TargetResponseTime", ALB, "p99")},
        "p99*1000",
        150,
        minutes=10,
        rolls_back=True,
    ),
    "completeness": Alarm(
        {
            "bad": _vitrine("vitrine_recommendations_degraded_total", "Sum"),
            "all": _vitrine("vitrine_recommendations_total", "Sum"),
        },
        "100*FILL(bad,0)/all",
        7.2,
        rolls_back=True,
    ),
    "freshness": Alarm({"lag": _vitrine("vitrine_catalogue_lag_seconds", "Maximum")}, "lag", 60),
}


def _slo_alerts() -> list[Alert]:
    alerts = []
    for slo in SLOS:
        name = slo.name.capitalize()
        alerts.append(
            Alert(
                f"Vitrine{name}BudgetBurnsFast",
                PAGE,
                slo.burns(FAST),
                "2m",
                f"{slo.title}: at this rate the month's error budget is gone within two days",
                f"slo-{slo.name}",
                slo.fires,
                slo.quiet,
                at="70m",
                labels={"slo": slo.name},
                alarm=_SLO_ALARMS.get(slo.name),
            )
        )
        alerts.append(
            Alert(
                f"Vitrine{name}BudgetBurnsSlowly",
                TICKET,
                slo.burns(SLOW),
                "15m",
                f"{slo.title}: at this rate the month's error budget does not last",
                f"slo-{slo.name}",
                slo.creeps,
                slo.quiet,
                at="3h",
                labels={"slo": slo.name},
            )
        )
    return alerts


_UP = 'up{job="vitrine", instance="a"}'
_UP_B = 'up{job="vitrine", instance="b"}'
_READY = 'vitrine_workers_ready{job="vitrine", instance="a"}'
_MS = {"merchant": "m", "section": "Products"}
_MC = {"merchant": "m", "configuration": "popular"}
_MP = {"merchant": "m", "pod": "home"}


ALERTS_OF_SLOS = tuple(_slo_alerts())

OTHERS = (
    # Is it there?
    Alert(
        "VitrineDown",
        PAGE,
        'absent(up{job="vitrine"} == 1)',
        "1m",
        "No server answers: every shop's recommendations are gone",
        "down",
        {_UP: "1x3 0x60", _UP_B: "0x60"},
        {_UP: "1x60", _UP_B: "0x60"},
        alarm=Alarm(
            {
                "healthy": (
                    "AWS/ApplicationELB",
                    "HealthyHostCount",
                    {**ALB, "TargetGroup": "${TargetGroupName}"},
                    "Minimum",
                )
            },
            "healthy",
            1,
            minutes=2,
            above=False,
            missing="breaching",
            rolls_back=True,
        ),
    ),
    Alert(
        "VitrineNotReady",
        PAGE,
        'sum(vitrine_workers_ready{job="vitrine"}) == 0',
        "2m",
        "Servers answer, and not one is ready to serve",
        "not-ready",
        {_READY: "2x3 0x60"},
        {_READY: "2x60", 'vitrine_workers_ready{job="vitrine", instance="b"}': "0x60"},
        alarm=Alarm(
            {"ready": _vitrine("vitrine_workers_ready", "Maximum")}, "ready", 1, 3, above=False
        ),
    ),
    Alert(
        "VitrineInstanceDown",
        TICKET,
        'up{job=~"vitrine.*"} == 0',
        "10m",
        "{{ $labels.job }} at {{ $labels.instance }} cannot be scraped",
        "instance-down",
        {_UP: "0x60", _UP_B: "1x60"},
        {_UP: "1 0x3 1x60"},
        labels={"job": "vitrine", "instance": "a"},
        alarm=Alarm(
            {"tasks": ("ECS/ContainerInsights", "RunningTaskCount", ECS, "Minimum")},
            "tasks",
            2,
            10,
            above=False,
        ),
    ),
    Alert(
        "VitrineWorkerDown",
        TICKET,
        'absent(up{job="vitrine-worker"} == 1)',
        "15m",
        "No background worker runs: trainings, imports and retention wait",
        "worker-down",
        {'up{job="vitrine-worker", instance="w"}': "0x60"},
        {'up{job="vitrine-worker", instance="w"}': "0x10 1x60"},
    ),
    Alert(
        "VitrineUnexpectedErrors",
        TICKET,
        "sum by (route) (rate(vitrine_http_unexpected_errors_total[10m])) > 0",
        "10m",
        "{{ $labels.route }} fails by a defect; the stacks are in the log",
        "unexpected-errors",
        {'vitrine_http_unexpected_errors_total{route="/behavior", instance="a"}': "0+1x60"},
        {'vitrine_http_unexpected_errors_total{route="/behavior", instance="a"}': "3x60"},
        labels={"route": "/behavior"},
        alarm=Alarm(
            {"n": _vitrine("vitrine_http_unexpected_errors_total", "Sum")},
            "n",
            1,
            10,
            rolls_back=True,
        ),
    ),
    Alert(
        "VitrineEventLoopLate",
        TICKET,
        "max by (instance) (avg_over_time(vitrine_event_loop_lag_seconds[5m])) > 0.1",
        "5m",
        "{{ $labels.instance }} is overloaded: its event loop wakes up late",
        "overload",
        {'vitrine_event_loop_lag_seconds{instance="a"}': "0.4x60"},
        {'vitrine_event_loop_lag_seconds{instance="a"}': "0.001 0.4 0.001x60"},
        labels={"instance": "a"},
        alarm=Alarm({"cpu": ("AWS/ECS", "CPUUtilization", ECS, "Average")}, "cpu", 85, 15),
    ),
    Alert(
        "VitrineVersionsDiffer",
        TICKET,
        "count(count by (version) (vitrine_build_info)) > 1",
        "1h",
        "Two versions have been serving for an hour: a deployment is stuck",
        "versions-differ",
        {
            'vitrine_build_info{version="1", instance="a"}': "1x100",
            'vitrine_build_info{version="2", instance="b"}': "1x100",
        },
        {
            'vitrine_build_info{version="1", instance="a"}': "1x20 _x80",
            'vitrine_build_info{version="2", instance="b"}': "1x100",
        },
        at="90m",
    ),
    # Stores
    Alert(
        "VitrinePostgresAway",
        PAGE,
        "sum(rate(vitrine_postgres_unavailable_total[2m])) > 0",
        "3m",
        "PostgreSQL does not answer: no admin calls, no imports, no training; events go to the spool "
        "or are refused",
        "postgres-away",
        {'vitrine_postgres_unavailable_total{instance="a"}': "0+5x60"},
        {'vitrine_postgres_unavailable_total{instance="a"}': "0+5x2 10x60"},
        alarm=Alarm({"n": _vitrine("vitrine_postgres_unavailable_total", "Sum")}, "n", 1, 5),
    ),
    Alert(
        "VitrinePostgresPoolExhausted",
        TICKET,
        'max by (instance) (vitrine_postgres_pool_connections{state="in_use"}'
        " / on (instance) vitrine_postgres_pool_limit) > 0.9",
        "10m",
        "{{ $labels.instance }} uses all of its connections to PostgreSQL",
        "postgres-pool",
        {
            'vitrine_postgres_pool_connections{state="in_use", instance="a"}': "10x60",
            'vitrine_postgres_pool_limit{instance="a"}': "10x60",
        },
        {
            'vitrine_postgres_pool_connections{state="in_use", instance="a"}': "3x60",
            'vitrine_postgres_pool_limit{instance="a"}': "10x60",
        },
        labels={"instance": "a"},
        alarm=Alarm({"n": ("AWS/RDS", "DatabaseConnections", POSTGRES, "Maximum")}, "n", 400, 10),
    ),
    Alert(
        "VitrineRedisAway",
        PAGE,
        'sum(rate(vitrine_redis_unavailable_total{client="request"}[2m])) > 0.1',
        "3m",
        "Redis does not answer: lists are made without shoppers' histories",
        "redis-away",
        {'vitrine_redis_unavailable_total{client="request", instance="a"}': "0+60x60"},
        {'vitrine_redis_unavailable_total{client="request", instance="a"}': "0+60x2 120x60"},
        alarm=Alarm(
            {"memory": ("AWS/ElastiCache", "DatabaseMemoryUsagePercentage", REDIS, "Maximum")},
            "memory",
            85,
            10,
        ),
    ),
    # Events
    Alert(
        "VitrineEventsSpooled",
        TICKET,
        "sum(vitrine_event_spool_bytes) > 0",
        "10m",
        "Events wait on the disk for PostgreSQL, and it does not take them",
        "events-spooled",
        {'vitrine_event_spool_bytes{instance="a"}': "4096x60"},
        {'vitrine_event_spool_bytes{instance="a"}': "4096x5 0x60"},
        alarm=Alarm({"bytes": _vitrine("vitrine_event_spool_bytes", "Maximum")}, "bytes", 1, 10),
    ),
    Alert(
        "VitrineEventSpoolFills",
        PAGE,
        "max by (instance) (vitrine_event_spool_bytes / on (instance)"
        " (vitrine_event_spool_limit_bytes > 0)) > 0.7",
        "1m",
        "{{ $labels.instance }}: the spool is 70 % full; when it is full, events are refused",
        "event-spool-fills",
        {
            'vitrine_event_spool_bytes{instance="a"}': "800x60",
            'vitrine_event_spool_limit_bytes{instance="a"}': "1000x60",
        },
        {
            'vitrine_event_spool_bytes{instance="a"}': "600x60",
            'vitrine_event_spool_limit_bytes{instance="a"}': "1000x60",
        },
        labels={"instance": "a"},
        alarm=Alarm(
            {
                "held": _vitrine("vitrine_event_spool_bytes", "Maximum"),
                "most": _vitrine("vitrine_event_spool_limit_bytes", "Maximum"),
            },
            "100*held/most",
            70,
            2,
        ),
    ),
    Alert(
        "VitrineEventsRejected",
        TICKET,
        'sum(rate(vitrine_events_total{outcome="rejected"}[30m]))'
        " / sum(rate(vitrine_events_total[30m])) > 0.02",
        "30m",
        "One event in fifty cannot be kept: see their reasons",
        "events-rejected",
        {
            'vitrine_events_total{type="click", outcome="accepted"}': "0+90x120",
            'vitrine_events_total{type="click", outcome="rejected"}': "0+10x120",
        },
        {
            'vitrine_events_total{type="click", outcome="accepted"}': "0+900x120",
            'vitrine_events_total{type="click", outcome="rejected"}': "0+1x120",
        },
        at="90m",
    ),
    Alert(
        "VitrineNoImpressions",
        TICKET,
        "sum by (merchant) (rate(vitrine_recommendations_total[1h])) > 0.1"
        " unless sum by (merchant) (rate(vitrine_recommendation_impressions_total[1h])) > 0",
        "1h",
        "{{ $labels.merchant }} is given lists and reports no view of them: its tracking is broken",
        "no-impressions",
        {
            'vitrine_recommendations_total{merchant="m", pod="home", strategy="popular"}': "0+60x300",
            'vitrine_recommendation_impressions_total{merchant="m", pod="home", strategy="popular"}': (
                "9x300"
            ),
        },
        {
            'vitrine_recommendations_total{merchant="m", pod="home", strategy="popular"}': "0+60x300",
            'vitrine_recommendation_impressions_total{merchant="m", pod="home", strategy="popular"}': (
                "0+30x300"
            ),
        },
        at="3h",
        labels={"merchant": "m"},
    ),
    # Strategies
    Alert(
        "VitrineStrategyBreakerOpen",
        TICKET,
        "max by (merchant, strategy) (vitrine_strategy_breaker_open) == 1",
        "5m",
        "{{ $labels.merchant }}: the strategy {{ $labels.strategy }} failed again and again and is "
        "not asked",
        "strategy-breaker",
        {'vitrine_strategy_breaker_open{merchant="m", strategy="popular", instance="a"}': "1x60"},
        {
            'vitrine_strategy_breaker_open{merchant="m", strategy="popular", instance="a"}': "1x3 0x60"
        },
        labels={"merchant": "m", "strategy": "popular"},
        alarm=Alarm({"open": _vitrine("vitrine_strategy_breaker_open", "Maximum")}, "open", 1, 10),
    ),
    Alert(
        "VitrineFallbacks",
        TICKET,
        "sum by (merchant, pod) (rate(vitrine_recommendation_fallbacks_total[15m]))"
        " / sum by (merchant, pod) (rate(vitrine_recommendations_total[15m])) > 0.2",
        "15m",
        "{{ $labels.merchant }}: a fifth of the lists of {{ $labels.pod }} come from a fallback",
        "fallbacks",
        {
            'vitrine_recommendation_fallbacks_total{merchant="m", pod="home", reason="late"}': "0+5x60",
            'vitrine_recommendations_total{merchant="m", pod="home", strategy="s"}': "0+10x60",
        },
        {
            'vitrine_recommendation_fallbacks_total{merchant="m", pod="home", reason="late"}': "0+1x60",
            'vitrine_recommendations_total{merchant="m", pod="home", strategy="s"}': "0+10x60",
        },
        at="45m",
        labels=_MP,
    ),
    Alert(
        "VitrineShortLists",
        TICKET,
        "sum by (merchant, pod) (rate(vitrine_recommendation_short_lists_total[30m]))"
        " / sum by (merchant, pod) (rate(vitrine_recommendations_total[30m])) > 0.3",
        "30m",
        "{{ $labels.merchant }}: a third of the lists of {{ $labels.pod }} are shorter than asked for",
        "short-lists",
        {
            'vitrine_recommendation_short_lists_total{merchant="m", pod="home"}': "0+5x120",
            'vitrine_recommendations_total{merchant="m", pod="home", strategy="s"}': "0+10x120",
        },
        {
            'vitrine_recommendation_short_lists_total{merchant="m", pod="home"}': "0+1x120",
            'vitrine_recommendations_total{merchant="m", pod="home", strategy="s"}': "0+10x120",
        },
        at="90m",
        labels=_MP,
    ),
    # Freshness
    Alert(
        "VitrineCatalogueStuck",
        PAGE,
        "max by (merchant, section) (vitrine_catalogue_lag_seconds) > 300",
        "1m",
        "{{ $labels.merchant }}/{{ $labels.section }}: shoppers see a catalogue of five minutes ago",
        "catalogue-stuck",
        {
            'vitrine_catalogue_lag_seconds{merchant="m", section="Products", instance="a"}': "0+60x60"
        },
        {'vitrine_catalogue_lag_seconds{merchant="m", section="Products", instance="a"}': "200x60"},
        labels=_MS,
    ),
    Alert(
        "VitrineConfigurationStale",
        TICKET,
        "max by (instance) (vitrine_configuration_stale) == 1",
        "10m",
        "{{ $labels.instance }} cannot ask what is published: rules and pods stay as they are",
        "configuration-stale",
        {'vitrine_configuration_stale{instance="a"}': "1x60"},
        {'vitrine_configuration_stale{instance="a"}': "1x5 0x60"},
        labels={"instance": "a"},
    ),
    Alert(
        "VitrineCacheMended",
        TICKET,
        "sum by (merchant, section) (increase(vitrine_catalogue_mended_items_total[1h])) > 0",
        "0m",
        "{{ $labels.merchant }}/{{ $labels.section }}: Redis held items otherwise than PostgreSQL",
        "cache-mended",
        {'vitrine_catalogue_mended_items_total{merchant="m", section="Products"}': "0x20 7x60"},
        {'vitrine_catalogue_mended_items_total{merchant="m", section="Products"}': "7x60"},
        labels=_MS,
    ),
    Alert(
        "VitrineModelStale",
        TICKET,
        "time() - min by (merchant, configuration)"
        " (vitrine_model_watermark_timestamp_seconds > 0) > 3 * 86400",
        "1h",
        "{{ $labels.merchant }}: the model of {{ $labels.configuration }} has learned nothing for "
        "three days",
        "model-stale",
        {
            'vitrine_model_watermark_timestamp_seconds{merchant="m", configuration="popular"}': (
                "60x6000"
            )
        },
        {
            'vitrine_model_watermark_timestamp_seconds{merchant="m", configuration="popular"}': (
                "0+60x6000"
            )
        },
        at="75h",
        labels=_MC,
    ),
    # Background work
    Alert(
        "VitrineTrainingFailed",
        TICKET,
        "sum by (merchant, configuration)"
        ' (increase(vitrine_trainings_total{outcome="failed"}[6h])) > 0',
        "0m",
        "{{ $labels.merchant }}: {{ $labels.configuration }} could not be fitted",
        "training-failed",
        {
            'vitrine_trainings_total{merchant="m", configuration="popular", outcome="failed"}': (
                "0x10 1x60"
            )
        },
        {
            'vitrine_trainings_total{merchant="m", configuration="popular", outcome="failed"}': "1x60",
            'vitrine_trainings_total{merchant="m", configuration="popular", outcome="published"}': (
                "0+1x60"
            ),
        },
        labels=_MC,
    ),
    Alert(
        "VitrineModelKeptBack",
        TICKET,
        "sum by (merchant, configuration)"
        ' (increase(vitrine_trainings_total{outcome="kept_back"}[1d])) > 0',
        "0m",
        "{{ $labels.merchant }}: a new model of {{ $labels.configuration }} is worse than the one "
        "that serves, and was kept back",
        "model-kept-back",
        {
            'vitrine_trainings_total{merchant="m", configuration="popular", outcome="kept_back"}': (
                "0x10 1x60"
            )
        },
        {
            'vitrine_trainings_total{merchant="m", configuration="popular", outcome="kept_back"}': (
                "1x60"
            )
        },
        labels=_MC,
    ),
    Alert(
        "VitrineJobsWait",
        TICKET,
        "max(vitrine_jobs_oldest_waiting_seconds) > 1800",
        "10m",
        "A job has waited for half an hour: the workers do not keep up",
        "jobs-wait",
        {'vitrine_jobs_oldest_waiting_seconds{job="vitrine-worker"}': "2400x60"},
        {'vitrine_jobs_oldest_waiting_seconds{job="vitrine-worker"}': "600x60"},
        alarm=Alarm(
            {"s": _vitrine("vitrine_jobs_oldest_waiting_seconds", "Maximum")}, "s", 1800, 10
        ),
    ),
    Alert(
        "VitrineJobsFail",
        TICKET,
        'sum by (task) (increase(vitrine_jobs_total{outcome="failed"}[1h])) > 0',
        "0m",
        "Jobs of {{ $labels.task }} failed for good",
        "jobs-fail",
        {'vitrine_jobs_total{task="retention", outcome="failed"}': "0x10 1x60"},
        {
            'vitrine_jobs_total{task="retention", outcome="failed"}': "1x60",
            'vitrine_jobs_total{task="retention", outcome="done"}': "0+1x60",
        },
        labels={"task": "retention"},
    ),
    Alert(
        "VitrineWatchdog",
        "none",
        "vector(1)",
        "0m",
        "Always fires. Who does not hear it any more knows that alerting itself is broken",
        "watchdog",
        {},
        {},
    ),
)

ALERTS = (*ALERTS_OF_SLOS, *OTHERS)
