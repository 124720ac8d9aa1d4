"""What the integration tests share beside tests/conftest.py."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[1] / "fixtures_plugins"


@pytest.fixture(scope="session")
def third_party_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strategies from outside the repository's `app` and `strategies`, installed by pip into a
    directory of their own: newest, broken (raises at import), crashing."""
    base = tmp_path_factory.mktemp("third-party")
    sources = shutil.copytree(PLUGINS, base / "sources")
    target = base / "installed"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--target", target),
            *sorted(path.parent for path in sources.glob("*/pyproject.toml")),
        ],
        check=True,
    )
    return target


@pytest.fixture
def third_party_strategies(
    third_party_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Those strategies, installed for this process and its children."""
    monkeypatch.syspath_prepend(third_party_directory)
    path = os.pathsep.join(filter(None, [str(third_party_directory), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    importlib.invalidate_caches()
    yield third_party_directory
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[name]
