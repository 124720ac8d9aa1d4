"""The guide is whole: every part of the contract is in it, and its examples run."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import vitrine_sdk
from vitrine_sdk import (
    Candidates,
    Context,
    Events,
    EventType,
    Facet,
    History,
    Items,
    Model,
    Needs,
    Strategy,
    TrainingData,
    cooccurrence,
    neighbours,
    ranking,
    testing,
)
from vitrine_sdk.testing import NOW, StrategyContract, context, small_shop

GUIDE = (Path(__file__).parents[1] / "README.md").read_text()
CODE = set(re.findall(r"[A-Za-z_]+", " ".join(re.findall(r"`([^`\n]+)`", GUIDE))))


def _members(protocol: type) -> list[str]:
    return [
        name
        for name in {**protocol.__dict__, **protocol.__annotations__}
        if not name.startswith("_") and name != "register"
    ]


PARTS = sorted(
    {
        *vitrine_sdk.__all__,
        *testing.__all__,
        *(kind.name for kind in EventType),
        *(
            field.name
            for kind in (Candidates, Context, Events, Facet, History, Items, Needs, TrainingData)
            for field in dataclasses.fields(kind)
        ),
        *_members(Model),
        *_members(Strategy),
    }
)


def test_the_list_of_parts_is_not_empty() -> None:
    assert {"Strategy", "recommend", "fit", "PURCHASE", "eligible", "small_shop"} <= set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_contract_is_documented(part: str) -> None:
    assert part in CODE, f"README.md does not mention `{part}`"


@pytest.mark.parametrize("module", [ranking, neighbours, cooccurrence], ids=lambda m: m.__name__)
def test_helpers_that_the_guide_names_exist(module: Any) -> None:
    line = next(line for line in GUIDE.splitlines() if f"`{module.__name__}`" in line)
    named = re.findall(r"`([a-zA-Z_]+)`", line)
    assert named
    for name in named:
        assert hasattr(module, name), f"{module.__name__} has no {name}"


def _examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDE, re.S)


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "my_strategy"}
    exec(compile(_examples()[0], "README.md", "exec"), space)
    return space


def test_the_examples_strategy_recommends(example: dict[str, Any]) -> None:
    newest = example["Newest"]()
    config = example["NewestConfig"](days=400)
    data = small_shop()
    model = newest.load(newest.fit(data, config, 0), config, len(data.items))
    answer = model.recommend(context(), 5)
    created = data.items.created[answer.items]
    assert len(answer) == 5
    assert created[0] == data.items.created[data.items.created > NOW - 400 * 86_400].max()


def test_the_examples_test_is_the_kit(
    example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = type(testing)("my_strategy")
    module.__dict__.update(example)
    monkeypatch.setitem(__import__("sys").modules, "my_strategy", module)
    space: dict[str, Any] = {"__name__": "test_contract"}
    exec(compile(_examples()[1], "README.md", "exec"), space)
    assert issubclass(space["TestNewest"], StrategyContract)


def test_the_examples_shop_is_made() -> None:
    space: dict[str, Any] = {}
    exec(compile(_examples()[2], "README.md", "exec"), space)
    assert len(space["data"].events) == 1
