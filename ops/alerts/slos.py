"""The service level objectives. What each means in words is in ops/README.md."""

from __future__ import annotations

from dataclasses import dataclass

LISTS = r'route=~"/recommendations/v1/pods/.*|/v1/recommendations:page"'
EVENTS = r'route=~"/v2/(ad_)?behavioral_action/.*|/behavior|/autocomplete/.*|/v1/events"'
REQUESTS = "vitrine_http_requests_total"
SECONDS = "vitrine_http_request_duration_seconds"

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# Budget spent: 2 % within an hour, 5 % within six hours (page); 10 % in a day or three (ticket).
FAST = ((14.4, "1h", "5m"), (6.0, "6h", "30m"))
SLOW = ((3.0, "1d", "2h"), (1.0, "3d", "6h"))
PERIOD_DAYS = 30


@dataclass(frozen=True)
class Slo:
    """
    Args:
        bad: the share of what was bad within `{w}`, a PromQL expression.
        fires, creeps, quiet: promtool series (per minute) that burn the budget fast, slowly, and
            within what is allowed.
    """

    name: str
    title: str
    words: str
    target: float  # of 1
    bad: str
    fires: dict[str, str]
    creeps: dict[str, str]
    quiet: dict[str, str]

    @property
    def budget(self) -> float:
        return round(1 - self.target, 6)

    def burns(self, windows: tuple[tuple[float, str, str], ...]) -> str:
        """An expression that has a value while the budget burns in both windows of a pair."""
        pairs = []
        for factor, long, short in windows:
            limit = f"{factor * self.budget:.6g}"
            selector = f'{{slo="{self.name}"}}'
            pairs.append(
                f"(vitrine:slo_bad:ratio_{long}{selector} > {limit}"
                f" and vitrine:slo_bad:ratio_{short}{selector} > {limit})"
            )
        return "\nor\n".join(pairs)


def _requests(selector: str) -> str:
    return (
        f'(sum(rate({REQUESTS}{{{selector}, status=~"5.."}}[{{w}}])) or vector(0))'
        f" / sum(rate({REQUESTS}{{{selector}}}[{{w}}]))"
    )


def _answers(route: str, good: int, bad: int) -> dict[str, str]:
    labels = f'job="vitrine", instance="a", method="GET", route="{route}"'
    return {
        f'{REQUESTS}{{{labels}, status="200"}}': f"0+{good}x6000",
        f'{REQUESTS}{{{labels}, status="503"}}': f"0+{bad}x6000",
    }


def _in_time(quick: int, slow: int) -> dict[str, str]:
    labels = 'job="vitrine", instance="a", method="GET", route="/recommendations/v1/pods/{pod_id}"'
    return {
        f'{SECONDS}_bucket{{{labels}, le="0.05"}}': f"0+{quick}x6000",
        f"{SECONDS}_count{{{labels}}}": f"0+{quick + slow}x6000",
    }


def _complete(whole: int, degraded: int) -> dict[str, str]:
    return {
        'vitrine_recommendations_total{merchant="m", pod="p", strategy="s"}': (
            f"0+{whole + degraded}x6000"
        ),
        'vitrine_recommendations_degraded_total{missing="history"}': f"0+{degraded}x6000",
    }


def _fresh(pattern: str) -> dict[str, str]:
    return {'vitrine_catalogue_lag_seconds{merchant="m", section="Products"}': pattern}


_POD = "/recommendations/v1/pods/{pod_id}"
_ACTION = "/v2/behavioral_action/{action}"

SLOS = (
    Slo(
        "availability",
        "Availability",
        "99.95 % of the calls for recommendations are answered without a 5xx",
        0.9995,
        _requests(LISTS),
        fires=_answers(_POD, 9700, 300),
        creeps=_answers(_POD, 9980, 20),
        quiet=_answers(_POD, 9999, 1),
    ),
    Slo(
        "latency",
        "Latency",
        "99 % of the calls for recommendations are answered within 50 ms",
        0.99,
        f'1 - sum(rate({SECONDS}_bucket{{{LISTS}, le="0.05"}}[{{w}}]))'
        f" / sum(rate({SECONDS}_count{{{LISTS}}}[{{w}}]))",
        fires=_in_time(700, 300),
        creeps=_in_time(960, 40),
        quiet=_in_time(998, 2),
    ),
    Slo(
        "completeness",
        "Completeness",
        "99.5 % of the lists are made with all that belongs to them (not degraded)",
        0.995,
        "clamp_max((sum(rate(vitrine_recommendations_degraded_total[{w}])) or vector(0))"
        " / sum(rate(vitrine_recommendations_total[{w}])), 1)",
        fires=_complete(800, 200),
        creeps=_complete(980, 20),
        quiet=_complete(999, 1),
    ),
    Slo(
        "events",
        "Acceptance of events",
        "99.95 % of the calls that carry events are answered without a 5xx. That what was "
        "acknowledged is durable is no share of anything: ops/stability proves it is all",
        0.9995,
        _requests(EVENTS),
        fires=_answers(_ACTION, 9700, 300),
        creeps=_answers(_ACTION, 9980, 20),
        quiet=_answers(_ACTION, 9999, 1),
    ),
    Slo(
        "freshness",
        "Freshness",
        "for 99 % of the time, every worker serves a catalogue version that is at most 5 seconds "
        "behind the newest that it knows of",
        0.99,
        "avg_over_time(vitrine:catalogue_late:max[{w}])",
        fires=_fresh("0x5 60x6000"),
        creeps=_fresh(" ".join(["60x0 0x123"] * 5)),
        quiet=_fresh("1x6000"),
    ),
)
