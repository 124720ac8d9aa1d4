# ruff: noqa: E501
"""Writes ops/metrics.md from the code: `python -m ops.catalogue [--check]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from app.telemetry.metrics import Metrics
from ops.alerts.alerts import ALERTS
from ops.alerts.generate import write
from ops.alerts.slos import SLOS

HEAD = """# Metrics
Made by `python -m ops.catalogue` from app/telemetry/metrics.py. Do not edit.

Servers answer `/metrics` for all of their workers; `vitrine worker` at the port that `VITRINE_WORKER_METRICS` names. No label holds an item, a shopper or a raw path; a `pod` or `strategy` that a client invents becomes `other`.

| metric | type | labels | what | alerts |
|---|---|---|---|---|
"""


def text() -> str:
    rows = []
    for one in Metrics().catalogue:
        used = [
            alert.name.removeprefix("Vitrine")
            for alert in ALERTS
            if re.search(rf"\b{one.name}(_bucket|_count|_sum)?\b", alert.expr)
        ]
        used += [
            f"SLO {slo.name}"
            for slo in SLOS
            if re.search(rf"\b{one.name}(_bucket|_count|_sum)?\b", slo.bad)
        ]
        rows.append(
            f"| `{one.name}` | {one.type} | {', '.join(one.labels)} | {one.help} "
            f"| {', '.join(used)} |\n"
        )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    path = Path(__file__).with_name("metrics.md")
    raise SystemExit(min(1, write({path: text()}, check="--check" in sys.argv)))
