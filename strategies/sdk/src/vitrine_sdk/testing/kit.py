# ruff: noqa: S101 - asserting is what it is for
"""The conformance kit. Subclass `StrategyContract` with one fixture and run pytest::

class TestMine(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return Mine()
"""

from __future__ import annotations

import builtins
import copy
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from vitrine_sdk.contract import (
    CONTRACT,
    Arrays,
    Candidates,
    Config,
    Context,
    Model,
    Needs,
    Strategy,
    TrainingData,
)
from vitrine_sdk.testing.answers import check, comparable, digest, same
from vitrine_sdk.testing.requests import SEED, contexts
from vitrine_sdk.testing.shops import context, history, shop, small_shop

LIMITS = (1, 2, 3, 7, 20, 200)


class StrategyContract:
    """What every strategy must do, a test a rule. Override `strategy`; where the defaults do not
    make yours answer, `config` and `data` too."""

    @pytest.fixture
    def strategy(self) -> Strategy[Any]:
        """An instance of the strategy under test."""
        raise NotImplementedError("override the fixture `strategy` and return an instance")

    @pytest.fixture
    def config(self, strategy: Strategy[Any]) -> Config:
        """The configuration to test with; the strategy's defaults."""
        made: Config = strategy.config()
        return made

    @pytest.fixture
    def data(self) -> TrainingData:
        """The shop to fit on."""
        return small_shop()

    @pytest.fixture
    def arrays(
        self,
        strategy: Strategy[Any],
        config: Config,
        data: TrainingData,
        request: pytest.FixtureRequest,
    ) -> Arrays:
        """Fitted once a class: `fit` is the slow part, and has to give the same bytes anyway."""
        kept: dict[str, Arrays] = request.cls.__dict__.get("_fitted") or {}
        request.cls._fitted = kept  # noqa: SLF001 - our own subclass
        key = f"{config!r} {id(type(strategy))} {len(data.items)} {len(data.events)}"
        if key not in kept:
            kept[key] = strategy.fit(data, config, SEED)
        return kept[key]

    @pytest.fixture
    def model(
        self, strategy: Strategy[Any], config: Config, data: TrainingData, arrays: Arrays
    ) -> Model:
        return strategy.load(arrays, config, len(data.items))

    @pytest.fixture
    def contexts(
        self, strategy: Strategy[Any], config: Config, data: TrainingData
    ) -> Sequence[Context]:
        """Requests that give what the strategy needs."""
        return contexts(strategy.needs(config), data)

    # What it declares

    def test_declares_contract_format_and_reasons(self, strategy: Strategy[Any]) -> None:
        assert strategy.contract == CONTRACT, f"written for contract {strategy.contract}"
        assert isinstance(strategy.format, int)
        assert strategy.format >= 1
        assert isinstance(strategy.reasons, tuple)
        assert 1 <= len(strategy.reasons) <= 256
        assert len(set(strategy.reasons)) == len(strategy.reasons)
        for reason in strategy.reasons:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", reason), f"reason {reason!r} is no code"

    def test_instances_need_no_arguments_and_hold_no_state(
        self, strategy: Strategy[Any], config: Config, data: TrainingData
    ) -> None:
        type(strategy)()
        before = copy.deepcopy(getattr(strategy, "__dict__", {}))
        strategy.load(strategy.fit(data, config, SEED), config, len(data.items))
        assert getattr(strategy, "__dict__", {}) == before, "fit or load left something behind"

    def test_configuration_has_defaults_and_a_schema(self, strategy: Strategy[Any]) -> None:
        made = strategy.config()
        assert isinstance(made, Config)
        schema = msgspec.json.schema(strategy.config)
        assert json.loads(json.dumps(schema)) == schema
        wire = msgspec.json.encode(made)
        assert msgspec.json.decode(wire, type=strategy.config) == made
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(b'{"no_such_option": 1}', type=strategy.config)

    def test_states_its_needs(self, strategy: Strategy[Any], config: Config) -> None:
        needs = strategy.needs(config)
        assert isinstance(needs, Needs)
        assert needs.history >= 0
        assert strategy.needs(config) == needs

    # Fitting

    def test_fit_is_deterministic(
        self, strategy: Strategy[Any], config: Config, data: TrainingData, arrays: Arrays
    ) -> None:
        assert digest(strategy.fit(data, config, SEED)) == digest(arrays)

    def test_fit_does_not_depend_on_the_process(
        self, strategy: Strategy[Any], config: Config
    ) -> None:
        """Another process has another hash seed: no order of a set may reach the artefact."""
        kind = type(strategy)
        expected = digest(strategy.fit(small_shop(), config, SEED))
        wire = msgspec.json.encode(config).decode()
        code = (
            "import sys; from vitrine_sdk.testing.fit_elsewhere import fit_elsewhere;"
            "print(fit_elsewhere(*sys.argv[1:]))"
        )
        ran = subprocess.run(  # noqa: S603 - this interpreter, our own code
            [sys.executable, "-c", code, kind.__module__, kind.__qualname__, wire],
            env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": _path()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() == expected

    def test_fit_leaves_the_data_untouched(
        self, strategy: Strategy[Any], config: Config, data: TrainingData
    ) -> None:
        before = copy.deepcopy(data)
        strategy.fit(data, config, SEED)
        assert comparable(data) == comparable(before)

    def test_arrays_are_plain(self, arrays: Arrays) -> None:
        assert arrays, "an artefact has at least one array"
        for name, array in arrays.items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name), f"array name {name!r}"
            assert type(array) is np.ndarray, f"array {name!r} is a {type(array).__name__}"
            assert array.dtype.kind in "biufSUmM", f"array {name!r} has dtype {array.dtype}"

    def test_fits_an_empty_catalogue(self, strategy: Strategy[Any], config: Config) -> None:
        model = strategy.load(strategy.fit(shop([]), config, SEED), config, 0)
        none = np.empty(0, np.bool_)
        for made in (context(), context(term="red"), context(eligible=none)):
            assert len(model.recommend(made, 10)) == 0

    def test_fits_a_shop_without_events(
        self, strategy: Strategy[Any], config: Config, data: TrainingData
    ) -> None:
        quiet = TrainingData(data.items, shop([]).events, data.now)
        model = strategy.load(strategy.fit(quiet, config, SEED), config, len(data.items))
        for made in contexts(strategy.needs(config), data):
            check(model.recommend(made, 10), 10, len(data.items), strategy.reasons)

    # The artefact

    def test_artefact_survives_the_disk(
        self,
        strategy: Strategy[Any],
        config: Config,
        data: TrainingData,
        arrays: Arrays,
        model: Model,
        contexts: Sequence[Context],
        tmp_path: Path,
    ) -> None:
        """Written as .npy, opened memory-mapped and read-only: the same answers."""
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array, allow_pickle=False)
        mapped = {
            name: np.load(tmp_path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in arrays
        }
        again = strategy.load(mapped, config, len(data.items))
        for made in contexts:
            assert same(again.recommend(made, 50), model.recommend(made, 50))

    def test_load_refuses_an_artefact_of_another_format(
        self, strategy: Strategy[Any], config: Config, data: TrainingData, arrays: Arrays
    ) -> None:
        """An array that is missing, of another type or of another shape is a ValueError."""
        n = len(data.items)
        for name, array in arrays.items():
            without = {other: a for other, a in arrays.items() if other != name}
            other = np.complex64 if array.dtype.kind != "c" else np.int8
            for what, broken in (
                ("is missing", without),
                ("has another type", {**without, name: np.zeros(array.shape, other)}),
                ("has another axis", {**without, name: array[np.newaxis]}),
            ):
                try:
                    strategy.load(broken, config, n)
                except ValueError:
                    continue
                pytest.fail(f"load took an artefact whose array {name!r} {what}")

    # Recommending

    def test_answers_at_all(self, model: Model, contexts: Sequence[Context]) -> None:
        assert any(len(model.recommend(made, 10)) for made in contexts), (
            "not one candidate for any request: override `data` or `config` so that it has to say "
            "something"
        )

    def test_candidates_are_typed_parallel_arrays(
        self, strategy: Strategy[Any], model: Model, contexts: Sequence[Context]
    ) -> None:
        for made in contexts:
            answer = model.recommend(made, 10)
            assert isinstance(answer, Candidates)
            assert answer.items.dtype == np.int32
            assert answer.scores.dtype == np.float32
            assert answer.reasons.dtype == np.uint8
            assert answer.items.shape == answer.scores.shape == answer.reasons.shape
            assert answer.items.ndim == 1
            assert not len(answer) or answer.reasons.max() < len(strategy.reasons)

    def test_items_are_positions_in_the_catalogue(
        self, model: Model, data: TrainingData, contexts: Sequence[Context]
    ) -> None:
        for made in contexts:
            items = model.recommend(made, 200).items
            assert not len(items) or (items.min() >= 0 and items.max() < len(data.items))

    def test_no_item_comes_twice(self, model: Model, contexts: Sequence[Context]) -> None:
        for made in contexts:
            items = model.recommend(made, 200).items
            assert len(np.unique(items)) == len(items)

    def test_scores_are_finite(self, model: Model, contexts: Sequence[Context]) -> None:
        for made in contexts:
            assert np.isfinite(model.recommend(made, 200).scores).all()

    def test_best_comes_first(self, model: Model, contexts: Sequence[Context]) -> None:
        for made in contexts:
            scores = model.recommend(made, 200).scores
            assert (scores[1:] <= scores[:-1]).all()

    def test_keeps_to_the_limit(self, model: Model, contexts: Sequence[Context]) -> None:
        for made in contexts:
            for limit in LIMITS:
                assert len(model.recommend(made, limit)) <= limit

    def test_a_larger_limit_only_adds(self, model: Model, contexts: Sequence[Context]) -> None:
        for made in contexts:
            longest = model.recommend(made, LIMITS[-1]).items
            for limit in LIMITS[:-1]:
                shorter = model.recommend(made, limit).items
                assert len(shorter) == min(limit, len(longest))
                assert (shorter == longest[:limit]).all()

    def test_the_same_request_has_the_same_answer(
        self,
        strategy: Strategy[Any],
        config: Config,
        data: TrainingData,
        arrays: Arrays,
        model: Model,
        contexts: Sequence[Context],
    ) -> None:
        """Also after other requests, and from another instance."""
        first = [model.recommend(made, 20) for made in contexts]
        backwards = [model.recommend(made, 20) for made in reversed(contexts)][::-1]
        other = type(strategy)().load(arrays, config, len(data.items))
        for made, one, two in zip(contexts, first, backwards, strict=True):
            assert same(one, two)
            assert same(one, other.recommend(made, 20))

    def test_only_eligible_items(
        self, strategy: Strategy[Any], config: Config, model: Model, contexts: Sequence[Context]
    ) -> None:
        if not strategy.needs(config).eligible:
            pytest.skip("does not ask for the mask of eligible items: the host filters")
        for made in contexts:
            if made.eligible is not None:
                items = model.recommend(made, 200).items
                assert made.eligible[items].all()

    def test_a_new_shopper(
        self, strategy: Strategy[Any], config: Config, model: Model, data: TrainingData
    ) -> None:
        """No history, no seed, no term: a good answer or none, but no error."""
        answer = model.recommend(context(), 10)
        check(answer, 10, len(data.items), strategy.reasons)
        needs = strategy.needs(config)
        if needs.seeds or needs.term:
            assert len(answer) == 0, "said that it cannot answer without what this request lacks"

    def test_items_without_any_event(
        self, strategy: Strategy[Any], model: Model, data: TrainingData
    ) -> None:
        """The last three items of `small_shop` were never touched: as seed and as history."""
        n = len(data.items)
        quiet = sorted({n - 1, max(n - 3, 0)})
        for made in (context(quiet), context(history=history(quiet)), context(term="never asked")):
            check(model.recommend(made, 10), 10, n, strategy.reasons)

    def test_leaves_the_context_untouched(self, model: Model, contexts: Sequence[Context]) -> None:
        """The arrays are read-only here; what writes to them anyway is seen by comparison."""
        for made in contexts:
            frozen = copy.deepcopy(made)
            _freeze(frozen)
            before = comparable(frozen)
            model.recommend(frozen, 20)
            assert comparable(frozen) == before
            loose = copy.deepcopy(made)
            model.recommend(loose, 20)
            assert comparable(loose) == before

    def test_no_input_no_output_no_clock_no_chance(
        self, model: Model, contexts: Sequence[Context], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(*_: object, **__: object) -> Any:
            raise AssertionError("recommend used a file, a socket, the clock or chance")

        state = np.random.get_state(legacy=False)
        chance = random.getstate()
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "open", forbidden)
            patch.setattr(os, "open", forbidden)
            patch.setattr(socket, "socket", forbidden)
            patch.setattr(subprocess, "Popen", forbidden)
            for clock in ("time", "time_ns", "monotonic", "perf_counter"):
                patch.setattr(time, clock, forbidden)
            patch.setattr(np.random, "default_rng", forbidden)
            for made in contexts:
                model.recommend(made, 20)
        after = np.random.get_state(legacy=False)
        assert random.getstate() == chance
        assert str(after) == str(state)

    def test_threads_may_share_a_model(self, model: Model, contexts: Sequence[Context]) -> None:
        expected = [model.recommend(made, 20) for made in contexts]
        ready = threading.Barrier(8)

        def run(start: int) -> list[int]:
            ready.wait(timeout=30)
            order = [(start + i) % len(contexts) for i in range(3 * len(contexts))]
            return [i for i in order if not same(model.recommend(contexts[i], 20), expected[i])]

        with _switching_often(), ThreadPoolExecutor(8) as pool:
            wrong = [i for found in pool.map(run, range(8)) for i in found]
        assert not wrong, f"{len(wrong)} answers changed when threads shared the model"


def _freeze(made: Context) -> None:
    for array in (
        made.seeds,
        made.history.items,
        made.history.types,
        made.history.ages,
        made.eligible,
    ):
        if array is not None:
            array.flags.writeable = False


def _path() -> str:
    return os.pathsep.join(entry for entry in sys.path if entry)


class _switching_often:  # noqa: N801 - reads as a phrase after `with`
    """Threads change places every few bytecodes."""

    def __enter__(self) -> None:
        self.interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)

    def __exit__(self, *_: object) -> None:
        sys.setswitchinterval(self.interval)
