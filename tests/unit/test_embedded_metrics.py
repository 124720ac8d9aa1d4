"""CloudWatch's embedded metric format: valid by its specification, and what the alarms ask for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from prometheus_client import Gauge

from app.telemetry import embedded_metrics
from app.telemetry.embedded_metrics import EmbeddedMetrics
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output
from ops.alerts.alerts import ALERTS

# After the JSON schema of the specification ("Embedded metric format schema"), and what its text
# says beside it: targets of dimensions and metrics are members of the root.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "properties": {
                            "Namespace": {"type": "string", "minLength": 1, "maxLength": 1024},
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "array",
                                    "minItems": 1,
                                    "maxItems": 30,
                                    "items": {"type": "string", "minLength": 1, "maxLength": 250},
                                },
                            },
                            "Metrics": {
                                "type": "array",
                                "maxItems": 100,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "properties": {
                                        "Name": {
                                            "type": "string",
                                            "minLength": 1,
                                            "maxLength": 1024,
                                        },
                                        "Unit": {"enum": ["Seconds", "Bytes", "Count", "None"]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}


def checked(line: str) -> dict[str, Any]:
    """The values of a line that keeps to the specification."""
    document: dict[str, Any] = json.loads(line)
    jsonschema.validate(document, SCHEMA)
    assert len(line) < 256_000
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    for dimensions in directive["Dimensions"]:
        assert all(isinstance(document[name], str) for name in dimensions)
    values = {}
    for metric in directive["Metrics"]:
        value = values[metric["Name"]] = document[metric["Name"]]
        for number in value if isinstance(value, list) else [value]:
            assert isinstance(number, int | float)
        assert not isinstance(value, list) or 0 < len(value) <= 100
    return values


@pytest.fixture
def lines(tmp_path: Path) -> Callable[[], list[str]]:
    path = tmp_path / "log"

    def read() -> list[str]:
        return path.read_text().splitlines()

    return read


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND))


def test_lines_are_valid_and_tell_increases(output: Output, lines: Callable[[], list[str]]) -> None:
    metrics = Metrics()
    metrics.events.labels("click", "accepted").inc(5)  # before anybody looked
    embedded = EmbeddedMetrics(metrics, output, "vitrine-staging", "vitrine", clock=lambda: 1.5)
    metrics.events.labels("click", "accepted").inc(2)
    metrics.events.labels("purchase", "accepted").inc()
    metrics.http_seconds.labels("GET", "/x").observe(0.25)
    metrics.catalogue_lag.labels("m", "Products").set(3)
    metrics.catalogue_lag.labels("m", "Other").set(70)
    embedded.write()
    embedded.write()
    first, second = map(checked, lines())
    assert first["vitrine_events_total"] == 3
    assert first["vitrine_http_request_duration_seconds_count"] == 1
    assert first["vitrine_http_request_duration_seconds_sum"] == 0.25
    assert first["vitrine_catalogue_lag_seconds"] == [3, 70]
    assert second["vitrine_events_total"] == 0
    assert second["vitrine_catalogue_lag_seconds"] == [3, 70]
    whole = json.loads(lines()[0])
    assert whole["_aws"]["Timestamp"] == 1500
    assert whole["ClusterName"] == "vitrine-staging"
    units = {m["Name"]: m["Unit"] for m in whole["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    assert units["vitrine_catalogue_lag_seconds"] == "Seconds"
    assert units["vitrine_events_total"] == "Count"
    assert units["vitrine_near_cache_bytes"] == "Bytes"


def test_each_metric_of_an_alarm_is_there_under_the_dimensions_it_asks_by(
    output: Output, lines: Callable[[], list[str]]
) -> None:
    metrics = Metrics()
    for metric in vars(metrics).values():  # what has labels is there once it has a value
        if isinstance(metric, Gauge):
            (metric.labels(*metric._labelnames) if metric._labelnames else metric).set(1)
    EmbeddedMetrics(metrics, output, "c", "vitrine").write()
    shipped: dict[str, Any] = {}
    for line in lines():
        (directive,) = json.loads(line)["_aws"]["CloudWatchMetrics"]
        for name, value in checked(line).items():
            shipped[directive["Namespace"], name] = (directive["Dimensions"], value)
    asked = [
        (alert.name, *query)
        for alert in ALERTS
        if alert.alarm is not None
        for query in alert.alarm.metrics.values()
        if query[0] == "Vitrine"
    ]
    assert len(asked) >= 8
    counters = {one.name for one in metrics.catalogue if one.type == "counter"}
    for alarm, namespace, name, dimensions, statistic in asked:
        assert (namespace, name) in shipped, f"{alarm}: {name} is not shipped"
        assert list(dimensions) in shipped[namespace, name][0], alarm
        # An increase is to be added up; of a state the worst counts.
        assert (statistic == "Sum") == (name in counters), f"{alarm}: {statistic} of {name}"


def test_many_label_sets_are_bounded_by_the_extremes(
    output: Output, lines: Callable[[], list[str]]
) -> None:
    metrics = Metrics()
    for number in range(250):
        metrics.catalogue_lag.labels(f"m{number}", "Products").set(number)
    EmbeddedMetrics(metrics, output, "c", "vitrine").write()
    values = checked(lines()[0])["vitrine_catalogue_lag_seconds"]
    assert (len(values), values[0], values[-1]) == (100, 0, 249)


async def test_it_writes_by_the_clock_and_what_is_left_at_the_end(
    output: Output, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_metrics, "SECONDS", 0.02)
    metrics = Metrics()
    running = asyncio.create_task(EmbeddedMetrics(metrics, output, "c", "vitrine").run())
    while not lines():
        await asyncio.sleep(0.01)
    metrics.postgres_unavailable.inc(7)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sum(checked(line)["vitrine_postgres_unavailable_total"] for line in lines()) == 7


def test_one_of_several_workers_writes_for_all(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from app.telemetry.metrics import Metrics
from app.telemetry.shared_metrics import share
share(Path(sys.argv[1]), int(sys.argv[2]))
metrics = Metrics()
metrics.postgres_unavailable.inc(1 + int(sys.argv[2]))
metrics.ready.set(1)
if sys.argv[2] == "0":
    from app.telemetry.embedded_metrics import EmbeddedMetrics
    from app.telemetry.output import Output
    embedded = EmbeddedMetrics(metrics, Output(), "c", "vitrine", Path(sys.argv[1]))
    embedded._before.clear()
    embedded.write()
"""
    for slot in ("1", "0"):
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path, slot],
            capture_output=True,
            text=True,
            check=True,
        )
    (line,) = done.stdout.splitlines()
    values = checked(line)
    assert values["vitrine_postgres_unavailable_total"] == 3
    assert values["vitrine_workers_ready"] in ([1], [2])
