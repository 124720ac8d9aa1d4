"""Metrics as lines of the log in CloudWatch's embedded metric format: where the log goes to
CloudWatch, it makes metrics of them, without an agent.

Source: Amazon CloudWatch user guide, "Specification: Embedded metric format".

Labels are added up, for CloudWatch bills each combination of dimensions: the only dimension is
`ClusterName`. Counters arrive as increases since the line before (statistic Sum); gauges as the
values of all label sets (Maximum, Minimum, Sum); a histogram as the increases of its `_count` and
its `_sum`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from prometheus_client.metrics_core import Metric

from app.telemetry.metrics import Metrics
from app.telemetry.output import Output
from app.telemetry.shared_metrics import collect

NAMESPACE: Final = "Vitrine"
DIMENSION: Final = "ClusterName"
SECONDS: Final = 60.0  # the period of the alarms
MOST_VALUES: Final = 100  # of one metric, in one line
MOST_METRICS: Final = 100  # in one line


class EmbeddedMetrics:
    """
    Args:
        cluster: value of the one dimension.
        job: as Prometheus names it, a plain field of the lines.
        directory: that all workers of a server share; then one of them writes for all.
    """

    def __init__(
        self,
        metrics: Metrics,
        output: Output,
        cluster: str,
        job: str,
        directory: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._output = output
        self._fields = {DIMENSION: cluster, "job": job}
        self._directory = directory
        self._clock = clock
        self._before = self._totals(collect(metrics, directory))
        self._writing = threading.Lock()

    async def run(self) -> None:
        """Writes once a minute, and what is left when it is cancelled."""
        try:
            while True:
                await asyncio.sleep(SECONDS)
                self._metrics.fold()
                await asyncio.to_thread(self.write)
        finally:
            self._metrics.fold()
            self.write()

    def write(self) -> None:
        """One line for each hundred metrics. Takes milliseconds: call it in a thread."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        families = list(collect(self._metrics, self._directory))
        totals = self._totals(families)
        values: dict[str, Any] = {
            # Where a worker's files were lost, a total begins at nothing again.
            name: total - before if total >= (before := self._before.get(name, 0.0)) else total
            for name, total in totals.items()
        }
        self._before = totals
        for family in families:
            if family.type == "gauge" and family.samples:
                values[family.name] = _bounded(sorted(s.value for s in family.samples))
        names = sorted(values)
        for start in range(0, len(names), MOST_METRICS):
            part = names[start : start + MOST_METRICS]
            self._output.write(orjson.dumps(self._line({name: values[name] for name in part})))

    def _totals(self, families: Iterable[Metric]) -> dict[str, float]:
        """Counters and histograms, their labels added up; 0 for what was never counted, so that
        an alarm has something to look at."""
        totals = {}
        for one in self._metrics.catalogue:
            if one.type == "counter":
                totals[one.name] = 0.0
            elif one.type == "histogram":
                totals[f"{one.name}_count"] = totals[f"{one.name}_sum"] = 0.0
        for family in families:
            for sample in family.samples:
                if sample.name in totals:
                    totals[sample.name] += sample.value
        return totals

    def _line(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "_aws": {
                "Timestamp": int(self._clock() * 1000),
                "CloudWatchMetrics": [
                    {
                        "Namespace": NAMESPACE,
                        "Dimensions": [[DIMENSION]],
                        "Metrics": [{"Name": name, "Unit": _unit(name)} for name in values],
                    }
                ],
            },
            "event": "metrics",
            **self._fields,
            **values,
        }


def _unit(name: str) -> str:
    if name.endswith(("_seconds", "_seconds_sum", "_seconds_total")):
        return "Seconds"
    if name.endswith("_bytes"):
        return "Bytes"
    return "Count" if name.endswith(("_total", "_count")) else "None"


def _bounded(values: list[float]) -> list[float]:
    """Sorted values; of too many, the extremes, which alarms are about."""
    half = MOST_VALUES // 2
    return values if len(values) <= MOST_VALUES else values[:half] + values[-half:]
