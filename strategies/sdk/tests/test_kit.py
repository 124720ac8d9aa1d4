"""The kit catches what it is there to catch: each broken strategy by the test of its rule."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import pytest

from vitrine_sdk.testing import StrategyContract

HERE = Path(__file__).parent
BROKEN = HERE / "broken_strategies.py"


def _breaks() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("broken_strategies", BROKEN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return {kind.__name__: test for kind, test in module.BREAKS.items()}


BREAKS = _breaks()
RULES = {name for name in dir(StrategyContract) if name.startswith("test_")}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What the kit found: a strategy's name to the tests that failed on it. The sound one gets
    every test, a broken one that of its rule."""
    report = tmp_path_factory.mktemp("kit") / "report.xml"
    wanted = " or ".join(
        ["TestSound", *(f"(Test{name} and {rule})" for name, rule in BREAKS.items())]
    )
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:aiohttp",
            "-c",
            "/dev/null",
            f"--rootdir={HERE}",
            f"--junitxml={report}",
            "-k",
            wanted,
            str(BROKEN),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,
    )
    assert ran.returncode == 1, ran.stdout[-3000:] + ran.stderr[-3000:]
    found: dict[str, set[str]] = defaultdict(set)
    seen: set[str] = set()
    for case in ET.parse(report).iter("testcase"):
        name = case.attrib["classname"].rpartition(".")[2].removeprefix("Test")
        seen.add(name)
        if case.find("failure") is not None or case.find("error") is not None:
            found[name].add(case.attrib["name"])
    assert seen == {"Sound", *BREAKS}
    return found


def test_a_sound_strategy_passes(failed: dict[str, set[str]]) -> None:
    assert failed["Sound"] == set()


@pytest.mark.parametrize(("strategy", "rule"), BREAKS.items())
def test_a_broken_strategy_is_caught_by_its_rule(
    failed: dict[str, set[str]], strategy: str, rule: str
) -> None:
    assert rule in failed[strategy]


def test_every_rule_has_a_strategy_that_breaks_it() -> None:
    assert set(BREAKS.values()) == RULES
