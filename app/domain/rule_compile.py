"""Published rules, compiled against the items of one section.

What costs is done here, at publication: item expressions become flags by signature
(`rule_table`), conditions become bits (`rule_activation`), and the rules that are active together
become one program (`rule_program`). A request turns its facts into bits, and finds its program
under them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from app.domain.item_index import ItemIndex
from app.domain.rule import PublishedRules
from app.domain.rule_action import Action, LeaveOut, Rotate
from app.domain.rule_activation import Activation, Test
from app.domain.rule_caps import CapValues
from app.domain.rule_items import ItemExpression
from app.domain.rule_newest import NewestItems
from app.domain.rule_program import Binder, Program, RankedRule
from app.domain.rule_seed import SeedComparison
from app.domain.rule_table import CHUNK, ItemTest, ItemTests, Signatures

MAX_BITS: Final = 4_096
"""Combinations of facts whose program is remembered, a pod."""

MAX_PROGRAMS: Final = 256
MAX_PROGRAM_BYTES: Final = 32 * 1024 * 1024
"""Of a pod's programs; beyond either, all are forgotten and made again as they are needed."""


def ranked(published: Sequence[PublishedRules]) -> list[RankedRule]:
    """Every enabled rule by rank: by priority, then by rule set id, then as they stand."""
    found = [
        (-rule.priority, rules.rule_set_id, place, number, rule)
        for number, rules in enumerate(published)
        for place, rule in enumerate(rules.rules.rules)
        if rule.enabled
    ]
    found.sort(key=lambda entry: entry[:3])
    return [
        RankedRule(rank, rule_set_id, number, rule)
        for rank, (_, rule_set_id, _, number, rule) in enumerate(found)
    ]


class PodRules:
    """The rules that can be active for one pod."""

    def __init__(
        self,
        pod_id: str,
        rules: Sequence[RankedRule],
        bind: Binder,
        signatures: Callable[[], Signatures],
    ) -> None:
        self.activation = Activation(pod_id, bind, signatures)
        self._bind = bind
        self._signatures = signatures
        self._always: list[RankedRule] = []
        self._conditional: list[tuple[Test, RankedRule]] = []
        for rule in rules:
            when = rule.rule.when
            test = True if when is None else self.activation.compile(when, rule.rule_set)
            if test is True:
                self._always.append(rule)
            elif test is not False:
                self._conditional.append((test, rule))
        self._by_bits: dict[int, Program] = {}
        self._by_rules: dict[tuple[int, ...], Program] = {}

    @property
    def rules(self) -> list[RankedRule]:
        """By rank."""
        return sorted(
            [*self._always, *(rule for _, rule in self._conditional)], key=lambda rule: rule.rank
        )

    def program(self, bits: int) -> Program:
        """What the rules that are active under these bits do."""
        program = self._by_bits.get(bits)
        if program is None:
            program = self._find(bits)
            if len(self._by_bits) >= MAX_BITS:
                self._by_bits.clear()
            self._by_bits[bits] = program
        return program

    def _find(self, bits: int) -> Program:
        active = [*self._always, *(rule for test, rule in self._conditional if test(bits))]
        active.sort(key=_rank)
        key = tuple(rule.rank for rule in active)
        program = self._by_rules.get(key)
        if program is None:
            held = sum(program.dense_bytes for program in self._by_rules.values())
            if len(self._by_rules) >= MAX_PROGRAMS or held > MAX_PROGRAM_BYTES:
                self._by_rules.clear()
                self._by_bits.clear()
            program = Program(active, self._bind, self._signatures())
            self._by_rules[key] = program
        return program


class CompiledRules:
    """All of a merchant's published rules over one item index. Follows the index as it changes."""

    def __init__(
        self, published: Sequence[PublishedRules], index: ItemIndex, pod_ids: Iterable[str]
    ) -> None:
        """Args:
        published: valid (`app.domain.rule_check`), in any order.
        pod_ids: the pods that requests may be for.
        """
        self.published = tuple(sorted(published, key=lambda rules: rules.rule_set_id))
        self.index = index
        self.rules = ranked(self.published)
        """By rank."""
        self.seed_comparison = SeedComparison(index)
        self.newest = NewestItems(index)
        self.cap_values = CapValues(index)
        self._tests = ItemTests(index)
        self._bound: dict[int, ItemTest] = {}
        self._pods: dict[str, PodRules] = {}
        for pod_id in pod_ids:
            pod = PodRules(pod_id, self.rules, self.bind, lambda: self.signatures)
            if pod.rules:
                self._pods[pod_id] = pod
                self._bind_actions(pod.rules)
        self.signatures = Signatures(index, self._tests.timeless)

    @property
    def pod_ids(self) -> list[str]:
        """Pods that have rules."""
        return list(self._pods)

    def pod(self, pod_id: str) -> PodRules | None:
        """A pod's rules; None where it has none."""
        return self._pods.get(pod_id)

    def is_personal(self, pod_id: str) -> bool:
        """Whether the pod's rules may look at who the shopper is, or at what they did: then lists
        are not the same for all shoppers."""
        pod = self._pods.get(pod_id)
        return pod is not None and (
            pod.activation.is_personal
            or any(_is_personal(action) for rule in pod.rules for action in rule.rule.then)
        )

    def catch_up(self, limit: int = CHUNK) -> bool:
        """Do work ahead of requests, a part that takes some milliseconds; whether all is done.
        Called between requests, after compiling and after the catalogue changed."""
        if not self.signatures.catch_up(limit):
            return False
        self.newest.catch_up()
        return True

    def _bind_actions(self, rules: Sequence[RankedRule]) -> None:
        for rule in rules:
            for action in rule.rule.then:
                items = getattr(action, "items", None)
                if items is not None:
                    self.bind(items, rule.rule_set)

    def bind(self, expression: ItemExpression, rule_set: int) -> ItemTest:
        """The test of an item expression of the rule set with that number."""
        # Rules live as long as this does, so an expression's identity is its own.
        test = self._bound.get(id(expression))
        if test is None:
            named = self.published[rule_set].rules.expressions
            test = self._bound[id(expression)] = self._tests.test(expression, named)
        return test


def _is_personal(action: Action) -> bool:
    return isinstance(action, LeaveOut) or (isinstance(action, Rotate) and action.per_shopper)


def _rank(rule: RankedRule) -> int:
    return rule.rank
