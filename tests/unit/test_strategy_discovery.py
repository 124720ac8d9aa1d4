"""Discovery of strategies: what is found, what is left out, and why."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path

import jsonschema
import pytest

from app.domain.errors import InvalidInput
from app.domain.strategy import StrategyState
from app.plugins.discovery import Strategies, discover

GOOD = """
import numpy as np
from vitrine_sdk import CONTRACT, Config, NO_CANDIDATES, Needs


class Settings(Config):
    days: int = 7


class Model:
    def recommend(self, context, limit):
        return NO_CANDIDATES


class Good:
    contract = CONTRACT
    format = 1
    reasons = ("good",)
    config = Settings

    def needs(self, config):
        return Needs()

    def fit(self, data, config, seed):
        return {}

    def load(self, arrays, config, items):
        return Model()
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution with one strategy on the path."""
    modules = []

    def put(
        source: str, *, name: str = "good", distribution: str = "acme-good", attribute: str = "Good"
    ) -> None:
        module = distribution.replace("-", "_")
        directory = tmp_path / distribution
        directory.mkdir()
        (directory / f"{module}.py").write_text(source)
        info = directory / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(
            f"[vitrine.strategies]\n{name} = {module}:{attribute}\n"
        )
        monkeypatch.syspath_prepend(directory)
        modules.append(module)

    yield put
    # Another file's test, of a module of the same name, may follow in this process.
    for module in modules:
        sys.modules.pop(module, None)


def found(tmp_path: Path) -> Strategies:
    paths = [str(path) for path in tmp_path.iterdir()]
    return discover(point for one in distributions(path=paths) for point in one.entry_points)


def test_a_good_strategy_is_ready_with_its_schema(install: Install, tmp_path: Path) -> None:
    install(GOOD)
    good = found(tmp_path).get("good")
    assert good is not None
    assert good.state is StrategyState.READY
    assert (good.version, good.distribution, good.contract) == ("1.0", "acme-good", 1)
    validator = jsonschema.Draft202012Validator(good.schema)
    assert validator.is_valid({"days": 3})
    assert not validator.is_valid({"days": "three"})


def test_its_configuration_is_checked_with_a_pointer(install: Install, tmp_path: Path) -> None:
    install(GOOD)
    good = found(tmp_path).get("good")
    assert good is not None
    assert good.configuration({}).days == 7  # type: ignore[attr-defined]  # of the test's own type
    for values, pointer in (({"days": "x"}, "/config/days"), ({"day": 1}, "/config/day")):
        with pytest.raises(InvalidInput) as caught:
            good.configuration(values)
        assert [error.field for error in caught.value.errors] == [pointer]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("import numpy", "raise ImportError('no licence')\nimport numpy"), "no licence"),
        (("import numpy", "import sys; sys.exit(3)\nimport numpy"), "SystemExit"),
        (("import numpy", "import nowhere_to_be_found\nimport numpy"), "nowhere_to_be_found"),
        (("import numpy", "import numpy as\nimport numpy"), "SyntaxError"),
        (("class Good:", "class Better:"), "AttributeError"),
        (("contract = CONTRACT", "contract = CONTRACT + 1"), "version 2 of the contract"),
        (("contract = CONTRACT", "contract = 'one'"), "`contract` must be a whole number"),
        (("format = 1", ""), "`format` must be a whole number"),
        (('("good",)', '["good"]'), "`reasons` must be a tuple"),
        (("def needs", "def wants"), "method `needs` is missing"),
        (("def fit(self, data, config, seed)", "def fit(self, data)"), "must take 3 arguments"),
        (("config = Settings", "config = dict"), "subclass of vitrine_sdk.Config"),
        (("days: int = 7", "days: int"), "needs a default"),
        (
            ("days: int = 7", "days: int = 7\n    when: np.ndarray | None = None"),
            "has no JSON Schema",
        ),
        (("format = 1", "format = 1\n    def __init__(self): 1 / 0"), "ZeroDivisionError"),
    ],
)
def test_a_broken_one_is_named_with_its_reason(
    install: Install, tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    broken_source = GOOD.replace(*change)
    assert broken_source != GOOD
    install(broken_source, name="broken", distribution="acme-broken")
    install(GOOD)
    strategies = found(tmp_path)
    broken, good = strategies.get("broken"), strategies.get("good")
    assert broken is not None
    assert good is not None
    assert broken.state is StrategyState.BROKEN
    assert broken.reason is not None
    assert reason in broken.reason
    assert broken.distribution == "acme-broken"
    with pytest.raises(InvalidInput, match="broken"):
        broken.usable()
    assert good.state is StrategyState.READY
    assert [one.name for one in strategies.broken] == ["broken"]


def test_two_distributions_of_one_name_are_both_left_out(install: Install, tmp_path: Path) -> None:
    install(GOOD, distribution="acme-one")
    install(GOOD, distribution="acme-two")
    good = found(tmp_path).get("good")
    assert good is not None
    assert good.state is StrategyState.BROKEN
    assert good.reason is not None
    assert "acme-one 1.0, acme-two 1.0" in good.reason


def test_an_entry_point_that_is_no_class_is_left_out(install: Install, tmp_path: Path) -> None:
    install(GOOD + "\nmade = Good()\n", attribute="made")
    good = found(tmp_path).get("good")
    assert good is not None
    assert good.reason == "the entry point must name a class, and names 'Good' instead"


def test_the_built_in_strategies_are_found_like_any_other() -> None:
    states = {one.name: (one.state, one.reason) for one in discover()}
    for name in ("popular", "similar", "personalized"):
        assert states[name] == (StrategyState.READY, None)
