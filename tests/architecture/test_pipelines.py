"""Pipelines are thin: they call make targets that exist, and the image installs as make does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = [*sorted((ROOT / ".github/workflows").glob("*.yml")), ROOT / "ops/deploy/Jenkinsfile"]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def called(text: str) -> set[str]:
    """The targets of every `make` command."""
    found: set[str] = set()
    for arguments in re.findall(r"\bmake ([^'\"\n|;&}]+)", text):
        found |= {word for word in arguments.split() if "=" not in word}
    return found


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_every_target_that_a_pipeline_calls_exists(path: Path) -> None:
    text = re.sub(r"^\s*(#|//).*$", "", path.read_text(), flags=re.MULTILINE)
    targets = called(text)
    assert targets, "a pipeline that calls nothing"
    assert targets <= TARGETS, targets - TARGETS


@pytest.mark.parametrize("path", PIPELINES[:-1], ids=lambda path: path.name)
def test_workflows_do_nothing_by_themselves(path: Path) -> None:
    for line in re.findall(r"run: (.*)", path.read_text()):
        assert line.startswith(("make ", "sudo apt-get update && sudo apt-get install ")), line
    for action in re.findall(r"uses: (\S+)", path.read_text()):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{action} is not pinned"


def test_all_stages_are_there() -> None:
    everything = set().union(*(called(path.read_text()) for path in PIPELINES))
    wanted = {"lint", "test", "test-full", "migrate-check", "ops-check", "image", "push", "deploy"}
    others = {"smoke", "rollback", "sbom", "release-notes", "stability", "bench-check"}
    assert wanted | others <= everything
    assert wanted <= called((ROOT / "ops/deploy/Jenkinsfile").read_text())


def test_each_target_is_phony_and_explained() -> None:
    phony = set(" ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)).split())
    assert phony == TARGETS
    for target in TARGETS:
        assert re.search(rf"^{target}:.*## \S", MAKEFILE, re.MULTILINE), target


def test_the_image_is_pinned_small_and_not_root() -> None:
    text = (ROOT / "ops/deploy/Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"python:${PYTHON}"}
    assert "--constraint ops/constraints/python.txt" in text
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert text.index("USER 10001") < text.index("ENTRYPOINT")
    assert "embedded" not in text.split("FROM")[1].partition("pip install")[2].partition("\n")[0]
    assert "latest" not in text
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path


def test_what_the_image_copies_is_not_ignored() -> None:
    kept = (ROOT / "ops/deploy/Dockerfile.dockerignore").read_text().split()
    text = (ROOT / "ops/deploy/Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert any(path == k[1:] or path.startswith(f"{k[1:]}/") for k in kept if k[0] == "!")


def test_release_notes_are_a_part_of_the_changelog() -> None:
    script = ROOT / "ops/deploy/release_notes.py"
    done = subprocess.run(
        [sys.executable, script, "Unreleased"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("- ")
    missing = subprocess.run(
        [sys.executable, script, "v99.0.0"], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1
    assert "99.0.0" in missing.stderr
