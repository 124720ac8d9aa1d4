"""Conflicts and reach: rules that can never apply, contradict or hide one another, or end soon; and
which rules touch a pod, an item, a category.

Items are told apart by their signatures (`app.domain.rule_table`), so that ten thousand rules can
be compared with one another by a few products of matrices.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from app.domain import rule_action as act
from app.domain import rule_condition as when
from app.domain.rule_compile import CompiledRules
from app.domain.rule_program import RankedRule
from app.domain.rule_table import DAY, ItemTest
from app.domain.rule_trace import tag
from vitrine_sdk import BoolArray, IntArray

SOON: Final = 7 * DAY
T = TypeVar("T")

MAX_FINDINGS: Final = 500
"""Of one kind."""

Items = act.Fill | act.Boost | act.Bury | act.IncludeOnly | act.Exclude | act.AtLeast


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that the author of rules should know."""

    kind: str
    rules: tuple[str, ...]  # ids, the one that prevails first
    detail: str
    pods: tuple[str, ...] = ()  # where; empty: everywhere
    items: int | None = None  # so many items are concerned


class Touch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule that touches what was asked for."""

    rule: str
    name: str
    priority: int
    always: bool  # no condition beside the pod
    actions: tuple[str, ...]
    pods: tuple[str, ...]
    items: int | None = None  # of those asked for, so many are touched


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One action of a rule that speaks of items."""

    rule: RankedRule
    action: Items
    test: ItemTest
    members: BoolArray  # by signature: it matches at least one such item now


class Conflicts:
    """Looks at the rules over one index.

    Args:
        now: Unix seconds.
    """

    def __init__(self, rules: CompiledRules, now: float) -> None:
        self._rules = rules
        self._now = now
        self.index = index = rules.index
        rows = np.flatnonzero(index.present[: len(index)]).astype(np.int32)
        self._rows = rows
        signatures = rules.signatures.of(rows)
        count = rules.signatures.count
        self._counts = np.bincount(signatures, minlength=count).astype(np.float32)
        self._pods = self._pods_of()
        self._parts = list(self._all_parts(signatures, count))

    def findings(self) -> list[Finding]:
        """Everything, the gravest first."""
        found: list[Finding] = []
        for look in (
            self._never, self._pins, self._contrary, self._empty_together, self._rotations,
            self._ending,
        ):  # fmt: skip
            for number, finding in enumerate(look()):
                if number >= MAX_FINDINGS:
                    break
                found.append(finding)
        return found

    def touching_pod(self, pod_id: str) -> list[Touch]:
        """The rules that can be active for a pod, by rank."""
        pod = self._rules.pod(pod_id)
        return [] if pod is None else [self._touch(rule, None, None) for rule in pod.rules]

    def touching_items(self, rows: IntArray) -> list[Touch]:
        """The rules that act on at least one of the rows, by rank."""
        if not len(rows):
            return []
        ids = {self._rules.index.ids[row] for row in rows.tolist()}
        hits: dict[int, tuple[set[str], int]] = {}
        for part in self._parts:
            count = int(part.test.evaluate(rows, self._now).sum())
            if isinstance(part.action, act.IncludeOnly):
                count = len(rows) - count
            if count:
                kinds, most = hits.get(part.rule.rank, (set(), 0))
                hits[part.rule.rank] = (kinds | {tag(part.action)}, max(most, count))
        for rule in self._rules.rules:
            for action in rule.rule.then:
                if isinstance(action, act.Pin) and action.item_id in ids:
                    kinds, most = hits.get(rule.rank, (set(), 0))
                    hits[rule.rank] = (kinds | {"pin"}, max(most, 1))
        return [
            self._touch(self._rules.rules[rank], kinds, count)
            for rank, (kinds, count) in sorted(hits.items())
        ]

    def _touch(self, rule: RankedRule, kinds: set[str] | None, items: int | None) -> Touch:
        return Touch(
            rule=rule.id,
            name=rule.rule.name,
            priority=rule.rule.priority,
            always=rule.rule.when is None or isinstance(rule.rule.when, when.WhenPod),
            actions=tuple(
                kind
                for kind in dict.fromkeys(map(tag, rule.rule.then))
                if kinds is None or kind in kinds
            ),
            pods=tuple(sorted(self._pods.get(rule.rank, ()))),
            items=items,
        )

    def _pods_of(self) -> dict[int, frozenset[str]]:
        found: dict[int, set[str]] = {}
        for pod_id in self._rules.pod_ids:
            pod = self._rules.pod(pod_id)
            for rule in () if pod is None else pod.rules:
                found.setdefault(rule.rank, set()).add(pod_id)
        return {rank: frozenset(pods) for rank, pods in found.items()}

    def _all_parts(self, signatures: IntArray, count: int) -> Iterator[_Part]:
        for rule in self._rules.rules:
            if rule.rank not in self._pods:
                continue
            for action in rule.rule.then:
                if isinstance(action, Items):
                    test = self._rules.bind(action.items, rule.rule_set)
                    if test.number >= 0:
                        members = self._rules.signatures.membership[test.number, :count]
                    else:
                        members = np.zeros(count, np.bool_)
                        members[signatures[test.evaluate(self._rows, self._now)]] = True
                    yield _Part(rule, action, test, members)

    def _items(self, members: BoolArray) -> int:
        return int(self._counts[members].sum())

    def _never(self) -> Iterator[Finding]:
        for rule in self._rules.rules:
            if rule.rank not in self._pods:
                yield Finding(
                    kind="never_applies", rules=(rule.id,),
                    detail="its condition holds for no pod that there is",
                )  # fmt: skip
            elif (ended := _ended(rule.rule.when, self._now)) is not None:
                yield Finding(kind="never_applies", rules=(rule.id,), detail=f"it ended on {ended}")
        for part in self._parts:
            if isinstance(part.action, act.IncludeOnly):
                continue
            if not self._items(part.members):
                yield Finding(
                    kind="matches_nothing", rules=(part.rule.id,), items=0,
                    detail=f"its {tag(part.action)} matches no item of the catalogue",
                )  # fmt: skip

    def _pins(self) -> Iterator[Finding]:
        """Claims to one slot, and pinned items that a rule leaves out."""
        by_slot: dict[int, list[tuple[RankedRule, str | None]]] = {}
        by_item: dict[str, list[tuple[RankedRule, int]]] = {}
        for rule in self._rules.rules:
            for action in rule.rule.then:
                if isinstance(action, act.Pin):
                    by_slot.setdefault(action.slot, []).append((rule, action.item_id))
                    by_item.setdefault(action.item_id, []).append((rule, action.slot))
                    yield from self._pinned_and_left_out(rule, action)
                elif isinstance(action, act.Fill):
                    for slot in action.slots:
                        by_slot.setdefault(slot, []).append((rule, None))
        for slot, claims in by_slot.items():
            for (upper, _), (lower, item) in _pairs(claims):
                if pods := self._together(upper, lower):
                    hidden = _always(upper) and item is not None
                    yield Finding(
                        kind="hidden" if hidden else "same_slot",
                        rules=(upper.id, lower.id), pods=pods,
                        detail=f"both claim slot {slot}; {upper.id} has it while it can be met",
                    )  # fmt: skip
        for item_id, pinned in by_item.items():
            for (upper, slot), (lower, other) in _pairs(pinned):
                if slot != other and (pods := self._together(upper, lower)):
                    yield Finding(
                        kind="pinned_twice", rules=(upper.id, lower.id), pods=pods,
                        detail=f"{item_id} is pinned to slot {slot} and to slot {other}; "
                        f"{upper.id} has it",
                    )  # fmt: skip

    def _pinned_and_left_out(self, rule: RankedRule, pin: act.Pin) -> Iterator[Finding]:
        row = self._rules.index.row(pin.item_id)
        if row < 0 or not self._rules.index.present[row]:
            return
        signature = int(self._rules.signatures.of(np.array([row], np.int32))[0])
        for part in self._parts:
            leaves_out = (isinstance(part.action, act.Exclude) and part.members[signature]) or (
                isinstance(part.action, act.IncludeOnly) and not part.members[signature]
            )
            if not leaves_out or not (pods := self._together(rule, part.rule)):
                continue
            stands = rule.rule.priority > part.rule.rule.priority
            order = (rule.id, part.rule.id) if stands else (part.rule.id, rule.id)
            yield Finding(
                kind="pinned_and_left_out", rules=order, pods=pods, items=1,
                detail=f"{pin.item_id} is pinned to slot {pin.slot} by {rule.id} and left out by "
                f"{part.rule.id}: " + ("the pin stands" if stands else "it is left out"),
            )  # fmt: skip

    def _contrary(self) -> Iterator[Finding]:
        """Items that are boosted by one rule and buried by another, or boosted by two; and boosts
        of what is left out anyway."""
        boosts = [part for part in self._parts if isinstance(part.action, act.Boost)]
        buries = [part for part in self._parts if isinstance(part.action, act.Bury)]
        excludes = [part for part in self._parts if isinstance(part.action, act.Exclude)]
        for upper, lower, count in self._overlaps(boosts, buries):
            if pods := self._together(upper.rule, lower.rule):
                yield Finding(
                    kind="contrary", rules=(upper.rule.id, lower.rule.id), pods=pods, items=count,
                    detail=f"{count} items are boosted by the one and buried by the other",
                )  # fmt: skip
        for upper, lower, count in self._overlaps(excludes, boosts + buries):
            pods = self._together(upper.rule, lower.rule)
            if pods and _always(upper.rule) and count == self._items(lower.members):
                yield Finding(
                    kind="hidden", rules=(upper.rule.id, lower.rule.id), pods=pods, items=count,
                    detail=f"all {count} items that {lower.rule.id} moves are left out",
                )  # fmt: skip
        for upper, lower, count in self._overlaps(boosts, boosts):
            if upper.rule.rank < lower.rule.rank and (
                pods := self._together(upper.rule, lower.rule)
            ):
                yield Finding(
                    kind="adds_up", rules=(upper.rule.id, lower.rule.id), pods=pods, items=count,
                    detail=f"{count} items are boosted by both; the strengths add up",
                )  # fmt: skip

    def _empty_together(self) -> Iterator[Finding]:
        onlys = [part for part in self._parts if isinstance(part.action, act.IncludeOnly)]
        if len(onlys) < 2:
            return
        counts = self._products(onlys, onlys)
        for i, upper in enumerate(onlys):
            for j in range(i + 1, len(onlys)):
                lower = onlys[j]
                if not counts[i, j] and (pods := self._together(upper.rule, lower.rule)):
                    yield Finding(
                        kind="nothing_left", rules=(upper.rule.id, lower.rule.id), pods=pods,
                        items=0, detail="no item matches what both include only",
                    )  # fmt: skip

    def _rotations(self) -> Iterator[Finding]:
        rotating = [
            (rule, None)
            for rule in self._rules.rules
            if any(isinstance(action, act.Rotate) for action in rule.rule.then)
        ]
        for (upper, _), (lower, _) in _pairs(rotating):
            if (pods := self._together(upper, lower)) and _always(upper):
                yield Finding(
                    kind="hidden", rules=(upper.id, lower.id), pods=pods,
                    detail="both rotate; only the first one does",
                )  # fmt: skip

    def _ending(self) -> Iterator[Finding]:
        for rule in self._rules.rules:
            end = _end(rule.rule.when)
            if end is not None and self._now < end.timestamp() <= self._now + SOON:
                yield Finding(
                    kind="ends_soon", rules=(rule.id,), detail=f"it ends on {end.isoformat()}"
                )

    def _overlaps(
        self, left: Sequence[_Part], right: Sequence[_Part]
    ) -> Iterator[tuple[_Part, _Part, int]]:
        """Pairs of different rules that share items, with their number."""
        if not left or not right:
            return
        counts = self._products(left, right)
        for i, j in np.argwhere(counts > 0).tolist():
            if left[i].rule is not right[j].rule:
                yield left[i], right[j], int(counts[i, j])

    def _products(self, left: Sequence[_Part], right: Sequence[_Part]) -> npt.NDArray[np.float32]:
        """Items that each of the one shares with each of the other."""
        ours = np.array([part.members for part in left], np.float32) * self._counts
        theirs = np.array([part.members for part in right], np.float32)
        shared: npt.NDArray[np.float32] = (ours @ theirs.T).astype(np.float32)
        return shared

    def _together(self, one: RankedRule, other: RankedRule) -> tuple[str, ...]:
        """Pods for which both rules can be active."""
        none: frozenset[str] = frozenset()
        both = self._pods.get(one.rank, none) & self._pods.get(other.rank, none)
        return tuple(sorted(both))


def _pairs(
    claims: Sequence[tuple[RankedRule, T]],
) -> Iterator[tuple[tuple[RankedRule, T], tuple[RankedRule, T]]]:
    """Each pair of claims, the one that prevails first."""
    for i, upper in enumerate(claims):
        for lower in claims[i + 1 :]:
            yield upper, lower


def _always(rule: RankedRule) -> bool:
    """Whether it is active for every request of its pods."""
    return rule.rule.when is None or isinstance(rule.rule.when, when.WhenPod)


def _end(condition: when.Condition | None) -> dt.datetime | None:
    """When the condition ceases to hold for good; None: it does not, by itself."""
    if isinstance(condition, when.WhenBetween):
        return condition.end
    if isinstance(condition, when.WhenAnd):
        ends = [end for part in condition.of if (end := _end(part)) is not None]
        return min(ends, default=None)
    if isinstance(condition, when.WhenOr):
        each = [_end(part) for part in condition.of]
        known = [end for end in each if end is not None]
        return max(known) if known and len(known) == len(each) else None
    return None


def _ended(condition: when.Condition | None, now: float) -> str | None:
    end = _end(condition)
    return end.isoformat() if end is not None and end.timestamp() <= now else None
