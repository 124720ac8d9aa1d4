"""Writes what is made from the definitions: `python -m ops.alerts.generate [--check]`.

{slo,alert}_rules.yml for Prometheus and *_test.yml for promtool. Nothing but the standard library
is needed: JSON is YAML.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ops.alerts.alerts import ALERTS_OF_SLOS, OTHERS, Alert
from ops.alerts.slos import SLOS, WINDOWS

HERE = Path(__file__).parent
NOTE = "# Made by `python -m ops.alerts.generate` from alerts.py and slos.py. Do not edit.\n"


def slo_rules() -> dict[str, Any]:
    records: list[dict[str, Any]] = [
        {
            "record": "vitrine:catalogue_late:max",
            "expr": "max(vitrine_catalogue_lag_seconds) > bool 5",
        }
    ]
    for slo in SLOS:
        records += [
            {
                "record": f"vitrine:slo_bad:ratio_{window}",
                "expr": slo.bad.replace("{w}", window),
                "labels": {"slo": slo.name},
            }
            for window in WINDOWS
        ]
        records.append(
            {
                "record": "vitrine:slo_budget:ratio",
                "expr": f"vector({slo.budget:g})",
                "labels": {"slo": slo.name},
            }
        )
    return _group("vitrine-slos", [*records, *map(_rule, ALERTS_OF_SLOS)])


def alert_rules() -> dict[str, Any]:
    return _group("vitrine-alerts", [*map(_rule, OTHERS)])


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.hold,
        "labels": {"severity": alert.severity},
        "annotations": annotations(alert),
    }


def _group(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"groups": [{"name": name, "interval": "30s", "rules": rules}]}


def annotations(alert: Alert) -> dict[str, str]:
    return {"summary": alert.summary, "runbook": f"ops/runbooks/{alert.runbook}.md"}


def slo_tests() -> dict[str, Any]:
    cases = []
    for fast, slow in zip(ALERTS_OF_SLOS[::2], ALERTS_OF_SLOS[1::2], strict=True):
        cases += [*_cases(fast), *_cases(slow)]
        cases.append(_case(fast, slow.fires, fired=False))  # a slow burn wakes nobody
    return _tests("slo_rules.yml", "5m", cases)


def alert_tests(alerts: Iterable[Alert], interval: str) -> dict[str, Any]:
    cases = [case for alert in alerts for case in _cases(alert)]
    return _tests("alert_rules.yml", interval, cases)


def _tests(rules: str, interval: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rule_files": [rules], "evaluation_interval": interval, "tests": cases}


def _cases(alert: Alert) -> list[dict[str, Any]]:
    cases = [_case(alert, alert.fires, fired=True)]
    if alert.quiet:
        cases.append(_case(alert, alert.quiet, fired=False))
    return cases


def _case(alert: Alert, series: Any, *, fired: bool) -> dict[str, Any]:
    expected = {
        "exp_labels": {"severity": alert.severity, **alert.labels},
        "exp_annotations": {
            name: _rendered(text, alert.labels) for name, text in annotations(alert).items()
        },
    }
    return {
        "name": f"{alert.name} {'fires' if fired else 'stays quiet'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {
                "eval_time": alert.at,
                "alertname": alert.name,
                "exp_alerts": [expected] if fired else [],
            }
        ],
    }


def _rendered(text: str, labels: Any) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: str(labels[match[1]]), text)


def documents() -> dict[Path, str]:
    """What each generated file must contain."""
    quick = [alert for alert in OTHERS if not _takes_days(alert)]
    made = {
        "slo_rules.yml": slo_rules(),
        "alert_rules.yml": alert_rules(),
        "slo_rules_test.yml": slo_tests(),
        "alert_rules_test.yml": alert_tests(quick, "2m"),
        # Evaluated rarely, for promtool evaluates all rules from the beginning of time.
        "days_rules_test.yml": alert_tests(filter(_takes_days, OTHERS), "30m"),
    }
    return {HERE / name: NOTE + json.dumps(made[name], indent=1) + "\n" for name in made}


def _takes_days(alert: Alert) -> bool:
    return alert.at.endswith("h") and int(alert.at[:-1]) > 24


def write(made: dict[Path, str], *, check: bool) -> int:
    """Writes the files, or says which of them lag; the number of those."""
    lagging = 0
    for path, text in made.items():
        if path.is_file() and path.read_text() == text:
            continue
        lagging += 1
        if check:
            print(f"{path.name} lags behind its definitions", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.name}")
    return lagging if check else 0


if __name__ == "__main__":
    raise SystemExit(min(1, write(documents(), check="--check" in sys.argv)))
