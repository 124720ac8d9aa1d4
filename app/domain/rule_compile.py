"""Published rules, compiled against the items of one section.

What costs is done here, at publication: item expressions become flags by signature
(`rule_table`), conditions become bits (`rule_activation`), and the rules that are active together
become one program (`rule_program`). A request turns its facts into bits, and finds its program
under them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from app.domain.item_index import ItemIndex
from app.domain.rule import PublishedRules
from app.domain.rule_action import Action, LeaveOut, Rotate
from app.domain.rule_activation import Activation, Test
from app.domain.rule_caps import CapValues
from app.domain.rule_items import ItemExpression
from app.domain.rule_newest import NewestItems
from app.domain.rule_program import LARGE, MAX_LARGE, Binder, Program, RankedRule, RuleGroup
from app.domain.rule_seed import SeedComparison
from app.domain.rule_table import ItemTest, ItemTests, Signatures

_encode: Final = msgspec.json.Encoder().encode
_ALWAYS: Final = (b"", -1)

MAX_BITS: Final = 4_096
"""Combinations of facts whose program is remembered, a pod."""

MAX_PROGRAMS: Final = 1_024
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
        shared: dict[tuple[int, ...], RuleGroup],
    ) -> None:
        """Args:
        shared: groups of the other pods, by their rules' ranks.
        """
        self.activation = Activation(pod_id, bind, signatures)
        self._signatures = signatures
        self.rules: list[RankedRule] = []
        """By rank."""
        by_condition: dict[tuple[bytes, int], tuple[Test | bool, list[RankedRule]]] = {}
        for rule in rules:
            when = rule.rule.when
            # The same condition may name another expression in another rule set.
            key = (_encode(when), rule.rule_set)
            if key not in by_condition:
                test = True if when is None else self.activation.compile(when, rule.rule_set)
                # What holds for every request is one group, however it is written.
                by_condition.setdefault(_ALWAYS if test is True else key, (test, []))
                if test is True:
                    by_condition[key] = by_condition[_ALWAYS]
            test, members = by_condition[key]
            if test is not False:
                members.append(rule)
                self.rules.append(rule)
        self._tests: list[Test | bool] = []
        self.groups: list[RuleGroup] = []
        for test, members in {id(entry): entry for entry in by_condition.values()}.values():
            if members:
                self._tests.append(test)
                ranks = tuple(rule.rank for rule in members)
                if ranks not in shared:
                    shared[ranks] = RuleGroup(members, bind, signatures)
                self.groups.append(shared[ranks])
        by_size = sorted(self.groups, key=lambda group: len(group.tests), reverse=True)
        for group in by_size[:MAX_LARGE]:
            group.is_large = group.is_large or len(group.tests) >= LARGE
        self._by_bits: dict[int, Program] = {}
        self._by_groups: dict[tuple[int, ...], Program] = {}

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
        active = tuple(
            number
            for number, test in enumerate(self._tests)
            if test is True or (test is not False and test(bits))
        )
        program = self._by_groups.get(active)
        if program is None:
            held = sum(program.held_bytes for program in self._by_groups.values())
            if len(self._by_groups) >= MAX_PROGRAMS or held > MAX_PROGRAM_BYTES:
                self._by_groups.clear()
                self._by_bits.clear()
            program = Program([self.groups[number] for number in active], self._signatures())
            self._by_groups[active] = program
        return program


class CompiledRules:
    """All of a merchant's published rules over one item index. Follows the index as it changes."""

    def __init__(
        self,
        published: Sequence[PublishedRules],
        index: ItemIndex,
        pod_ids: Iterable[str],
        before: CompiledRules | None = None,
    ) -> None:
        """Args:
        published: valid (`app.domain.rule_check`), in any order.
        pod_ids: the pods that requests may be for.
        before: the rules that these replace: what is the same is not worked out again.
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
        groups: dict[tuple[int, ...], RuleGroup] = {}
        for pod_id in pod_ids:
            pod = PodRules(pod_id, self.rules, self.bind, lambda: self.signatures, groups)
            if pod.rules:
                self._pods[pod_id] = pod
                self._bind_actions(pod.rules)
        self.meanings = self._tests.meanings
        self.signatures: Signatures = Signatures(index, self._tests.timeless)
        if before is not None and before.index is index:
            self.newest.shuffle = before.newest.shuffle
            if before.meanings == self.meanings:
                # A pin, a slot or a strength that changes asks nothing else of the items.
                self.signatures = before.signatures
        self._unsummed = [group for group in groups.values() if group.is_large]

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

    def catch_up(self) -> bool:
        """Do work ahead of requests, a part (see `rule_table.WORK`); whether all is done.
        Called between requests, after compiling and after the catalogue changed."""
        if not self.signatures.catch_up():
            return False
        if self._unsummed:
            if self._unsummed[-1].catch_up():
                self._unsummed.pop()
            return False
        return self.newest.catch_up()

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
