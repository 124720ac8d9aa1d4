"""An evaluation as a table for people, JSON for machines, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.domain.errors import Unavailable
from app.domain.metrics import Comparison
from app.services.evaluate import Measured


def table(measured: Sequence[Measured], shown: Sequence[str]) -> str:
    """A row a metric, a column a run; the interval in brackets."""
    heads = ["metric", *(one.run.name for one in measured)]
    rows = [
        [name, *(_cell(one, name) for one in measured)]
        for name in shown
        if any(name in one.estimates for one in measured)
    ]
    rows.append(["fit, s", *(f"{one.run.fit_seconds:.1f}" for one in measured)])
    rows.append(["fit, CPU s", *(f"{one.run.fit_cpu_seconds:.1f}" for one in measured)])
    rows.append(["peak, MiB", *(f"{one.run.peak_mib:.0f}" for one in measured)])
    rows.append(["artefact, MiB", *(f"{one.run.artefact_mib:.1f}" for one in measured)])
    for name, clock in (("recommend, µs", ""), ("recommend, CPU µs", "cpu_")):
        spent = [getattr(one.run, f"recommend_{clock}microseconds") for one in measured]
        rows.append([name, *(f"{value:.0f}" for value in spent)])
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in [heads, ["-" * w for w in widths], *rows]
    ]
    return "\n".join(lines)


def comparison(one: str, other: str, metric: str, found: Comparison) -> str:
    """One line in words."""
    gap = found.difference
    sure = "differ" if gap.low > 0 or gap.high < 0 else "do not differ surely"
    return (
        f"{metric}: {one} - {other} = {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], "
        f"p = {found.p_value:.3f}: they {sure}"
    )


def as_json(measured: Sequence[Measured], about: Mapping[str, Any]) -> dict[str, Any]:
    """`about`: what was evaluated (data, protocol, split, seed)."""
    return {
        **about,
        "runs": [
            {
                "name": one.run.name,
                "metrics": {name: asdict(value) for name, value in one.estimates.items()},
                "fit_seconds": one.run.fit_seconds,
                "fit_cpu_seconds": one.run.fit_cpu_seconds,
                "peak_mib": one.run.peak_mib,
                "artefact_mib": one.run.artefact_mib,
                "recommend_microseconds": one.run.recommend_microseconds,
                "recommend_cpu_microseconds": one.run.recommend_cpu_microseconds,
            }
            for one in measured
        ],
    }


def plot(measured: Sequence[Measured], shown: Sequence[str], path: Path) -> None:
    """Bars with intervals, a panel a metric, as PNG.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise Unavailable(
            "the plot needs matplotlib: pip install 'vitrine[evaluate]', or leave --plot out"
        ) from None
    shown = [name for name in shown if all(name in one.estimates for one in measured)]
    figure = Figure(figsize=(3 * len(shown), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        found = [one.estimates[name] for one in measured]
        axes.bar(
            [one.run.name for one in measured],
            [value.value for value in found],
            yerr=[[v.value - v.low for v in found], [v.high - v.value for v in found]],
            capsize=3,
        )
        axes.set_title(name)
        axes.tick_params(axis="x", rotation=60)
    figure.savefig(path, format="png", dpi=120)


def _cell(one: Measured, name: str) -> str:
    found = one.estimates.get(name)
    if found is None:
        return "-"
    if found.low == found.high:
        return f"{found.value:.4f}"
    return f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
