"""Tuning: bounded, seeded, resumable, and checked against the strategy's own schema."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from app.cli.tune import tune_command
from app.domain.errors import InvalidInput
from app.plugins.discovery import discover
from app.services.tune import ranges


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each shopper walks up from where they are: only the order tells what comes next."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("tune") / "walks.txt"
    starts = rng.integers(0, 40, 300).tolist()
    path.write_text(
        "".join(f"{u} {a} {a + 1} {a + 2} {a + 3} {a + 4}\n" for u, a in enumerate(starts))
    )
    return path


def _run(walks: Path, *more: str) -> list[str]:
    made = CliRunner().invoke(
        tune_command(discover),
        [
            str(walks),
            *("--format", "sequences", "--protocol", "leave-one-out", "--metric", "hr@1"),
            *("--strategy", "personalized", "--config", '{"embedding": 0}', "--exclude-seen"),
            *("--space", "backward=0.0:1.0", "--space", "gaps=1:4", "--space", "damping=0.0|0.4"),
            *more,
        ],
    )
    assert made.exit_code == 0, made.output
    return made.output.splitlines()


def test_it_is_bounded_seeded_and_keeps_the_best(walks: Path) -> None:
    lines = _run(walks, "--trials", "5")
    assert len(lines) == 6
    values = [float(line.split()[2]) for line in lines[:-1]]
    best = json.loads(lines[-1])
    assert best["value"] == pytest.approx(max(values), abs=1e-4)
    assert best["config"]["embedding"] == 0
    assert _run(walks, "--trials", "5") == lines


def test_it_goes_on_from_where_it_was(walks: Path, tmp_path: Path) -> None:
    journal = ("--journal", str(tmp_path / "trials.log"))
    first = _run(walks, "--trials", "2", *journal)
    then = _run(walks, "--trials", "4", *journal)
    assert [line.split(":")[0] for line in first[:-1]] == ["0", "1"]
    assert [line.split(":")[0] for line in then[:-1]] == ["2", "3"]
    assert json.loads(then[-1])["value"] >= json.loads(first[-1])["value"]


@pytest.mark.parametrize(
    "wrong", ["nothing=1:2", "gaps", "gaps=0:4", "gaps=a:b", "recency=0.5:3.0", 'gaps="x"|2']
)
def test_a_space_that_the_schema_refuses(wrong: str) -> None:
    found = discover().get("personalized")
    assert found is not None
    with pytest.raises(InvalidInput, match="space"):
        ranges([wrong], found.usable().config)
