"""The catalogue of metrics is as the code has it, by Prometheus' rules, and what alerts ask is
there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from app.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
UNITS = ("_seconds", "_bytes", "_total", "_info")
UNBOUNDED = {"item", "item_id", "shopper", "client", "user", "path", "url", "key", "term"}


def test_the_catalogue_does_not_lag() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops.catalogue", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_names_follow_the_rules() -> None:
    for one in Metrics().catalogue:
        assert re.fullmatch(r"vitrine_[a-z_]+", one.name), one
        assert (one.type == "counter") == one.name.endswith("_total"), one
        assert one.type != "histogram" or one.name.endswith("_seconds"), one
        assert one.help.endswith("."), one
        # `client` of the Redis calls is one of two.
        unbounded = UNBOUNDED & set(one.labels)
        assert not unbounded or one.name.startswith("vitrine_redis_"), one


def test_alerts_ask_for_metrics_and_labels_that_there_are() -> None:
    known = {one.name: {*one.labels, "le", "instance", "job"} for one in Metrics().catalogue}
    for name in ("slo_rules.yml", "alert_rules.yml"):
        rules = json.loads((ROOT / "ops/alerts" / name).read_text().partition("\n")[2])
        for rule in rules["groups"][0]["rules"]:
            asked = re.findall(r"\b(vitrine_[a-z_]+)(?:\{([^}]*)\})?", rule["expr"])
            for metric, selector in asked:
                plain = re.sub(r"_(bucket|count|sum)$", "", metric)
                assert plain in known, f"{rule}: {metric}"
                labels = set(re.findall(r"(\w+)\s*[=!]~?\"", selector))
                assert labels <= known[plain], f"{rule}: {labels - known[plain]}"
