"""Tuning: what is searched, that it goes on where it was, and that it finds what is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import optuna
import pytest
from click.testing import CliRunner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from app.cli import vitrine
from app.domain.errors import InvalidInput
from app.domain.strategy import InstalledStrategy, StrategyState
from app.services.evaluate_formats import read
from app.services.evaluate_splits import Split, split
from app.services.tuning import Bounds, Tuned, halves, tune
from app.services.tuning_space import space, stated
from vitrine_sdk import Arrays, Candidates, Config, Context, Needs, TrainingData


def hinted(**hint: Any) -> msgspec.Meta:
    return msgspec.Meta(extra_json_schema={"x-tune": hint})


class Knobs(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.25
    weight: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 2.0
    off: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    count: Annotated[int, msgspec.Meta(ge=1, le=50)] = 6
    many: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 40
    free: float = 3.0
    near: Annotated[float, hinted(low=1, high=2)] = 1.5
    left: Annotated[int, msgspec.Meta(ge=1, le=9, extra_json_schema={"x-tune": False})] = 3
    size: Annotated[int, hinted(choices=[32, 64])] = 32
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    maybe: float | None = None
    text: str = ""


def test_the_space_comes_from_types_bounds_and_hints() -> None:
    found = {one.name: one for one in space(Knobs())}
    assert set(found) == {"share", "weight", "off", "count", "many", "free", "near", "size"}
    ranges = {name: (one.low, one.high, one.log) for name, one in found.items()}
    assert ranges["share"] == (0, 1, False)
    assert ranges["weight"] == (0.2, 20.0, True)
    assert ranges["off"] == (0, 10, False)
    assert ranges["count"] == (1, 50, False)
    assert ranges["many"] == (4, 400, True)
    assert ranges["free"] == pytest.approx((0.3, 30.0, True))
    assert ranges["near"] == (1, 2, False)
    assert found["size"].choices == (32, 64)


def test_every_value_of_a_space_is_valid() -> None:
    rng = np.random.default_rng(0)
    for start in (Knobs(), Knobs(weight=1000, many=1, share=0)):
        for one in space(start, only=[*(d.name for d in space(start)), "mode", "flag"]):
            for _ in range(20):
                value: Any = rng.uniform(one.low, one.high)
                if one.choices:
                    value = one.choices[rng.integers(len(one.choices))]
                elif one.whole:
                    value = round(value)
                assert msgspec.convert({**msgspec.to_builtins(start), one.name: value}, Knobs)


def test_fields_are_chosen_by_name() -> None:
    assert [one.name for one in space(Knobs(), only=["mode", "share"])] == ["share", "mode"]
    assert "share" not in [one.name for one in space(Knobs(), fixed=["share"])]
    with pytest.raises(InvalidInput, match="no field 'shares'"):
        space(Knobs(), only=["shares"])
    with pytest.raises(InvalidInput, match="'text' cannot be searched"):
        space(Knobs(), only=["text"])
    with pytest.raises(InvalidInput, match="nothing is left"):
        space(Knobs(), only=["share"], fixed=["share"])


def test_a_space_can_be_stated() -> None:
    share, count, mode = stated(["share=0.1:0.5", "count=2:9", 'mode="a"|"b"'], Knobs)
    assert (share.low, share.high, share.whole) == (0.1, 0.5, False)
    assert (count.low, count.high, count.whole) == (2, 9, True)
    assert mode.choices == ("a", "b")
    for wrong in ("shares=0:1", "share", "share=0:7", "count=a:b", 'mode="c"', "count=9:2"):
        with pytest.raises(InvalidInput, match="space"):
            stated([wrong], Knobs)


class Steps(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ahead: Annotated[int, msgspec.Meta(ge=0, le=9)] = 0
    """Recommends what lies so many places after the last item."""
    broken: Annotated[float, msgspec.Meta(ge=0, le=1, extra_json_schema={"x-tune": False})] = 0


class Ahead:
    """A strategy whose best setting is known."""

    contract = 1
    format = 1
    reasons = ("ahead",)
    config = Steps
    fits = 0

    def needs(self, config: Steps) -> Needs:
        return Needs(history=1)

    def fit(self, data: TrainingData, config: Steps, seed: int) -> Arrays:
        Ahead.fits += 1
        if config.broken and config.ahead == 4:
            raise RuntimeError("four is too many\nor so")
        return {"step": np.array([config.ahead, len(data.items)], np.int32)}

    def load(self, arrays: Arrays, config: Steps, items: int) -> Any:
        return Stepping(config.ahead, items)


class Stepping:
    def __init__(self, ahead: int, items: int) -> None:
        self.ahead = ahead
        self.items = items

    def recommend(self, context: Context, limit: int) -> Candidates:
        item = (int(context.history.items[0]) + self.ahead) % self.items
        return Candidates(np.array([item], np.int32), np.ones(1, np.float32), np.zeros(1, np.uint8))


AHEAD = InstalledStrategy(
    "ahead", "1.0", "ahead", StrategyState.READY, strategy=Ahead(), contract=1, format=1
)


@pytest.fixture
def ring(tmp_path: Path) -> Split:
    """Sixty shoppers of whom each takes every third item of thirty."""
    lines = [
        f"{who} " + " ".join(str((who + 3 * step) % 30) for step in range(6))
        for who in range(1, 61)
    ]
    path = tmp_path / "ring.txt"
    path.write_text("\n".join(lines) + "\n")
    return split(read("sequences", [path], {}), "leave-one-out", "validation")


def search(
    made: Split, home: Path, *, metric: str = "hr@1", broken: float = 0, seed: int = 1,
    **bounds: Any,
) -> Tuned:  # fmt: skip
    start = Steps(broken=broken)
    return tune(AHEAD, start, space(start), made, metric, home, bounds=Bounds(**bounds), seed=seed)


def test_what_is_best_is_found_and_compared_on_other_shoppers(ring: Split, tmp_path: Path) -> None:
    found = search(ring, tmp_path / "studies", trials=25)
    assert found.changed == {"ahead": 3}
    assert found.search == {"best": 1, "start": 0}
    assert found.comparison.difference.low == 1
    one, other = halves(ring, 2000, 1)
    assert len(one.queries) + len(other.queries) == len(ring.queries) == 60
    assert not set(one.queries.shopper.tolist()) & set(other.queries.shopper.tolist())
    assert len(found.measured[0].values["hr@1"]) == len(other.queries)


def trials_of(studies: Path) -> list[tuple[dict[str, Any], float | None]]:
    [path] = studies.glob("*.journal")
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.load_study(study_name=path.stem, storage=storage)
    return [(trial.params, trial.value) for trial in study.trials]


def test_a_search_goes_on_where_it_was(ring: Split, tmp_path: Path) -> None:
    whole = search(ring, tmp_path / "whole", trials=14)
    first = search(ring, tmp_path / "parts", trials=6)
    Ahead.fits = 0
    rest = search(ring, tmp_path / "parts", trials=14)
    assert (first.trials, rest.resumed, rest.trials) == (6, 6, 14)
    assert Ahead.fits == 8 + 3  # those that were missing, the start, and the two compared
    assert trials_of(tmp_path / "parts") == trials_of(tmp_path / "whole")
    assert rest.best == whole.best


def test_another_question_is_another_study(ring: Split, tmp_path: Path) -> None:
    search(ring, tmp_path, trials=3)
    other = search(ring, tmp_path, trials=3, seed=2)
    events = replace(ring.train.events, revenue=ring.train.events.revenue + 1)
    changed = replace(ring, train=replace(ring.train, events=events))
    assert (other.resumed, search(changed, tmp_path, trials=3).resumed) == (0, 0)
    assert len(list(tmp_path.glob("*.journal"))) == 3


def test_a_trial_that_fails_is_counted_and_ends_nothing(ring: Split, tmp_path: Path) -> None:
    found = search(ring, tmp_path, trials=25, broken=1)
    assert found.failed
    assert found.errors == ("RuntimeError: four is too many",)
    assert found.changed == {"ahead": 3}


def test_no_time_is_no_trial(ring: Split, tmp_path: Path) -> None:
    found = search(ring, tmp_path, seconds=0)
    assert found.changed == {}
    assert found.comparison.difference.value == 0


@pytest.mark.parametrize(
    ("metric", "message"),
    [("ndcg", "name and a length"), ("clicks@5", "must be one of"), ("hr@0", "a length")],
)
def test_a_wrong_metric_is_named(ring: Split, tmp_path: Path, metric: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        search(ring, tmp_path, metric=metric)


def test_the_command_tunes_on_a_data_set(tmp_path: Path) -> None:
    lines = [
        f"{who} " + " ".join(str((who * 7 + 3 * step) % 40) for step in range(8))
        for who in range(1, 41)
    ]
    (tmp_path / "ring.txt").write_text("\n".join(lines) + "\n")
    command = [
        *("tune", "similar", str(tmp_path / "ring.txt"), "--format", "sequences"),
        *("--protocol", "leave-one-out", "--trials", "3", "--metric", "hr@5"),
        *("--space", "damping=0.0:0.9", "--json", str(tmp_path / "out.json")),
    ]
    environment = {"VITRINE_HOME": str(tmp_path / "home")}
    done = CliRunner().invoke(vitrine, command, env=environment)
    assert done.exit_code == 0, done.output
    assert "on 20 shoppers that the search did not see" in done.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["trials"], found["resumed"]) == (3, 0)
    assert set(found["changed"]) <= {"damping"}
    assert CliRunner().invoke(vitrine, command, env=environment).exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text())["resumed"] == 3
    refused = CliRunner().invoke(vitrine, [*command, "--apply"], env=environment)
    assert refused.exit_code == 1
    assert "apply" in refused.output
