"""`.vitrine/stability.json`, and a page with a plot a scenario."""

from __future__ import annotations

import html
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ops.stability.load import Sample, percentile, slow
from ops.stability.scene import Result

_ALWAYS = ("requests", "failed", "degraded", "acknowledged", "found", "twice", "recovery_s")
_WIDTH, _HEIGHT, _LEFT = 720, 160, 50
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:860px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:right;
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}.failed{color:#b00020}
.passed{color:#186a3b}figure{margin:1rem 0}figcaption,dl{color:#555;font-size:13px}
"""


def document(results: Sequence[Result], about: dict[str, Any]) -> dict[str, Any]:
    return {
        **about,
        "scenarios": [
            {
                "name": result.name,
                **{name: result.figures.get(name, 0) for name in _ALWAYS},
                "verdict": result.verdict,
                "wrong": result.wrong,
                "began": round(result.record.began, 3),
                "marks": {name: round(at, 2) for name, at in result.marks.items()},
                "slow": slow(result.record),
                "generator_stood_still": [
                    {"at": round(at, 2), "ms": round(late * 1000)}
                    for at, late in result.record.lags
                ],
                "figures": {n: v for n, v in result.figures.items() if n not in _ALWAYS},
            }
            for result in results
        ],
    }


def write(folder: Path, results: Sequence[Result], about: dict[str, Any]) -> Path:
    """Both files; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    found = document(results, about)
    (folder / "stability.json").write_text(json.dumps(found, indent=1) + "\n")
    page = folder / "stability.html"
    page.write_text(_page(results, about))
    return page


def _page(results: Sequence[Result], about: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><a href='#{r.name}'>{r.name}</a></td>"
        + "".join(f"<td>{r.figures.get(name, '')}</td>" for name in _ALWAYS)
        + f"<td class={r.verdict}>{r.verdict}</td></tr>"
        for r in results
    )
    parts = "".join(_part(result) for result in results)
    heads = "".join(f"<th>{name}</th>" for name in ("scenario", *_ALWAYS, "verdict"))
    facts = html.escape(", ".join(f"{name} {value}" for name, value in about.items()))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Stability</title>"
        f"<style>{_STYLE}</style><h1>Stability</h1><p>{facts}</p>"
        f"<table><tr>{heads}</tr>{rows}</table>{parts}</html>\n"
    )


def _part(result: Result) -> str:
    more = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in result.figures.items()
    )
    wrong = "".join(f"<li class=failed>{html.escape(one)}</li>" for one in result.wrong)
    return (
        f"<h2 id='{result.name}'>{result.name}: <span class={result.verdict}>{result.verdict}"
        f"</span></h2><ul>{wrong}</ul>{_plot(result)}<table>{more}</table>"
    )


def _plot(result: Result) -> str:
    """p99 a second of what was answered (line), what was not answered (bars), the fault (grey)."""
    asked = result.record.of("recommend")
    if not asked:
        return ""
    seconds: dict[int, list[Sample]] = defaultdict(list)
    for sample in asked:
        seconds[int(sample.at)].append(sample)
    last = max(seconds) + 1
    tails = {s: percentile([x for x in of if x.status == 200], 0.99) for s, of in seconds.items()}
    most = max([20.0, *(tail for tail in tails.values() if tail is not None)])
    many = max(len(of) for of in seconds.values())

    def x(at: float) -> float:
        return round(_LEFT + at / last * (_WIDTH - _LEFT), 1)

    def y(value: float, top: float) -> float:
        return round(_HEIGHT - 20 - value / top * (_HEIGHT - 30), 1)

    shapes = []
    if "mended" in result.marks:
        start, end = x(result.marks["fault"]), x(result.marks["mended"])
        shapes.append(
            f"<rect x={start} y=10 width={end - start:.1f} height={_HEIGHT - 30} fill=#eee />"
        )
    for second, of in seconds.items():
        for colour, count in (
            ("#e0a800", sum(s.degraded for s in of)),
            ("#7a7a7a", sum(s.status == 503 for s in of)),
            ("#b00020", sum(s.status not in (200, 503) for s in of)),
        ):
            if count:
                top = y(count, many)
                shapes.append(
                    f"<rect x={x(second)} y={top} width={max(1.0, x(1) - x(0)):.1f}"
                    f" height={_HEIGHT - 20 - top:.1f} fill={colour} fill-opacity=.5 />"
                )
    line = " ".join(
        f"{x(second + 0.5)},{y(tail, most)}"
        for second, tail in sorted(tails.items())
        if tail is not None
    )
    return (
        f"<figure><svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='{result.name}'>"
        f"{''.join(shapes)}<polyline points='{line}' fill=none stroke=#1f4e9c stroke-width=1.5 />"
        f"<text x=0 y=16 font-size=11>{most:.0f} ms</text>"
        f"<text x=0 y={_HEIGHT - 20} font-size=11>0</text>"
        f"<text x={_LEFT} y={_HEIGHT - 4} font-size=11>0 s</text>"
        f"<text x={_WIDTH - 40} y={_HEIGHT - 4} font-size=11>{last} s</text></svg>"
        "<figcaption>Blue: p99 of answers, timed from when they were meant to be sent. Bars, of "
        f"{many} a second: degraded (yellow), refused (grey), failed (red). Grey ground: the fault."
        "</figcaption></figure>"
    )
