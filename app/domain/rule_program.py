"""What one set of active rules does, as arrays.

What leaves out and what boosts is added up over all rules once, one number a signature
(`app.domain.rule_table`); a request takes it by its candidates' signatures. That is done from the
second use on: a set of rules that is active only once is worked out for its candidates alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.domain import rule_action as act
from app.domain.rule import Rule
from app.domain.rule_items import ItemExpression
from app.domain.rule_table import ItemTest, Signatures
from vitrine_sdk import FloatArray, IntArray

KEEP: Final = np.int32(2**31 - 1)
"""Said of a candidate that no rule leaves out, where otherwise the rule's rank is said."""

MAX_DENSE: Final = 8_000_000
"""Tests × signatures that are added up at once; beyond, only candidates are looked at."""

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


class Program:
    """The actions of the rules that are active together, in the form a request needs."""

    def __init__(self, rules: Sequence[RankedRule], bind: Binder, signatures: Signatures) -> None:
        """Args:
        rules: by rank.
        """
        self.rules = rules
        self._signatures = signatures
        self.claims: list[Claim] = []
        self.caps: list[Cap] = []
        self.shares: list[ShareOf] = []
        self.relatives: list[tuple[Relative, RankedRule]] = []
        self.min_relevance: list[tuple[float, RankedRule]] = []
        self.rotation: tuple[act.Rotate, RankedRule] | None = None
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
        self.claims.sort(key=lambda claim: (claim.rule.rank, claim.slot))
        self._drop_tests = np.array([number for number, _, _ in drops], np.int32)
        self._drop_inverse = np.array([inverse for _, inverse, _ in drops], np.bool_)
        self._drop_ranks = np.array([*(rank for _, _, rank in drops), KEEP], np.int32)
        self._boost_tests = np.array([number for number, _ in boosts], np.int32)
        self._boost_weights = np.array([weight for _, weight in boosts], np.float32)
        self._uses = 0
        self._drop: IntArray = np.empty(0, np.int32)  # by signature
        self._boost: FloatArray = np.empty(0, np.float32)  # by signature

    @property
    def drops(self) -> bool:
        """Whether it can leave anything out."""
        return bool(
            len(self._drop_tests) or self.timed_drops or self.relatives or self.min_relevance
        )

    @property
    def boosts(self) -> bool:
        return bool(len(self._boost_tests) or self.timed_boosts)

    @property
    def places(self) -> bool:
        """Whether it does more with an ordered list than to cut it."""
        return bool(self.claims or self.caps or self.shares)

    @property
    def is_timed(self) -> bool:
        """Whether its items change with time alone."""
        return bool(
            self.timed_drops
            or self.timed_boosts
            or any(claim.test is not None and not claim.test.timeless for claim in self.claims)
            or any(not share.test.timeless for share in self.shares)
        )

    def dropped(self, signatures: IntArray) -> IntArray:
        """The rank of the first rule that leaves items of each signature out, or KEEP: by rules
        whose expressions are the same at every time."""
        if not len(self._drop_tests):
            return np.full(len(signatures), KEEP, np.int32)
        if self._dense():
            return self._drop[signatures]
        return self._dropped(signatures)

    def boosted(self, signatures: IntArray) -> FloatArray | None:
        """The sum of strengths of each signature, likewise; None: no rule boosts."""
        if not len(self._boost_tests):
            return None
        if self._dense():
            return self._boost[signatures]
        return self._boosted(signatures)

    @property
    def dense_bytes(self) -> int:
        return self._drop.nbytes + self._boost.nbytes

    def _dense(self) -> bool:
        """Whether the sums of all signatures are there, made where it is time."""
        count = self._signatures.count
        have = max(len(self._drop), len(self._boost))
        if have >= count:
            return True
        self._uses += 1
        tests = len(self._drop_tests) + len(self._boost_tests)
        if self._uses < 2 or tests * (count - have) > MAX_DENSE:
            return False
        fresh = np.arange(have, count, dtype=np.int32)
        if len(self._drop_tests):
            self._drop = np.concatenate((self._drop, self._dropped(fresh)))
        if len(self._boost_tests):
            self._boost = np.concatenate((self._boost, self._boosted(fresh)))
        return True

    def _dropped(self, signatures: IntArray) -> IntArray:
        said = self._signatures.membership[self._drop_tests[:, None], signatures]
        said ^= self._drop_inverse[:, None]
        first = said.argmax(axis=0)
        # Where nothing is said, argmax is 0: those point behind the last, at KEEP.
        first[~said[first, np.arange(len(first))]] = len(said)
        ranks: IntArray = self._drop_ranks[first]
        return ranks

    def _boosted(self, signatures: IntArray) -> FloatArray:
        # Strengths are whole numbers: their sum is exact, whatever the order of adding.
        said = self._signatures.membership[self._boost_tests[:, None], signatures]
        boost: FloatArray = self._boost_weights @ said.astype(np.float32)
        return boost

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
                if self.rotation is None:  # by rank: the first one counts
                    self.rotation = (action, ranked)
            case act.SameAsSeed() | act.DifferentFromSeed() | act.PriceOfSeed() | act.LeaveOut():
                self.relatives.append((action, ranked))


def _actions(rules: Sequence[RankedRule]) -> Iterator[tuple[RankedRule, act.Action]]:
    for ranked in rules:
        for action in ranked.rule.then:
            yield ranked, action
