"""Published rules on a request's way: compiled once a publication, asked in each request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from app.domain.catalogue import Section
from app.domain.configuration import MerchantConfiguration
from app.domain.item_index import ItemIndex, ItemIndexes
from app.domain.merchant import MerchantId
from app.domain.pod import Pod, StrategyConfiguration
from app.domain.recommendation import RecommendationRequest
from app.domain.rule import PublishedRules
from app.domain.rule_activation import NO_ACTS, Acts, Facts
from app.domain.rule_compile import CompiledRules
from app.domain.ruling import RequestRuling, ruling_for
from app.services.rulings import UNRULED
from app.services.shopper_history import Recent
from vitrine_sdk import IntArray

HISTORY = 100
"""Events of a shopper's that rules look at."""


class MerchantRulings:
    """A merchant's rules over the sections that its pods recommend from (the port `Rulings`)."""

    def __init__(
        self,
        published: Sequence[PublishedRules],
        pods: Iterable[Pod],
        strategies: Mapping[str, StrategyConfiguration],
        indexes: ItemIndexes,
        merchant: MerchantId,
        before: MerchantRulings | None = None,
    ) -> None:
        """Args:
        before: the rules that these replace.
        """
        by_section: dict[Section, list[str]] = {}
        chains: dict[str, tuple[tuple[str, ...], ...]] = {}
        for pod in pods:
            by_section.setdefault(pod.section, []).append(pod.id)
            chains[pod.id] = tuple(
                (id_, strategies[id_].strategy) if id_ in strategies else (id_,)
                for id_ in pod.chain
            )
        self._chains = chains
        self._compiled: dict[int, CompiledRules] = {}  # by the index's base
        self._history: dict[str, int] = {}
        for section, pod_ids in by_section.items():
            index = indexes.get(merchant, section)
            replaced = None if before is None else before.compiled(index)
            compiled = CompiledRules(published, index, pod_ids, replaced)
            self._compiled[index.base] = compiled
            for pod_id in pod_ids:
                if compiled.is_personal(pod_id):
                    self._history[pod_id] = HISTORY

    def needs_history(self, pod: Pod) -> int:
        return self._history.get(pod.id, 0)

    def ruling(
        self,
        pod: Pod,
        request: RecommendationRequest,
        index: ItemIndex,
        seeds: IntArray,
        history: Recent,
        now: float,
    ) -> RequestRuling | None:
        compiled = self._compiled.get(index.base)
        if compiled is None or compiled.pod(pod.id) is None:
            return None
        if -1 in seeds.tolist():
            seeds = seeds[seeds >= 0]
        facts = Facts(request=request, now=now, seeds=seeds, acts=_acts(history, now))
        return ruling_for(compiled, facts, self._chains[pod.id])

    def signed(self, index: ItemIndex, rows: IntArray) -> tuple[int, bytes]:
        compiled = self._compiled.get(index.base)
        if compiled is None:
            return UNRULED
        signatures = compiled.signatures
        return signatures.serial, signatures.of(rows).tobytes()

    def compiled(self, index: ItemIndex) -> CompiledRules | None:
        """The rules over an index; None: no pod recommends from it."""
        return self._compiled.get(index.base)

    def all_compiled(self) -> Sequence[CompiledRules]:
        """The rules over each section that pods recommend from."""
        return list(self._compiled.values())

    def catch_up(self) -> bool:
        """Do a part of what can be done before requests come; whether all is
        done."""
        return all(compiled.catch_up() for compiled in self._compiled.values())


class MerchantRulesCompiler:
    """The port `RulingsCompiler`. What was compiled stays while its rules and pods do."""

    def __init__(self) -> None:
        self._known: dict[MerchantId, tuple[object, MerchantRulings]] = {}

    def compile(
        self, configuration: MerchantConfiguration, indexes: ItemIndexes
    ) -> MerchantRulings | None:
        merchant = configuration.merchant.id
        if not configuration.rules:
            self._known.pop(merchant, None)
            return None
        # A version is never changed, so its number stands for its rules.
        key = (
            tuple((rules.rule_set_id, rules.number) for rules in configuration.rules),
            tuple((pod.id, pod.section, pod.chain) for pod in configuration.pods.values()),
            tuple((id_, found.strategy) for id_, found in configuration.strategies.items()),
        )
        known = self._known.get(merchant)
        if known is not None and known[0] == key:
            return known[1]
        rulings = MerchantRulings(
            configuration.rules,
            configuration.pods.values(),
            configuration.strategies,
            indexes,
            merchant,
            None if known is None else known[1],
        )
        self._known[merchant] = (key, rulings)
        return rulings


def _acts(history: Recent, now: float) -> Acts:
    rows = history.rows
    if not len(rows):
        return NO_ACTS
    known = rows >= 0
    ages = np.maximum(now - history.times[known], 0).astype(np.float32)
    return Acts(rows[known], history.types[known], ages)
