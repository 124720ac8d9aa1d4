"""Metrics of several processes, and how they are read.

Each worker writes its values into memory-mapped files named by its **slot** (its place among the
workers, not its process id), and a scrape that any worker answers adds up all files. A worker that
replaces a dead one carries on in the dead one's files, so that counters never fall and files never
pile up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest, multiprocess, values
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.telemetry.metrics import Metrics

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


def share(directory: Path, slot: int) -> None:
    """Write this process' metrics into files of `directory` from now on, as worker `slot`.

    Call it before `Metrics` is made. What the slot's former holder counted is carried on; its
    gauges of a live process are forgotten.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    forget(directory, slot)
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def forget(directory: Path, slot: int) -> None:
    """Take the gauges of a worker that has ended out of the sum."""
    for path in directory.glob(f"gauge_live*_{slot}.db"):
        path.unlink(missing_ok=True)


def render(metrics: Metrics, directory: Path | None = None) -> bytes:
    """All values in Prometheus' text format: of all workers that share `directory`, or of this
    process. Takes milliseconds: call it in a thread."""
    return generate_latest(_registry(metrics, directory))


def collect(metrics: Metrics, directory: Path | None = None) -> Iterable[Metric]:
    """The same as values."""
    return _registry(metrics, directory).collect()


def _registry(metrics: Metrics, directory: Path | None) -> CollectorRegistry:
    if directory is None:
        return metrics.registry
    metrics.fold()
    registry = CollectorRegistry()
    registry.register(_Shared(directory))
    return registry


class _Shared(Collector):
    """The values of all workers. A file that one of them is just making is not looked into: it is
    empty for a moment, which prometheus_client takes for a broken one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in self._directory.glob("*.db") if _size(path)]
        merged: Iterable[Metric] = multiprocess.MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # its worker ended
        return 0
