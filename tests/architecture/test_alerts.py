"""Alerts: generated as defined, each with a runbook, each seen to fire and to stay quiet."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "ops/alerts"
RUNBOOKS = ROOT / "ops/runbooks"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus"
)
needs_amtool = pytest.mark.skipif(
    shutil.which("amtool") is None,
    reason="amtool is not here: apt-get install prometheus-alertmanager",
)


def run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def loaded(name: str) -> Any:
    return json.loads((ALERTS / name).read_text().partition("\n")[2])  # the first line is a note


def alerts() -> list[dict[str, Any]]:
    return [
        rule
        for name in ("slo_rules.yml", "alert_rules.yml")
        for group in loaded(name)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]


def test_what_is_generated_is_as_defined() -> None:
    run(sys.executable, "-m", "ops.alerts.generate", "--check")


def test_each_alert_has_a_severity_and_a_runbook() -> None:
    named: set[str] = set()
    for alert in alerts():
        assert alert["labels"]["severity"] in ("page", "ticket", "none"), alert["alert"]
        path = ROOT / alert["annotations"]["runbook"]
        text = path.read_text()
        assert f"`{alert['alert']}`" in text.split("\n\n")[0], f"{path.name} does not name it"
        for part in ("**Symptom.**", "**Look.**", "**Do.**", "**Wake**"):
            assert part in text, f"{path.name} lacks {part}"
        named.add(path.name)
    assert named == {path.name for path in RUNBOOKS.glob("*.md")}, "a runbook without an alert"


def test_runbooks_say_what_to_look_at_what_to_do_and_whom_to_wake() -> None:
    known = {one.name: {*one.labels, "le", "instance", "job"} for one in Metrics().catalogue}
    for path in RUNBOOKS.glob("*.md"):
        pattern = r"\*\*(Symptom|Look|Do|Wake)\.?\*\*(.*?)(?=\n\n\*\*|\Z)"
        parts = dict(re.findall(pattern, path.read_text(), re.DOTALL))
        assert set(parts) == {"Symptom", "Look", "Do", "Wake"}, path.name
        assert all(len(text.strip()) > 5 for text in parts.values()), path.name
        # A query, a command or an address: something to type.
        assert re.search(r"`[^`]{4,}`", parts["Look"]), f"{path.name}: Look names nothing to ask"
        for metric, selector in re.findall(
            r"\b(vitrine_[a-z_]+)(?:\{([^}]*(?:\{[^}]*\}[^}]*)*)\})?", parts["Look"] + parts["Do"]
        ):
            plain = re.sub(r"_(bucket|count|sum)$", "", metric)
            if plain == "vitrine_app":  # the role
                continue
            assert plain in known, f"{path.name}: {metric}"
            assert set(re.findall(r'(\w+)\s*[=!]~?"', selector)) <= known[plain], path.name


def test_runbooks_lead_somewhere() -> None:
    readme = (ROOT / "ops/README.md").read_text()
    anchors = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in readme.splitlines()
        if line.startswith("#")
    }
    for path in RUNBOOKS.glob("*.md"):
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            target, _, anchor = link.partition("#")
            assert (RUNBOOKS / target).is_file(), f"{path.name}: {link}"
            assert not anchor or anchor in anchors, f"{path.name}: {link}"


def test_each_alert_is_tested_both_ways() -> None:
    fires, quiet = set(), set()
    for name in ("slo_rules_test.yml", "alert_rules_test.yml", "days_rules_test.yml"):
        for case in loaded(name)["tests"]:
            for test in case["alert_rule_test"]:
                (fires if test["exp_alerts"] else quiet).add(test["alertname"])
    names = {alert["alert"] for alert in alerts()}
    assert fires == names
    assert quiet == names - {"VitrineWatchdog"}


@needs_promtool
@pytest.mark.parametrize("name", ["slo", "alert", "days"])
def test_alerts_fire_and_stay_quiet(name: str) -> None:
    run("promtool", "test", "rules", f"{name}_rules_test.yml", cwd=ALERTS)


@needs_promtool
def test_prometheus_takes_its_configuration() -> None:
    run("promtool", "check", "config", "prometheus.yml", cwd=ALERTS)


@needs_amtool
def test_alertmanager_takes_its_configuration() -> None:
    run("amtool", "check-config", "alertmanager.yml", cwd=ALERTS)


@needs_amtool
def test_each_alert_is_routed_by_its_severity() -> None:
    receivers = {"page": "pagerduty", "ticket": "quiet", "none": "watchdog"}
    seen = set()
    for alert in alerts():
        severity = alert["labels"]["severity"]
        if severity in seen and severity != "none":
            continue  # the routes know nothing else of an alert
        seen.add(severity)
        found = run(
            *("amtool", "config", "routes", "test", "--config.file", "alertmanager.yml"),
            *(f"alertname={alert['alert']}", f"severity={severity}", "merchant=m"),
            cwd=ALERTS,
        )
        assert found.split() == [receivers[severity]], alert["alert"]
    assert seen == set(receivers)
