"""What one set of active rules does, as arrays.

What leaves out and what boosts is added up over the rules, one number a signature
(`app.domain.rule_table`); a request takes it by its candidates' signatures. Rules with the same
condition are added up once; those groups that are active together, where that comes often. What is
seldom is worked out for its candidates alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from app.domain import rule_action as act
from app.domain.item_index import ItemIndex
from app.domain.rule import Rule
from app.domain.rule_items import ItemExpression
from app.domain.rule_table import ItemTest, Signatures, part_of
from vitrine_sdk import BoolArray, FloatArray, IntArray

KEEP: Final = np.int32(2**31 - 1)
"""Said of a candidate that no rule leaves out, where otherwise the rule's rank is said."""

LARGE: Final = 2
MAX_LARGE: Final = 32
"""So many groups of a pod, of those with at least LARGE tests the largest ones, are added up for
every signature: 8 bytes each."""

OFTEN: Final = 2
"""Uses of a program after which its groups are added up for every signature."""

MAX_DENSE: Final = 2_000_000
"""Tests of small groups × signatures that are added up at once."""

CHUNK: Final = 8_192

MAX_MODELS: Final = 16
"""Whose eligible rows are remembered, a program."""

Binder = Callable[[ItemExpression, int], ItemTest]
"""The test of an item expression of the rule set with that number."""

Relative = act.SameAsSeed | act.DifferentFromSeed | act.PriceOfSeed | act.LeaveOut


@dataclass(frozen=True, slots=True, eq=False)
class RankedRule:
    """A rule in its place among all of a merchant's: a lower rank wins."""

    rank: int
    rule_set_id: str
    rule_set: int  # its number among the published ones
    rule: Rule

    @property
    def id(self) -> str:
        """Unique among all of a merchant's rules."""
        return f"{self.rule_set_id}/{self.rule.id}"


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A rule's claim to a slot: an item, or whatever matches."""

    slot: int  # 1 is the first
    rule: RankedRule
    item_id: str | None
    test: ItemTest | None


@dataclass(frozen=True, slots=True, eq=False)
class Cap:
    rule: RankedRule
    action: act.AtMost


@dataclass(frozen=True, slots=True, eq=False)
class ShareOf:
    rule: RankedRule
    percent: float
    first: int
    test: ItemTest


class RuleGroup:
    """Rules with one condition, that are active together. What they leave out and boost is added up
    once, one number a signature, where they are many."""

    def __init__(
        self, rules: Sequence[RankedRule], bind: Binder, signatures: Callable[[], Signatures]
    ) -> None:
        """Args:
        rules: by rank.
        signatures: of the index that the tests are bound to, once all tests are made.
        """
        self.rules = rules
        self._signatures = signatures
        self.claims: list[Claim] = []
        self.caps: list[Cap] = []
        self.shares: list[ShareOf] = []
        self.relatives: list[tuple[Relative, RankedRule]] = []
        self.min_relevance: list[tuple[float, RankedRule]] = []
        self.rotations: list[tuple[act.Rotate, RankedRule]] = []
        self.timed_drops: list[tuple[ItemTest, bool, int]] = []  # test, inverse, rank
        self.timed_boosts: list[tuple[ItemTest, float]] = []
        drops: list[tuple[int, bool, int]] = []
        boosts: list[tuple[int, float]] = []
        for ranked, action in _actions(rules):
            match action:
                case act.Exclude() | act.IncludeOnly():
                    test = bind(action.items, ranked.rule_set)
                    inverse = isinstance(action, act.IncludeOnly)
                    if test.timeless:
                        drops.append((test.number, inverse, ranked.rank))
                    else:
                        self.timed_drops.append((test, inverse, ranked.rank))
                case act.Boost() | act.Bury():
                    test = bind(action.items, ranked.rule_set)
                    weight = action.strength * (1.0 if isinstance(action, act.Boost) else -1.0)
                    if test.timeless:
                        boosts.append((test.number, weight))
                    else:
                        self.timed_boosts.append((test, weight))
                case _:
                    self._add(ranked, action, bind)
        self.tests = Tests(
            drop_tests=np.array([number for number, _, _ in drops], np.int32),
            drop_inverse=np.array([inverse for _, inverse, _ in drops], np.bool_),
            drop_ranks=np.array([rank for _, _, rank in drops], np.int32),
            boost_tests=np.array([number for number, _ in boosts], np.int32),
            boost_weights=np.array([weight for _, weight in boosts], np.float32),
        )
        self.is_large = False  # added up for every signature
        self._sums = Sums.none(self.tests)

    def sums(self) -> Sums:
        """Of every signature; what is new is added."""
        signatures = self._signatures()
        have = len(self._sums)
        if have < signatures.count:
            for start in range(have, signatures.count, CHUNK):
                end = min(start + CHUNK, signatures.count)
                fresh = self.tests.of(signatures, np.arange(start, end, dtype=np.int32))
                self._sums = self._sums.followed_by(fresh)
        return self._sums

    def catch_up(self) -> bool:
        """Add up a part of the signatures; whether all are now."""
        signatures = self._signatures()
        start = len(self._sums)
        end = min(start + part_of(len(self.tests)), signatures.count)
        if start < end:
            fresh = self.tests.of(signatures, np.arange(start, end, dtype=np.int32))
            self._sums = self._sums.followed_by(fresh)
        return end == signatures.count

    def _add(self, ranked: RankedRule, action: act.Action, bind: Binder) -> None:
        match action:
            case act.Pin():
                self.claims.append(Claim(action.slot, ranked, action.item_id, None))
            case act.Fill():
                test = bind(action.items, ranked.rule_set)
                self.claims.extend(Claim(slot, ranked, None, test) for slot in action.slots)
            case act.AtMost():
                self.caps.append(Cap(ranked, action))
            case act.AtLeast():
                test = bind(action.items, ranked.rule_set)
                self.shares.append(ShareOf(ranked, action.percent, action.first, test))
            case act.MinRelevance():
                self.min_relevance.append((action.at_least, ranked))
            case act.Rotate():
                self.rotations.append((action, ranked))
            case act.SameAsSeed() | act.DifferentFromSeed() | act.PriceOfSeed() | act.LeaveOut():
                self.relatives.append((action, ranked))


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What rules together say of signatures; None: none of them says anything."""

    drop: IntArray | None  # rank of the first rule that leaves it out, or KEEP
    boost: FloatArray | None  # strengths added up

    def __len__(self) -> int:
        arrays = self.drop if self.drop is not None else self.boost
        return 2**31 if arrays is None else len(arrays)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (self.drop, self.boost) if array is not None)

    @staticmethod
    def none(tests: Tests) -> Sums:
        """Of no signature yet."""
        return Sums(
            np.empty(0, np.int32) if len(tests.drop_tests) else None,
            np.empty(0, np.float32) if len(tests.boost_tests) else None,
        )

    def followed_by(self, other: Sums) -> Sums:
        return Sums(
            None if self.drop is None or other.drop is None
            else np.concatenate((self.drop, other.drop)),
            None if self.boost is None or other.boost is None
            else np.concatenate((self.boost, other.boost)),
        )  # fmt: skip

    def of(self, signatures: IntArray) -> Sums:
        return Sums(
            None if self.drop is None else self.drop[signatures],
            None if self.boost is None else self.boost[signatures],
        )

    def and_(self, other: Sums) -> Sums:
        """What both say together."""
        drop, boost = self.drop, self.boost
        if other.drop is not None:
            drop = other.drop if drop is None else np.minimum(drop, other.drop)
        if other.boost is not None:
            boost = other.boost if boost is None else boost + other.boost
        return Sums(drop, boost)


@dataclass(frozen=True, slots=True, eq=False)
class Tests:
    """Timeless item tests of rules, by their number."""

    drop_tests: IntArray
    drop_inverse: BoolArray
    drop_ranks: IntArray
    boost_tests: IntArray
    boost_weights: FloatArray

    def __len__(self) -> int:
        return len(self.drop_tests) + len(self.boost_tests)

    @staticmethod
    def joined(every: Sequence[Tests]) -> Tests:
        ranks = np.concatenate([tests.drop_ranks for tests in every])
        order = np.argsort(ranks, kind="stable")
        return Tests(
            np.concatenate([tests.drop_tests for tests in every])[order],
            np.concatenate([tests.drop_inverse for tests in every])[order],
            ranks[order],
            np.concatenate([tests.boost_tests for tests in every]),
            np.concatenate([tests.boost_weights for tests in every]),
        )

    def of(self, table: Signatures, signatures: IntArray) -> Sums:
        """What they say of signatures."""
        drop: IntArray | None = None
        boost: FloatArray | None = None
        if len(self.drop_tests):
            said = table.membership[self.drop_tests[:, None], signatures]
            said ^= self.drop_inverse[:, None]
            first = said.argmax(axis=0)
            # Where nothing is said, argmax is 0: looked at once more.
            hit = said[first, np.arange(len(first))]
            drop = np.where(hit, self.drop_ranks[first], KEEP)
        if len(self.boost_tests):
            # Strengths are whole numbers: their sum is exact, whatever the order of adding.
            said = table.membership[self.boost_tests[:, None], signatures]
            boost = self.boost_weights @ said.astype(np.float32)
        return Sums(drop, boost)


class Program:
    """The groups that are active together, in the form a request needs."""

    def __init__(self, groups: Sequence[RuleGroup], signatures: Signatures) -> None:
        self._signatures = signatures
        self._groups = groups
        self.claims = sorted(
            (claim for group in groups for claim in group.claims),
            key=lambda claim: (claim.rule.rank, claim.slot),
        )
        self.caps = sorted(
            (cap for group in groups for cap in group.caps), key=lambda cap: cap.rule.rank
        )
        self.shares = sorted(
            (share for group in groups for share in group.shares), key=lambda s: s.rule.rank
        )
        self.relatives = [pair for group in groups for pair in group.relatives]
        self.min_relevance = [pair for group in groups for pair in group.min_relevance]
        rotations = [pair for group in groups for pair in group.rotations]
        # By rank, the first one counts.
        self.rotation = min(rotations, key=lambda pair: pair[1].rank) if rotations else None
        self.timed_drops = [drop for group in groups for drop in group.timed_drops]
        self.timed_boosts = [boost for group in groups for boost in group.timed_boosts]
        self._large = [group for group in groups if group.is_large]
        small = [group.tests for group in groups if not group.is_large and len(group.tests)]
        self._small = Tests.joined(small) if small else None
        self._leaves_out = any(len(group.tests.drop_tests) for group in groups)
        self._boosts = any(len(group.tests.boost_tests) for group in groups)
        self._eligible = EligibleRows(self, signatures) if self._leaves_out else None
        self._pinned: tuple[int, int, IntArray] = (-1, -1, np.empty(0, np.int32))
        self._uses = 0
        self._sums: Sums | None = None  # of every signature, where it is used often
        self.drops = bool(
            self._leaves_out or self.timed_drops or self.relatives or self.min_relevance
        )
        """Whether it can leave anything out."""
        self.boosts = bool(self._boosts or self.timed_boosts)
        self.places = bool(self.claims or self.caps or self.shares)
        """Whether it does more with an ordered list than to cut it."""
        self.drops_by_signature = not (self.timed_drops or self.relatives or self.min_relevance)
        """Whether what it leaves out is said by signatures alone."""
        self.arranges_by_signature = not (
            self.claims or self.shares or self.rotation or self.timed_boosts
        )
        """Whether an order by signatures and caps is all that it does with a list."""

    @property
    def rules(self) -> Sequence[RankedRule]:
        """By rank."""
        return sorted(
            (rule for group in self._groups for rule in group.rules), key=lambda rule: rule.rank
        )

    @property
    def is_empty(self) -> bool:
        return not self._groups

    @property
    def is_timed(self) -> bool:
        """Whether its items change with time alone."""
        return bool(
            self.timed_drops
            or self.timed_boosts
            or any(claim.test is not None and not claim.test.timeless for claim in self.claims)
            or any(not share.test.timeless for share in self.shares)
        )

    def pinned_rows(self, index: ItemIndex, want: int) -> IntArray:
        """Rows of the items that are pinned to the first `want` slots, each once."""
        known = self._pinned
        if known[0] != len(index) or known[1] != want:  # a row, once given, stays the item's
            ids = dict.fromkeys(
                claim.item_id
                for claim in self.claims
                if claim.item_id is not None and claim.slot <= want
            )
            rows = index.rows(list(ids))
            self._pinned = known = (len(index), want, rows[rows >= 0])
        return known[2]

    def says(self, signatures: IntArray) -> Sums:
        """What rules whose expressions are the same at every time say of signatures."""
        sums = self.said()
        return self._added_up(signatures, whole=False) if sums is None else sums.of(signatures)

    def said(self) -> Sums | None:
        """`says` of every signature that there is; None: it is used too seldom."""
        sums = self._sums
        if sums is not None and len(sums) >= self._signatures.count:
            return sums
        self._uses += 1
        if self._uses <= OFTEN or not self._is_cheap():
            return None
        every = np.arange(self._signatures.count, dtype=np.int32)
        self._sums = self._added_up(every, whole=True)
        return self._sums

    def eligible(self, index: ItemIndex, rows: IntArray) -> BoolArray | None:
        """Which of a model's rows are not left out, for a strategy to choose from; None: most are
        not, so that it need not be told."""
        if self._eligible is None or not self._eligible.is_narrow:
            return None
        return self._eligible.of(index, rows)

    @property
    def is_narrow(self) -> bool:
        """Whether it leaves out most of the catalogue."""
        return self._eligible is not None and self._eligible.is_narrow

    @property
    def held_bytes(self) -> int:
        return 0 if self._sums is None else self._sums.nbytes

    def _is_cheap(self) -> bool:
        return self._small is None or len(self._small) * self._signatures.count <= MAX_DENSE

    def _added_up(self, signatures: IntArray, *, whole: bool) -> Sums:
        sums = Sums(None, None)
        for group in self._large:
            of_group = group.sums()
            sums = sums.and_(of_group if whole else of_group.of(signatures))
        if self._small is not None:
            sums = sums.and_(self._small.of(self._signatures, signatures))
        return sums


class EligibleRows:
    """What a program that leaves out most of the catalogue leaves in: one flag a row, kept true by
    the rows that changed. A strategy that is told finds enough however rare that is."""

    def __init__(self, program: Program, signatures: Signatures) -> None:
        self._program = program
        self._signatures = signatures
        self._mask: BoolArray = np.zeros(0, np.bool_)
        self._revision = -1
        self._answers: dict[int, tuple[IntArray, int, BoolArray]] = {}  # by identity of the rows

    @cached_property
    def is_narrow(self) -> bool:
        sizes = self._signatures.sizes()
        drop = self._program.says(np.arange(len(sizes), dtype=np.int32)).drop
        return drop is not None and 2 * int(sizes[drop == KEEP].sum()) < int(sizes.sum())

    def of(self, index: ItemIndex, rows: IntArray) -> BoolArray:
        """One flag a row of `rows`, the rows of a model."""
        known = self._answers.get(id(rows))
        if known is None or known[0] is not rows or known[1] != index.revision:
            self._follow(index)
            answer: BoolArray = self._mask[rows] & index.available[rows]
            answer.flags.writeable = False
            if len(self._answers) >= MAX_MODELS:
                self._answers.clear()
            self._answers[id(rows)] = known = (rows, index.revision, answer)
        return known[2]

    def _follow(self, index: ItemIndex) -> None:
        have, count = len(self._mask), len(index)
        changed = np.flatnonzero(index.changed[:have] > self._revision).astype(np.int32)
        fresh = np.arange(have, count, dtype=np.int32)
        self._mask = np.concatenate((self._mask, np.zeros(count - have, np.bool_)))
        for rows in (changed, fresh):
            for start in range(0, len(rows), CHUNK):
                some = rows[start : start + CHUNK]
                drop = self._program.says(self._signatures.of(some)).drop
                self._mask[some] = True if drop is None else drop == KEEP
        self._revision = index.revision


def _actions(rules: Sequence[RankedRule]) -> Iterator[tuple[RankedRule, act.Action]]:
    for ranked in rules:
        for action in ranked.rule.then:
            yield ranked, action
