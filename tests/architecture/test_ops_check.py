"""`make ops-check` fails on any finding, and says what it skipped and why."""

from __future__ import annotations

import sys

import pytest

from ops import check
from ops.check import Check, main

GOOD = Check("good", (sys.executable, "-c", ""))
BAD = Check("bad", (sys.executable, "-c", "print('line 7 is wrong'); raise SystemExit(3)"))
NO_PROGRAM = Check("no program", ("nowhere",), "nowhere", otherwise="apt-get install nowhere")
NO_NEED = Check(
    "no need", (sys.executable, "-c", "raise SystemExit(1)"), needs=(sys.executable, "-c", "1 / 0")
)


def run(monkeypatch: pytest.MonkeyPatch, *checks: Check, words: tuple[str, ...] = ()) -> int:
    monkeypatch.setattr(check, "CHECKS", checks)
    return main(words)


def test_any_finding_fails_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, GOOD, BAD, GOOD) == 1
    said = capsys.readouterr().out
    assert "FOUND    bad\nline 7 is wrong" in said
    assert "2 ok, 1 with findings, 0 skipped" in said


def test_what_is_skipped_is_said_and_no_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, GOOD, NO_PROGRAM, NO_NEED) == 0
    said = capsys.readouterr().out
    assert "skipped  no program: nowhere cannot be had here; apt-get install nowhere" in said
    assert "skipped  no need: " in said
    assert "1 ok, 0 with findings, 2 skipped" in said


def test_words_choose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, GOOD, BAD, words=("Good",)) == 0
    assert "1 ok, 0 with findings, 0 skipped" in capsys.readouterr().out


def test_what_it_runs_is_there() -> None:
    for path in check.TESTS:
        assert (check.ROOT / path).is_file(), path
    assert len({one.name for one in check.CHECKS}) == len(check.CHECKS)
