"""Dashboards: generated from code, each query understood by Prometheus, each metric and label of it
in a running server's /metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.metrics import Metrics
from tests.whole_service import whole_service

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = sorted((ROOT / "ops/dashboards").glob("*.json"))
TARGET_LABELS = {"instance", "job", "le"}  # that Prometheus adds, or a histogram has


def queries() -> list[tuple[str, str]]:
    """Every query, with its place."""
    return [
        (f"{path.stem}: {panel['title']}", target["expr"])
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", ())
    ]


def plain(query: str) -> str:
    """As Grafana sends it."""
    return query.replace("$__rate_interval", "5m").replace("$merchant", ".+")


def asked(query: str) -> dict[str, set[str]]:
    """The labels that a query names, by metric; grouping counts for all of its metrics."""
    grouped: set[str] = set()
    for names in re.findall(r"\b(?:by|on|ignoring|without) \(([^)]*)\)", query):
        grouped |= {name.strip() for name in names.split(",")}
    metrics: dict[str, set[str]] = {}
    for metric, selector in re.findall(r"\b(vitrine[_:][a-z0-9_:]+)(?:\{([^}]*)\})?", query):
        labels = metrics.setdefault(metric, set())
        labels |= set(re.findall(r'(\w+)\s*[=!]~?"', selector)) | grouped
    return metrics


def test_there_is_a_dashboard_for_each_concern() -> None:
    names = {path.stem.removeprefix("vitrine-") for path in DASHBOARDS}
    assert names == {
        *("service", "strategies", "freshness", "business", "infrastructure", "slos"),
    }
    assert len(queries()) > 60


def test_dashboards_are_as_generated() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk: make ops-check")
    done = subprocess.run(
        [sys.executable, "-m", "ops.dashboards.generate", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_prometheus_understands_each_query(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    rules = [
        {"record": f"dashboard:query_{number}", "expr": plain(query)}
        for number, (_, query) in enumerate(queries())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


async def test_each_metric_and_label_is_in_a_running_servers_metrics(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        whole_service(database_url, redis_url, tmp_path) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        async with http.get(f"{url}/recommendations/v1/pods/none?key=none&i=c&s=1") as response:
            assert response.status < 500
        async with http.get(f"{url}/metrics") as response:
            text = await response.text()
    served = set(re.findall(r"^# TYPE (\S+) \w+$", text, re.MULTILINE))
    labels = {one.name: set(one.labels) for one in Metrics().catalogue}
    for family in text_string_to_metric_families(text):  # the catalogue is what the server says
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                assert set(sample.labels) - {"le"} == labels[_base(sample.name)], sample.name
    recorded = {
        rule["record"]
        for name in ("slo_rules.yml", "alert_rules.yml")
        for rule in json.loads((ROOT / "ops/alerts" / name).read_text().partition("\n")[2])[
            "groups"
        ][0]["rules"]
        if "record" in rule
    }
    for place, query in queries():
        metrics = asked(query)
        assert metrics or "(up)" in query, f"{place} asks for nothing of ours"
        known = set().union(*(labels.get(_base(m), {"slo"}) for m in metrics), TARGET_LABELS)
        for metric, named in metrics.items():
            if ":" in metric:
                assert metric in recorded, f"{place}: {metric}"
                continue
            assert _base(metric) in served, f"{place}: {metric} is not served"
            own = set(re.findall(rf"{metric}\{{([^}}]*)\}}", query))
            inner = {name for text in own for name in re.findall(r'(\w+)\s*[=!]~?"', text)}
            assert inner <= labels[_base(metric)] | TARGET_LABELS, f"{place}: {metric} {inner}"
            assert named <= known, f"{place}: {named - known}"


def _base(metric: str) -> str:
    return re.sub(r"(_seconds)_(bucket|count|sum)$", r"\1", metric)
