"""A built-in strategy has nothing that anybody else's could not have."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"faiss_cpu": "faiss"}  # of distributions that are called otherwise
DISTRIBUTIONS = sorted(path.parent for path in ROOT.glob("strategies/*/pyproject.toml"))


def imported(source: Path) -> set[str]:
    """Top-level names of the modules that a distribution's code imports."""
    found = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda path: path.name)
def test_it_imports_what_it_declares(distribution: Path) -> None:
    project = tomllib.loads((distribution / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in project.get("optional-dependencies", {}).values():
        wanted += extra
    declared = {one.partition(">")[0].partition("[")[0].strip().replace("-", "_") for one in wanted}
    declared = {MODULES.get(name, name) for name in declared}
    own = {path.name for path in (distribution / "src").iterdir() if path.is_dir()}
    assert imported(distribution / "src") - own - declared == set()
