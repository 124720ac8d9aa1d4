"""`vitrine strategies new`: what it writes passes the conformance kit, the linter and the types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.strategy_template import TemplateError, write


def test_a_new_strategy_passes_the_kit_at_once(tmp_path: Path) -> None:
    made = write("last-minute", tmp_path)
    target = tmp_path / "installed"
    tool = [sys.executable, "-m"]
    subprocess.run(
        [
            *(*tool, "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--target", target, made),
        ],
        check=True,
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    kit = subprocess.run(
        [*tool, "pytest", "-q", "-p", "no:cacheprovider", made / "tests"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert kit.returncode == 0, kit.stdout + kit.stderr
    assert " passed" in kit.stdout
    listed = subprocess.run(
        [Path(sys.executable).with_name("vitrine"), "strategies", "list"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = [line for line in listed.splitlines() if line.startswith("last_minute")]
    assert line.split() == ["last_minute", "0.1.0", "last-minute", "ready"]


@pytest.mark.slow
def test_a_new_strategy_is_formatted_and_typed(tmp_path: Path) -> None:
    made = write("last-minute", tmp_path)
    tool = [sys.executable, "-m"]
    alone = ("--isolated", "--line-length", "100", "--no-cache")
    for command in (
        [*tool, "ruff", "check", *alone, "--select", "B,E,F,I,RUF,UP", made],
        [*tool, "ruff", "format", "--check", *alone, made],
        [*tool, "mypy", "--strict", "--no-incremental", made / "src"],
    ):
        found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=made)
        assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("name", ["", "Big", "1st", "a b", "../up", "-x", "x-", "é", "x" * 51])
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TemplateError, match="cannot be a strategy's name"):
        write(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write("mine", tmp_path)
    with pytest.raises(TemplateError, match="there already"):
        write("mine", tmp_path)
