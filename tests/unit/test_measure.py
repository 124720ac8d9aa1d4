"""`vitrine measure`: what the last events count, and what an objective brings and costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from app.cli import vitrine
from app.services.evaluate_formats import read
from app.services.evaluate_splits import Split, split
from app.services.measure_recency import without_last_seconds, without_latest


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    """Each shopper walks up from where they are: only the newest event tells what comes next."""
    rng = np.random.default_rng(0)
    path = tmp_path / "walks.txt"
    starts = rng.integers(0, 40, 200).tolist()
    path.write_text("".join(f"{u} {a} {a + 1} {a + 2} {a + 3}\n" for u, a in enumerate(starts)))
    return path


def histories(made: Split) -> list[list[int]]:
    offsets = made.queries.offsets
    return [
        made.queries.items[offsets[i] : offsets[i + 1]].tolist() for i in range(len(made.queries))
    ]


def test_the_newest_events_are_left_out_and_no_others(walks: Path) -> None:
    made = split(read("sequences", [walks], {}), "leave-one-out", "test")
    before = histories(made)
    after = without_latest(made.queries, 2)
    assert len(after) == len(before)
    cut = [after.items[after.offsets[i] : after.offsets[i + 1]].tolist() for i in range(len(after))]
    assert cut == [one[2:] for one in before]
    assert len(without_latest(made.queries, 99).items) == 0
    ages = np.repeat(made.queries.at, np.diff(made.queries.offsets)) - made.queries.times
    kept = without_last_seconds(made.queries, float(np.median(ages)))
    assert len(kept.items) == int((ages >= np.median(ages)).sum()) < len(made.queries.items)


def test_recency_says_what_the_last_event_counts(walks: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        vitrine,
        [
            *("measure", "recency", str(walks), "--format", "sequences"),
            *("--protocol", "leave-one-out", "--metric", "hr@1", "--without", "1"),
            *("--strategy", 'personalized={"embedding": 0, "gaps": 1}'),
            *("--json", str(tmp_path / "out.json")),
        ],
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out.json").read_text())
    [row] = found["rows"]
    assert row["queries"] == 200
    assert found["all"]["value"] > 0.9
    assert row["lost"]["low"] > 0.5
    assert "without the last 1" in done.output


def shop(path: Path) -> Path:
    """Everybody buys cheap things often, and one dear thing seldom."""
    rng = np.random.default_rng(1)
    lines = ["order_id,user_id,item_id,time,quantity,price"]
    order = 0
    for who in range(400):
        for day in range(0, 90, 6):
            order += 1
            at = 1_700_000_000 + day * 86_400 + int(rng.integers(0, 86_400))
            bought = {int(i) for i in rng.choice(20, 3, p=CHANCES)}
            bought |= {20 + who % 10} if rng.random() < 0.02 else set()
            lines += [
                f"{order},u{who},i{item},{at},1,{100 if item >= 20 else 2}" for item in bought
            ]
    path.write_text("\n".join(lines) + "\n")
    return path


CHANCES = (1 / np.arange(1, 21)) / (1 / np.arange(1, 21)).sum()


def test_objectives_are_measured_and_the_guard_holds(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        vitrine,
        [
            *("measure", "objective", str(shop(tmp_path / "lines.csv")), "--format", "purchases"),
            *("--protocol", "next-basket", "--strategy", "popular", "--k", "5", "--days", "14"),
            *("--calibration-days", "14", "--json", str(tmp_path / "out.json")),
        ],
    )
    assert done.exit_code == 0, done.output
    rows = {one["name"]: one for one in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert rows["purchases"]["mean_price"] == pytest.approx(2)
    assert rows["revenue, +0% at most"]["price_shift"] <= 1e-6
    assert rows["revenue, +25% at most"]["price_shift"] <= 0.25 + 1e-6
    free = rows["revenue, no guard"]
    assert free["price_shift"] > 1
    assert free["dearest"] > rows["purchases"]["dearest"]
    assert free["recall"]["value"] < rows["purchases"]["recall"]["value"]
    assert "no guard" in done.output
