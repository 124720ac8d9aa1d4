"""Which rules are active for a request.

Every distinct leaf of the conditions of a pod's rules has a bit. A request's facts are turned into
those bits by look-ups (segment → bits, cell → bits, the seed's signature → bits, ...), whose cost
does not depend on the number of rules; what the bits mean for the rules is worked out once and
remembered by `app.domain.rule_compile`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from app.domain import rule_condition as when
from app.domain.recommendation import RecommendationRequest
from app.domain.rule_check import zone
from app.domain.rule_items import ItemExpression
from app.domain.rule_table import DAY, ItemTest, Signatures
from vitrine_sdk import BoolArray, EventType, FloatArray, IntArray

_encode: Final = msgspec.json.Encoder().encode

MAX_TERMS: Final = 10_000
"""Terms whose bits are remembered."""

_NO_ROWS: Final = np.empty(0, np.int32)
_DAYS: Final = tuple(when.Weekday)
_TYPES: Final = {
    when.Acted.VIEWED: EventType.VIEW,
    when.Acted.CLICKED: EventType.CLICK,
    when.Acted.IN_CART: EventType.CART,
    when.Acted.BOUGHT: EventType.PURCHASE,
}


@dataclass(frozen=True, slots=True, eq=False)
class Acts:
    """What the shopper did lately, newest first; parallel arrays. Items that are not in the
    catalogue are left out."""

    rows: IntArray = field(default_factory=lambda: _NO_ROWS)
    types: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))  # EventType
    ages: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))  # seconds

    def rows_of(self, what: when.Acted, days: float) -> IntArray:
        """Rows that the shopper did so to within the last days; a row may come twice."""
        chosen: BoolArray = (self.types == _TYPES[what]) & (self.ages <= days * DAY)
        rows = self.rows[chosen]
        if what is not when.Acted.IN_CART or not len(rows):
            return rows
        bought = self.types == EventType.PURCHASE
        # In the cart is what was not bought since: with or after the latest putting in.
        since: dict[int, float] = {}
        for row, age in zip(self.rows[bought].tolist(), self.ages[bought].tolist(), strict=True):
            since.setdefault(row, age)
        ages = self.ages[chosen].tolist()
        return np.array(
            [row for row, age in zip(rows.tolist(), ages, strict=True)
             if age < since.get(row, np.inf)],
            np.int32,
        )  # fmt: skip


NO_ACTS: Final = Acts()


class Facts(msgspec.Struct, eq=False):
    """All of a request that conditions and actions look at."""

    request: RecommendationRequest
    now: float  # Unix seconds
    seeds: IntArray = msgspec.field(default_factory=lambda: _NO_ROWS)
    """Rows, in the request's order."""
    acts: Acts = msgspec.field(default_factory=Acts)
    cells: Mapping[str, str] = {}
    """Experiment → cell; the request's own where empty."""


K = TypeVar("K")
Test = Callable[[int], bool]
"""What a condition says of the facts' bits."""


class Activation:
    """The conditions of one pod's rules."""

    def __init__(
        self,
        pod_id: str,
        bind: Callable[[ItemExpression, int], ItemTest],
        signatures: Callable[[], Signatures],
    ) -> None:
        """Args:
        bind: the test of an item expression of the rule set with that number.
        signatures: of the index that the tests are bound to, once all tests are made.
        """
        self._pod_id = pod_id
        self._bind = bind
        self._signatures = signatures
        self._bits: dict[tuple[bytes, int], int] = {}
        self._strategies: dict[str, int] = {}
        self._segments: dict[str, int] = {}
        self._known = 0
        self._unknown = 0
        self._cells: dict[tuple[str, str], int] = {}
        self._filter_names: dict[str, int] = {}
        self._filters: dict[tuple[str, str], int] = {}
        self._terms: list[tuple[when.WhenTerm, int]] = []
        self._term_bits: dict[str, int] = {}
        self._seeds: list[tuple[ItemTest, int]] = []
        self._seed_bits: dict[int, int] = {}  # by signature
        self._acted: list[tuple[when.WhenActed, ItemTest | None, int]] = []
        self._times: list[tuple[when.WhenBetween | when.WhenWeekly, int]] = []
        self._second = -1
        self._time_bits = 0

    @property
    def is_personal(self) -> bool:
        """Whether a condition looks at who the shopper is, or at what they did."""
        return bool(self._acted or self._known or self._unknown)

    def compile(self, condition: when.Condition, rule_set: int) -> Test | bool:
        """What a condition says of the facts' bits; True or False where it says that of every
        request for this pod."""
        match condition:
            case when.WhenPod():
                return self._pod_id in condition.ids
            case when.WhenNot():
                part = self.compile(condition.of, rule_set)
                return (not part) if isinstance(part, bool) else _negation(part)
            case when.WhenAnd() | when.WhenOr():
                every = isinstance(condition, when.WhenAnd)
                parts = []
                for child in condition.of:
                    part = self.compile(child, rule_set)
                    if not isinstance(part, bool):
                        parts.append(part)
                    elif part is not every:
                        return not every
                if not parts:
                    return every
                return _conjunction(parts) if every else _disjunction(parts)
            case _:
                return _Bit(self._bit(condition, rule_set))

    def bits(self, facts: Facts) -> int:
        """The bits of a request's facts, its strategy aside."""
        request = facts.request
        bits = 0
        if self._segments:
            for segment in request.segments:
                bits |= self._segments.get(segment, 0)
        bits |= self._known if request.shopper.user_id is not None else self._unknown
        if self._cells:
            for cell in (facts.cells or request.cells).items():
                bits |= self._cells.get(cell, 0)
        if request.filters and (self._filters or self._filter_names):
            bits |= self._of_filters(request.filters)
        if self._terms and request.term:
            bits |= self._of_term(request.term)
        if self._times:
            bits |= self._of_time(facts.now)
        if self._seeds and len(facts.seeds):
            bits |= self._of_seeds(facts)
        if self._acted:
            bits |= self._of_acts(facts)
        return bits

    def strategy_bits(self, names: Sequence[str]) -> int:
        """The bits of a strategy: its configuration's id and its name."""
        bits = 0
        for name in names:
            bits |= self._strategies.get(name, 0)
        return bits

    @property
    def asks_strategy(self) -> bool:
        return bool(self._strategies)

    def expires(self, now: float) -> float:
        """Unix seconds until which no condition of time changes; inf: never."""
        return min((time_changes(condition, now) for condition, _ in self._times), default=inf)

    def _bit(self, condition: when.Condition, rule_set: int) -> int:
        """The condition's bit; equal ones share it."""
        # An item expression may mean something else in another rule set.
        has_items = isinstance(condition, when.WhenSeed | when.WhenActed)
        key = (_encode(condition), rule_set if has_items else -1)
        bit = self._bits.get(key)
        if bit is None:
            bit = self._bits[key] = 1 << len(self._bits)
            self._register(condition, bit, rule_set)
        return bit

    def _register(self, condition: when.Condition, bit: int, rule_set: int) -> None:
        match condition:
            case when.WhenStrategy():
                _set(self._strategies, condition.ids, bit)
            case when.WhenSegment():
                _set(self._segments, condition.ids, bit)
            case when.WhenShopper(attribute="known"):
                self._known |= bit if "true" in condition.values else 0
                self._unknown |= bit if "false" in condition.values else 0
            case when.WhenShopper():
                names = [f"{condition.attribute}:{value}" for value in condition.values]
                _set(self._segments, names, bit)
            case when.WhenCell():
                _set(self._cells, [(condition.experiment, cell) for cell in condition.cells], bit)
            case when.WhenFilter(values=()):
                _set(self._filter_names, [condition.name], bit)
            case when.WhenFilter():
                _set(self._filters, [(condition.name, value) for value in condition.values], bit)
            case when.WhenTerm():
                self._terms.append((condition, bit))
            case when.WhenSeed():
                self._seeds.append((self._bind(condition.items, rule_set), bit))
            case when.WhenActed():
                test = None if condition.items is None else self._bind(condition.items, rule_set)
                self._acted.append((condition, test, bit))
            case when.WhenBetween() | when.WhenWeekly():
                self._times.append((condition, bit))

    def _of_filters(self, filters: Mapping[str, Sequence[str]]) -> int:
        bits = 0
        for name, values in filters.items():
            bits |= self._filter_names.get(name, 0)
            for value in values:
                bits |= self._filters.get((name, value), 0)
        return bits

    def _of_term(self, term: str) -> int:
        bits = self._term_bits.get(term)
        if bits is None:
            normal = normal_term(term)
            bits = 0
            for condition, bit in self._terms:
                if term_matches(condition, normal):
                    bits |= bit
            if len(self._term_bits) >= MAX_TERMS:
                self._term_bits.clear()
            self._term_bits[term] = bits
        return bits

    def _of_time(self, now: float) -> int:
        second = int(now)
        if second != self._second:
            bits = 0
            for condition, bit in self._times:
                if time_matches(condition, second):
                    bits |= bit
            self._second, self._time_bits = second, bits
        return self._time_bits

    def _of_seeds(self, facts: Facts) -> int:
        signatures = self._signatures()
        bits = 0
        for signature in signatures.of(facts.seeds).tolist():
            known = self._seed_bits.get(signature)
            if known is None:
                known = 0
                for test, bit in self._seeds:
                    if test.number >= 0 and signatures.membership[test.number, signature]:
                        known |= bit
                self._seed_bits[signature] = known
            bits |= known
        for test, bit in self._seeds:
            if test.number < 0 and test.evaluate(facts.seeds, facts.now).any():
                bits |= bit
        return bits

    def _of_acts(self, facts: Facts) -> int:
        bits = 0
        for condition, test, bit in self._acted:
            rows = facts.acts.rows_of(condition.what, condition.days)
            if len(rows) and (test is None or test.evaluate(rows, facts.now).any()):
                bits |= bit
        return bits


def normal_term(term: str) -> str:
    return " ".join(term.split()).casefold()


def term_matches(condition: when.WhenTerm, normal: str) -> bool:
    """Whether the condition holds for a term in its normal form."""
    terms = map(normal_term, condition.terms)
    match condition.match:
        case when.TermMatch.EXACT:
            return normal in terms
        case when.TermMatch.CONTAINS:
            return any(term in normal for term in terms)
        case when.TermMatch.STARTS_WITH:
            return any(normal.startswith(term) for term in terms)


def time_matches(condition: when.WhenBetween | when.WhenWeekly, now: float) -> bool:
    """Whether the condition holds at a time (Unix seconds)."""
    if isinstance(condition, when.WhenBetween):
        return (condition.start is None or condition.start.timestamp() <= now) and (
            condition.end is None or now < condition.end.timestamp()
        )
    local = dt.datetime.fromtimestamp(now, zone(condition.zone) or dt.UTC)
    minute = local.hour * 60 + local.minute
    start, end = minutes(condition.start), minutes(condition.end)
    today = _DAYS[local.weekday()] in condition.days
    if start < end:
        return today and start <= minute < end
    yesterday = _DAYS[local.weekday() - 1] in condition.days
    return (today and minute >= start) or (yesterday and minute < end)


def time_changes(condition: when.WhenBetween | when.WhenWeekly, now: float) -> float:
    """When the condition may hold or cease to; of a weekly one, the next minute."""
    if isinstance(condition, when.WhenWeekly):
        return (now // 60 + 1) * 60
    bounds = (bound.timestamp() for bound in (condition.start, condition.end) if bound is not None)
    return min((bound for bound in bounds if bound > now), default=inf)


def minutes(clock: str) -> int:
    """Minutes since midnight of HH:MM."""
    return int(clock[:2]) * 60 + int(clock[3:])


class _Bit:
    """A leaf. Tells its mask, so that a conjunction of leaves is one comparison."""

    __slots__ = ("mask",)

    def __init__(self, mask: int) -> None:
        self.mask = mask

    def __call__(self, bits: int) -> bool:
        return bits & self.mask != 0


def _conjunction(parts: Sequence[Test]) -> Test:
    mask = 0
    others = []
    for part in parts:
        if isinstance(part, _Bit):
            mask |= part.mask
        else:
            others.append(part)
    if not others:
        return lambda bits: bits & mask == mask
    return lambda bits: bits & mask == mask and all(part(bits) for part in others)


def _disjunction(parts: Sequence[Test]) -> Test:
    mask = 0
    others = []
    for part in parts:
        if isinstance(part, _Bit):
            mask |= part.mask
        else:
            others.append(part)
    if not others:
        return lambda bits: bits & mask != 0
    return lambda bits: bits & mask != 0 or any(part(bits) for part in others)


def _negation(part: Test) -> Test:
    return lambda bits: not part(bits)


def _set(table: dict[K, int], keys: Sequence[K], bit: int) -> None:
    for key in keys:
        table[key] = table.get(key, 0) | bit
