"""The house rules that programs can hold: formatting, lint, types, layers, the tree itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = sorted(path.parent for path in ROOT.glob("strategies/*/pyproject.toml"))


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", ".")


def test_the_code_is_formatted() -> None:
    run("ruff", "format", "--check", ".")


def test_mypy_is_strict_about_the_server() -> None:
    run("mypy", "--strict", "-p", "app")


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda path: path.name)
def test_mypy_is_strict_about_each_strategy(distribution: Path) -> None:
    run("mypy", "--strict", str(distribution / "src"))


def test_imports_point_downward() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_level_is_the_agreed_one() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    top = {path.split("/")[0] for path in listed if not path.startswith(".")}
    assert top <= {
        "app",
        "strategies",
        "migrations",
        "tests",
        "ops",
        "alembic.ini",
        "pyproject.toml",
        "README.md",
        "Makefile",
        "LICENSE",
    }
