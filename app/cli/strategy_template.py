"""The beginning of a strategy of one's own: a distribution that passes the conformance kit."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template
from typing import Final

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")


class TemplateError(Exception):
    """The distribution cannot be made; the message says why."""


def write(name: str, parent: Path) -> Path:
    """Write the distribution; its directory.

    Args:
        name: the strategy's name: lower-case words, joined by - or _.

    Raises:
        TemplateError: the name is none, or the directory is there already.
    """
    if not _NAME.fullmatch(name) or len(name) > 50:
        raise TemplateError(
            f"{name!r} cannot be a strategy's name: take lower-case letters and digits, joined by -"
        )
    distribution = name.replace("_", "-")
    module = name.replace("-", "_")
    if keyword.iskeyword(module):
        module += "_strategy"
    class_name = "".join(word.capitalize() for word in distribution.split("-"))
    directory = parent / distribution
    words = {
        "distribution": distribution,
        "module": module,
        "strategy": distribution.replace("-", "_"),
        "class_name": class_name,
    }
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        raise TemplateError(f"{directory} is there already") from None
    for path, text in _FILES.items():
        file = directory / Template(path).substitute(words)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(text).substitute(words), encoding="utf-8")
    return directory


_PYPROJECT: Final = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$distribution"
version = "0.1.0"
description = "A recommendation strategy for Vitrine"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["vitrine-sdk", "numpy>=2.2", "msgspec>=0.21"]

[project.optional-dependencies]
test = ["vitrine-sdk[testing]"]

[project.entry-points."vitrine.strategies"]
$strategy = "$module:$class_name"

[tool.setuptools.packages.find]
where = ["src"]

[tool.setuptools.package-data]
$module = ["py.typed"]
"""

_README: Final = """\
# $distribution
A recommendation strategy for Vitrine.

    pip install -e '.[test]'    # beside the server, too
    pytest                      # the conformance kit
    vitrine strategies list     # there it is

Then make a strategy configuration of it (`POST /admin/v1/strategy-configurations`), train it
(`vitrine train`), and name it in a pod's chain. How it is written: the README of vitrine-sdk.
"""

_MODULE: Final = '''\
"""What sold most lately: a start, to be made into something of your own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from vitrine_sdk import (
    CONTRACT,
    Arrays,
    Candidates,
    Config,
    Context,
    EventType,
    FloatArray,
    IntArray,
    Model,
    Needs,
    TrainingData,
)
from vitrine_sdk.neighbours import checked
from vitrine_sdk.ranking import first_eligible


class ${class_name}Config(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 90
    """How far back events count."""


@dataclass(frozen=True, slots=True, eq=False)
class ${class_name}Model:
    order: IntArray  # positions of items, best first
    scores: FloatArray

    def recommend(self, context: Context, limit: int) -> Candidates:
        chosen = first_eligible(self.order, context.eligible, limit)
        reasons = np.zeros(len(chosen), np.uint8)
        return Candidates(self.order[chosen], self.scores[chosen], reasons)


class $class_name:
    contract = CONTRACT
    format = 1  # raise it when the meaning of the arrays changes
    reasons = ("sold_lately",)

    @property
    def config(self) -> type[${class_name}Config]:
        return ${class_name}Config

    def needs(self, config: ${class_name}Config) -> Needs:
        return Needs(eligible=True)

    def fit(self, data: TrainingData, config: ${class_name}Config, seed: int) -> Arrays:
        events = data.events
        counted = (
            (events.type == EventType.PURCHASE)
            & (events.item >= 0)
            & (events.time > data.now - config.days * 86_400)
        )
        sold = np.bincount(
            events.item[counted], weights=events.quantity[counted], minlength=len(data.items)
        )
        order = np.argsort(-sold, kind="stable")
        order = order[sold[order] > 0]
        return {"order": order.astype(np.int32), "scores": sold[order].astype(np.float32)}

    def load(self, arrays: Arrays, config: ${class_name}Config, items: int) -> Model:
        size = len(arrays["order"]) if "order" in arrays else 0
        return ${class_name}Model(
            checked(arrays, "order", np.int32, size), checked(arrays, "scores", np.float32, size)
        )
'''

_TEST: Final = '''\
"""The conformance kit of vitrine-sdk, and room for your own tests."""

from __future__ import annotations

import pytest
from vitrine_sdk.testing import StrategyContract

from $module import $class_name


class Test$class_name(StrategyContract):
    @pytest.fixture
    def strategy(self) -> $class_name:
        return $class_name()
'''

_FILES: Final = {
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    "src/$module/__init__.py": _MODULE,
    "src/$module/py.typed": "",
    "tests/test_${module}_contract.py": _TEST,
}
