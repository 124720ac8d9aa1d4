"""Strategies that break the contract on purpose, one rule each. `test_kit.py` runs the kit on them
in a pytest of its own; `BREAKS` says which test has to catch which."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from vitrine_sdk import NO_CANDIDATES, Candidates, Config, Context, Needs, TrainingData
from vitrine_sdk.testing import StrategyContract


class SoundConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    power: float = 1.0


@dataclass(frozen=True, eq=False)
class SoundModel:
    counts: Any

    def recommend(self, context: Context, limit: int) -> Candidates:
        scores = self.counts.copy()
        if context.eligible is not None:
            scores[~context.eligible] = 0
        scores[context.history.items] *= np.float32(0.5)
        order = np.argsort(-scores, kind="stable")[:limit].astype(np.int32)
        order = order[scores[order] > 0]
        return Candidates(order, scores[order], np.zeros(len(order), np.uint8))


class Sound:
    """Keeps every rule: the kit must pass it, or the others prove nothing."""

    contract = 1
    format = 1
    reasons: tuple[str, ...] = ("counted",)
    model: Any = SoundModel

    @property
    def config(self) -> type[SoundConfig]:
        return SoundConfig

    def needs(self, config: SoundConfig) -> Needs:
        return Needs(history=10, eligible=True)

    def fit(self, data: TrainingData, config: SoundConfig, seed: int) -> Any:
        known = data.events.item[data.events.item >= 0]
        counts = np.bincount(known, minlength=len(data.items)).astype(np.float32)
        return {"counts": counts**config.power}

    def load(self, arrays: Any, config: SoundConfig, items: int) -> Any:
        counts = arrays.get("counts")
        if counts is None or counts.shape != (items,) or counts.dtype != np.float32:
            raise ValueError("counts must be float32, one an item")
        return self.model(counts)


class OldContract(Sound):
    contract = 0


class ReasonsInProse(Sound):
    reasons = ("Because you looked at it",)


class Stateful(Sound):
    def fit(self, data: TrainingData, config: SoundConfig, seed: int) -> Any:
        self.size = len(data.items)
        return super().fit(data, config, seed)


class LooseConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=False):
    power: float = 1.0


class AnyConfig(Sound):
    @property
    def config(self) -> Any:
        return LooseConfig


class RestlessNeeds(Sound):
    calls = 0

    def needs(self, config: SoundConfig) -> Needs:
        RestlessNeeds.calls += 1
        return Needs(history=10 + RestlessNeeds.calls, eligible=True)


class FitByChance(Sound):
    def fit(self, data: TrainingData, config: SoundConfig, seed: int) -> Any:
        counts = super().fit(data, config, seed)["counts"]
        return {"counts": counts + np.random.default_rng().random(len(counts), np.float32) / 10}


class FitByHashOrder(Sound):
    def fit(self, data: TrainingData, config: SoundConfig, seed: int) -> Any:
        counts = super().fit(data, config, seed)["counts"]
        for rank, name in enumerate({f"sku-{i}" for i in range(len(counts))}):
            counts[int(name.removeprefix("sku-"))] += np.float32(rank / 1000)
        return {"counts": counts}


class FitWritesData(Sound):
    def fit(self, data: TrainingData, config: SoundConfig, seed: int) -> Any:
        made = super().fit(data, config, seed)
        data.events.time.flags.writeable = True
        data.events.time[:] -= 1
        return made


class ObjectArrays(Sound):
    def fit(self, data: TrainingData, config: SoundConfig, seed: int) -> Any:
        made = super().fit(data, config, seed)
        return {**made, "names": np.array(list(data.items.names), object)}


class NeedsItems(Sound):
    def fit(self, data: TrainingData, config: SoundConfig, seed: int) -> Any:
        made = super().fit(data, config, seed)
        made["counts"].max()  # raises on an empty catalogue
        return made


class NeedsEvents(Sound):
    def fit(self, data: TrainingData, config: SoundConfig, seed: int) -> Any:
        if len(data.items) and not len(data.events):
            raise ZeroDivisionError
        return super().fit(data, config, seed)


class OnlyInMemory(Sound):
    def load(self, arrays: Any, config: SoundConfig, items: int) -> Any:
        if isinstance(arrays.get("counts"), np.memmap):
            return SoundModel(arrays["counts"] * 0 + 1)
        return super().load(arrays, config, items)


class Trusting(Sound):
    def load(self, arrays: Any, config: SoundConfig, items: int) -> Any:
        return SoundModel(arrays.get("counts", np.zeros(items, np.float32)))


class SilentModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        return NO_CANDIDATES


class Silent(Sound):
    model = SilentModel


class LongModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        answer = super().recommend(context, limit)
        return replace(answer, items=answer.items.astype(np.int64))


class WrongTypes(Sound):
    model = LongModel


class BeyondModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        answer = super().recommend(replace(context, eligible=None), limit)
        return replace(answer, items=answer.items + np.int32(len(self.counts)))


class Beyond(Sound):
    model = BeyondModel

    def needs(self, config: SoundConfig) -> Needs:
        return Needs(history=10)


class TwiceModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        answer = super().recommend(context, limit)
        return replace(answer, items=np.repeat(answer.items, 2)[: len(answer)])


class Twice(Sound):
    model = TwiceModel


class InfiniteModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        answer = super().recommend(context, limit)
        answer.scores[:1] = np.inf
        return answer


class Infinite(Sound):
    model = InfiniteModel


class WorstFirstModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        answer = super().recommend(context, limit)
        return replace(answer, scores=answer.scores[::-1])


class WorstFirst(Sound):
    model = WorstFirstModel


class UnlimitedModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        return super().recommend(context, limit + 1)


class Unlimited(Sound):
    model = UnlimitedModel


class UnstablePrefixModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        answer = super().recommend(context, limit)
        if limit % 2:
            return answer
        flat = np.zeros_like(answer.scores)
        return replace(answer, items=answer.items[::-1], scores=flat)


class UnstablePrefix(Sound):
    model = UnstablePrefixModel


class RememberingModel:
    def __init__(self, counts: Any) -> None:
        self.counts = counts.copy()

    def recommend(self, context: Context, limit: int) -> Candidates:
        answer = SoundModel(self.counts).recommend(context, limit)
        self.counts[answer.items[:1]] *= np.float32(0.9)
        return answer


class Remembering(Sound):
    model = RememberingModel


class HeedlessModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        return super().recommend(replace(context, eligible=None), limit)


class Heedless(Sound):
    model = HeedlessModel


class OnlyRegularsModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        if not len(context.history):
            raise KeyError("who are you?")
        return super().recommend(context, limit)


class OnlyRegulars(Sound):
    model = OnlyRegularsModel


class KnownOnlyModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        assert (self.counts[context.history.items] > 0).all()
        return super().recommend(context, limit)


class KnownOnly(Sound):
    model = KnownOnlyModel


class ScribblingModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        answer = super().recommend(context, limit)
        if context.history.ages.flags.writeable:
            context.history.ages[:] = 0
        return answer


class Scribbling(Sound):
    model = ScribblingModel


class ClockedModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        time.time()
        return super().recommend(context, limit)


class Clocked(Sound):
    model = ClockedModel


class ReadingModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        os.close(os.open(os.devnull, os.O_RDONLY))
        return super().recommend(context, limit)


class Reading(Sound):
    model = ReadingModel


class DicingModel(SoundModel):
    def recommend(self, context: Context, limit: int) -> Candidates:
        np.random.random()
        return super().recommend(context, limit)


class Dicing(Sound):
    model = DicingModel


class SharedBufferModel:
    def __init__(self, counts: Any) -> None:
        self.counts, self.current = counts, None

    def recommend(self, context: Context, limit: int) -> Candidates:
        self.current = context
        time.sleep(0.0005)  # another thread comes in between
        return SoundModel(self.counts).recommend(self.current, limit)


class SharedBuffer(Sound):
    model = SharedBufferModel


BREAKS: dict[type[Sound], str] = {
    OldContract: "test_declares_contract_format_and_reasons",
    ReasonsInProse: "test_declares_contract_format_and_reasons",
    Stateful: "test_instances_need_no_arguments_and_hold_no_state",
    AnyConfig: "test_configuration_has_defaults_and_a_schema",
    RestlessNeeds: "test_states_its_needs",
    FitByChance: "test_fit_is_deterministic",
    FitByHashOrder: "test_fit_does_not_depend_on_the_process",
    FitWritesData: "test_fit_leaves_the_data_untouched",
    ObjectArrays: "test_arrays_are_plain",
    NeedsItems: "test_fits_an_empty_catalogue",
    NeedsEvents: "test_fits_a_shop_without_events",
    OnlyInMemory: "test_artefact_survives_the_disk",
    Trusting: "test_load_refuses_an_artefact_of_another_format",
    Silent: "test_answers_at_all",
    WrongTypes: "test_candidates_are_typed_parallel_arrays",
    Beyond: "test_items_are_positions_in_the_catalogue",
    Twice: "test_no_item_comes_twice",
    Infinite: "test_scores_are_finite",
    WorstFirst: "test_best_comes_first",
    Unlimited: "test_keeps_to_the_limit",
    UnstablePrefix: "test_a_larger_limit_only_adds",
    Remembering: "test_the_same_request_has_the_same_answer",
    Heedless: "test_only_eligible_items",
    OnlyRegulars: "test_a_new_shopper",
    KnownOnly: "test_items_without_any_event",
    Scribbling: "test_leaves_the_context_untouched",
    Clocked: "test_no_input_no_output_no_clock_no_chance",
    Reading: "test_no_input_no_output_no_clock_no_chance",
    Dicing: "test_no_input_no_output_no_clock_no_chance",
    SharedBuffer: "test_threads_may_share_a_model",
}


def _case(kind: type[Sound]) -> type[StrategyContract]:
    @pytest.fixture
    def strategy(self: Any) -> Sound:
        return kind()

    return type(f"Test{kind.__name__}", (StrategyContract,), {"strategy": strategy})


globals().update({f"Test{kind.__name__}": _case(kind) for kind in (Sound, *BREAKS)})
