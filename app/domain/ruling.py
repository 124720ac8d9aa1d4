"""Rules at work on one request.

The order in which actions apply, whatever the order and the rule in which they are written:

1. **Leaving out**: `exclude`, `include_only`, `same_as_seed`, `different_from_seed`,
   `price_of_seed`, `leave_out`, `min_relevance`. A candidate must pass all of them, from every
   active rule. It happens on over-fetched candidates, before the cut; when too few are left the
   strategies are asked for more. Where a rule has a condition on the strategy, it leaves out what
   that strategy brought.
2. **Rotation**: `rotate` (of several, the first by rank) lets equals change places.
3. **Order**: `boost` and `bury`. A candidate at position p competes as if it were at
   p / 2^(s / 2), s being the sum of its boosts' strengths less that of its buries'. Ties keep the
   order they had.
4. **Slots**: `pin`, then `fill`. An item is pinned once, and a slot has one owner: the claim whose
   rule ranks first and that can be met now. Pinned items must be in stock and satisfy the request's
   filters; they need not be candidates. In a list too short for a pin's slot, the item takes the
   last place.
5. **Caps**: `at_most` holds for every place that is not pinned.
6. **Shares**: `at_least` brings candidates forward, as far as slots and caps allow.
7. **The cut** to as many as were asked for.

Rank: by priority, the higher first; then by rule set id; then as the rules stand in their set.
Contradictions: what is left out is not shown, also not in a slot, with one exception: a pin stands
against the leaving out by rules of a lower priority than its own (of an equal one, it does not).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Final

import numpy as np
import numpy.typing as npt

from app.domain import rule_action as act
from app.domain.rule_activation import Facts
from app.domain.rule_compile import CompiledRules, PodRules
from app.domain.rule_items import ItemExpression
from app.domain.rule_places import CapPlace, FillPlace, Places, Plan, SharePlace
from app.domain.rule_program import KEEP, Program
from app.domain.rule_table import ItemTest
from app.domain.selection import BROUGHT, Admits, Pool
from vitrine_sdk import BoolArray, FloatArray, IntArray

OVERFETCH: Final = 5
OVERFETCH_LEAVING_OUT: Final = 10

PERIODS: Final = {act.Period.HOUR: 3_600, act.Period.DAY: 86_400, act.Period.WEEK: 604_800}
_MONDAY: Final = 4 * 86_400  # 1970-01-01 was a Thursday

_DOUBLE: Final = 1 << 20
"""What doubles a position, on a scale of whole numbers: the same on every machine."""

_positions: npt.NDArray[np.int64] = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Arranged:
    """A list with what made it: for `explain` and preview."""

    pool: Pool
    program: Program
    order: IntArray  # of the pool's candidates, after rotation, boosts and buries
    places: Places | None  # None: the order, cut


class RequestRuling:
    """The rules that apply to one request: `app.domain.selection.Ruling`."""

    __slots__ = ("_bits", "_chain", "_facts", "_pod", "_programs", "_rules")

    def __init__(
        self,
        rules: CompiledRules,
        pod: PodRules,
        facts: Facts,
        chain: Sequence[tuple[str, ...]],
    ) -> None:
        """Args:
        chain: names of the pod's strategies: each one's configuration id and entry point.
        """
        self._rules = rules
        self._pod = pod
        self._facts = facts
        self._chain = chain
        self._bits = pod.activation.bits(facts)
        self._programs: dict[int, Program] = {}

    @property
    def overfetch(self) -> int:
        program = self.program(0)
        return OVERFETCH_LEAVING_OUT if program.drops or program.shares else OVERFETCH

    @property
    def whole_catalogue(self) -> bool:
        program = self.program(0)
        return bool(program.claims or program.shares)

    @property
    def expires(self) -> float:
        now = self._facts.now
        until = self._pod.activation.expires(now)
        program = self.program(0)
        if program.is_timed:
            until = min(until, (now // 60 + 1) * 60)
        if program.rotation is not None:
            until = min(until, _period_end(program.rotation[0].every, now))
        return until

    @property
    def key(self) -> tuple[object, ...] | None:
        """Requests of a pod with the same seeds, filters and key get the same list until `expires`;
        None: this one's depends on what the shopper did."""
        program = self.program(0)
        if any(isinstance(action, act.LeaveOut) for action, _ in program.relatives):
            return None
        shopper = ""
        if program.rotation is not None and program.rotation[0].per_shopper:
            shopper = self._facts.request.shopper.id or ""
        return (id(self._rules), self._bits, shopper)

    def program(self, source: int) -> Program:
        """What is active for what a strategy of the chain brought."""
        program = self._programs.get(source)
        if program is None:
            bits = self._bits
            if self._pod.activation.asks_strategy and source < len(self._chain):
                bits |= self._pod.activation.strategy_bits(self._chain[source])
            program = self._programs[source] = self._pod.program(bits)
        return program

    def keeps(self, rows: IntArray, scores: FloatArray, source: int) -> BoolArray | None:
        program = self.program(source)
        if not program.drops or not len(rows):
            return None
        kept: BoolArray = self.dropped(program, rows, scores) == KEEP
        return kept

    def dropped(self, program: Program, rows: IntArray, scores: FloatArray | None) -> IntArray:
        """For each row the rank of the first rule that leaves it out, or KEEP.

        Args:
            scores: a strategy's, best first; None: of rows that have none, such as pinned ones.
        """
        facts = self._facts
        said = program.says(self._rules.signatures.of(rows)).drop
        dropped = np.full(len(rows), KEEP, np.int32) if said is None else said
        for test, inverse, rank in program.timed_drops:
            _leave_out(dropped, test.evaluate(rows, _minute(facts.now)) != inverse, rank)
        for action, rule in program.relatives:
            kept = self._rules.seed_comparison.kept(action, rows, facts)
            if kept is not None:
                _leave_out(dropped, ~kept, rule.rank)
        if scores is not None and program.min_relevance:
            relative = relevance(scores)
            for at_least, rule in program.min_relevance:
                _leave_out(dropped, relative < at_least, rule.rank)
        return dropped

    def arrange(self, pool: Pool, want: int, admits: Admits) -> Pool:
        return self.arranged(pool, want, admits).pool

    def arranged(self, pool: Pool, want: int, admits: Admits) -> Arranged:
        """`arrange`, with what made the list."""
        program = self.program(int(pool.sources[0]) if len(pool) else 0)
        order = self._order(program, pool)
        if not program.places:
            chosen = order[:want]
            return Arranged(_take(pool, chosen), program, order, None)
        placing = _Assembly(self._rules, self, program, self._facts, admits, pool, order)
        places, ordered = placing.place(want)
        return Arranged(ordered, program, order, places)

    def _order(self, program: Program, pool: Pool) -> IntArray:
        boost = self.boost(program, pool.rows)
        if program.rotation is not None and len(pool):
            order = self.rotated(pool)
            return order if boost is None else order[boosted_order(boost[order])]
        if boost is not None:
            return boosted_order(boost)
        return np.arange(len(pool), dtype=np.int32)

    def boost(self, program: Program, rows: IntArray) -> FloatArray | None:
        """The sum of strengths of each row; None: nothing is boosted or buried."""
        if not program.boosts or not len(rows):
            return None
        boost = program.says(self._rules.signatures.of(rows)).boost
        for test, weight in program.timed_boosts:
            hits = test.evaluate(rows, _minute(self._facts.now)).astype(np.float32) * weight
            boost = hits if boost is None else boost + hits
        return boost

    def says(self, items: ItemExpression, rule_set: int, rows: IntArray) -> BoolArray:
        """What an item expression of one of the active rules says of rows."""
        return self._rules.bind(items, rule_set).evaluate(rows, _minute(self._facts.now))

    def rotated(self, pool: Pool) -> IntArray:
        """The order after equals have changed places; the pool's where no rule rotates."""
        program = self.program(int(pool.sources[0]) if len(pool) else 0)
        if program.rotation is None:
            return np.arange(len(pool), dtype=np.int32)
        rotate = program.rotation[0]
        now = self._facts.now
        period = int(now - _MONDAY) // PERIODS[rotate.every]
        shopper = (self._facts.request.shopper.id or "") if rotate.per_shopper else ""
        seed = zlib.crc32(f"{rotate.every}:{period}:{shopper}".encode())
        scores, sources, rows = pool.scores, pool.sources, pool.rows
        first = min(rotate.first, len(pool))
        order = np.arange(len(pool), dtype=np.int32)
        relative = relevance_by_source(scores[:first], sources[:first])
        ids = self._rules.index.ids
        start = 0
        while start < first:
            end = start + 1
            while (
                end < first
                and sources[end] == sources[start]
                and relative[start] - relative[end] <= rotate.tolerance
            ):
                end += 1
            if end - start > 1:
                turns = [
                    _mixed(zlib.crc32(ids[row].encode()), seed) for row in rows[start:end].tolist()
                ]
                order[start:end] = start + np.argsort(np.array(turns, np.int64), kind="stable")
            start = end
        return order


class _Assembly:
    """Candidates, pinned items and the newest of the catalogue, made ready to be placed."""

    def __init__(
        self,
        rules: CompiledRules,
        ruling: RequestRuling,
        program: Program,
        facts: Facts,
        admits: Admits,
        pool: Pool,
        order: IntArray,
    ) -> None:
        self._rules = rules
        self._ruling = ruling
        self._program = program
        self._facts = facts
        self._admits = admits
        self._pool = pool
        self._order = order
        self._rows: list[IntArray] = [pool.rows[order]]
        self._count = len(pool)
        self._numbers: dict[int, int] = {}  # row → candidate

    def place(self, want: int) -> tuple[Places, Pool]:
        program = self._program
        if program.claims or program.shares:  # else nothing is looked for
            self._numbers = {row: i for i, row in enumerate(self._rows[0].tolist())}
        pins, slots = self._claims(want)
        wanted = [(test, len(found)) for (_, test), found in slots.items()]
        wanted += [
            (share.test, ceil(min(share.first, want) * share.percent / 100 - 1e-9))
            for share in program.shares
        ]
        for test, need in wanted:
            self._bring(test, need)
        rows = self._rows[0] if len(self._rows) == 1 else np.concatenate(self._rows)
        said = {id(test): self._said(test, rows) for test, _ in wanted}
        plan = Plan(
            ordinary=len(self._pool),
            count=self._count,
            pins=pins,
            fills=[
                FillPlace(frozenset(found), said[id(test)], rank)
                for (rank, test), found in slots.items()
            ],
            caps=[
                CapPlace(
                    cap.action.count,
                    cap.action.first,
                    self._values(cap.action, rows),
                    cap.rule.rank,
                )
                for cap in program.caps
            ],
            shares=[
                SharePlace(share.percent, share.first, said[id(share.test)], share.rule.rank)
                for share in program.shares
            ],
        )
        places = plan.place(want)
        return places, self._placed(places, rows)

    def _claims(
        self, want: int
    ) -> tuple[dict[int, tuple[int, int]], dict[tuple[int, ItemTest], list[int]]]:
        """Who has which slot: pins (slot → candidate, rank), and what fills which."""
        pins: dict[int, tuple[int, int]] = {}
        slots: dict[tuple[int, ItemTest], list[int]] = {}
        taken: set[int] = set()
        pinned: set[int] = set()
        rows = self._pinnable(want)
        for claim in self._program.claims:
            if claim.slot > want or claim.slot in taken:
                continue
            if claim.test is not None:
                slots.setdefault((claim.rule.rank, claim.test), []).append(claim.slot)
            else:
                assert claim.item_id is not None  # noqa: S101  # one of both
                row = self._rules.index.row(claim.item_id)
                stands = row in pinned or (
                    (left_out := rows.get(row)) is None
                    or (
                        left_out != KEEP
                        and self._rules.rules[left_out].rule.priority >= claim.rule.rule.priority
                    )
                )
                if stands:
                    continue
                pinned.add(row)
                pins[claim.slot] = (self._number(row), claim.rule.rank)
            taken.add(claim.slot)
        return pins, slots

    def _pinnable(self, want: int) -> Mapping[int, int]:
        """Rows of the pinned items that the request allows, with what leaves them out."""
        index = self._rules.index
        rows = self._program.pinned_rows(index, want)
        if not len(rows):
            return {}
        rows = rows[index.available[rows] & self._admits(rows)]
        if not len(rows):
            return {}
        dropped = self._ruling.dropped(self._program, rows, None)
        return dict(zip(rows.tolist(), dropped.tolist(), strict=True))

    def _number(self, row: int) -> int:
        """The row's number among the candidates, behind them where it is none yet."""
        number = self._numbers.get(row)
        if number is None:
            number = self._numbers[row] = self._count
            self._rows.append(np.array([row], np.int32))
            self._count += 1
        return number

    def _bring(self, test: ItemTest, need: int) -> None:
        """Add the newest matching items of the catalogue where too few candidates match."""
        have = sum(self._said(test, np.concatenate(self._rows)))
        if have >= need:
            return
        minute = int(self._facts.now // 60)
        rows = self._rules.newest.matching(test, minute)
        fresh = [row for row in rows.tolist() if row not in self._numbers]
        if not fresh:
            return
        rows = np.array(fresh, np.int32)
        rows = rows[self._admits(rows)]
        rows = rows[self._ruling.dropped(self._program, rows, None) == KEEP]
        # A cap may have no room for some of them.
        room = need - have if not self._program.caps else 4 * (need - have) + 10
        for row in rows[:room].tolist():
            self._number(row)

    def _said(self, test: ItemTest, rows: IntArray) -> Sequence[bool]:
        if test.number < 0:
            return test.evaluate(rows, _minute(self._facts.now)).tolist()  # type: ignore[no-any-return]
        signatures = self._rules.signatures
        numbers = signatures.of(rows)
        return signatures.membership[test.number, numbers].tolist()  # type: ignore[no-any-return]

    def _values(self, cap: act.AtMost, rows: IntArray) -> Sequence[tuple[int, ...]]:
        return self._rules.cap_values.of(cap, rows)

    def _placed(self, places: Places, rows: IntArray) -> Pool:
        pool = self._pool
        chosen = np.array(places.candidates, np.int32)
        slotted = np.array(places.slotted, np.bool_)
        if self._count == len(pool):  # nothing was brought
            return _take(pool, self._order[chosen], slotted)
        offered = chosen < len(pool)
        # Brought by a rule: no strategy's score, no strategy's reason.
        at = self._order[np.where(offered, chosen, 0)] if len(pool) else chosen
        scores = np.zeros(len(chosen), np.float32)
        sources = np.full(len(chosen), BROUGHT, np.uint8)
        reasons = np.zeros(len(chosen), np.uint8)
        if len(pool):
            scores[offered] = pool.scores[at[offered]]
            sources[offered] = pool.sources[at[offered]]
            reasons[offered] = pool.reasons[at[offered]]
        return Pool(
            rows[chosen],
            scores,
            sources,
            reasons,
            slotted,
            pool.labels,
        )


def relevance(scores: FloatArray) -> npt.NDArray[np.float64]:
    """Scores on a scale on which the first, a strategy's best, is 1: its ratio to it. Where the
    best is not above 0, the distance counts: 1 / (1 + best - score)."""
    best = float(scores[0])
    scores64 = scores.astype(np.float64)
    if best > 0:
        return np.maximum(scores64 / best, 0.0)
    return 1.0 / (1.0 + best - scores64)


def relevance_by_source(
    scores: FloatArray, sources: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    """`relevance` within each strategy's candidates."""
    relative = np.empty(len(scores), np.float64)
    for source in np.unique(sources):
        own = sources == source
        relative[own] = relevance(scores[own])
    return relative


def boosted_order(boost: FloatArray) -> IntArray:
    """The order in which candidates compete, given the sum of strengths of each, best first."""
    global _positions
    if len(boost) > len(_positions):
        places = np.arange(1, 2 * len(boost) + 1, dtype=np.float64)
        _positions = np.round(np.log2(places) * _DOUBLE).astype(np.int64)
    position = _positions[: len(boost)] - (boost * np.float32(_DOUBLE / 2)).astype(np.int64)
    return position.argsort(kind="stable").astype(np.int32)


def _leave_out(dropped: IntArray, hits: BoolArray, rank: int) -> None:
    np.minimum(dropped, np.where(hits, np.int32(rank), KEEP), out=dropped)


def _minute(now: float) -> float:
    """Ages count from the whole minute, so that lists can be kept for one."""
    return now // 60 * 60


def _period_end(period: act.Period, now: float) -> float:
    seconds = PERIODS[period]
    return ((now - _MONDAY) // seconds + 1) * seconds + _MONDAY


def _mixed(value: int, seed: int) -> int:
    """A number that seems random, from an item and a period."""
    value = (value ^ seed) * 0x9E3779B1 & 0xFFFFFFFF
    value ^= value >> 15
    value = value * 0x85EBCA77 & 0xFFFFFFFF
    return value ^ (value >> 13)


def _take(pool: Pool, places: IntArray, slotted: BoolArray | None = None) -> Pool:
    return Pool(
        pool.rows[places],
        pool.scores[places],
        pool.sources[places],
        pool.reasons[places],
        slotted,
        pool.labels,
    )


def ruling_for(
    rules: CompiledRules,
    facts: Facts,
    chain: Sequence[tuple[str, ...]],
) -> RequestRuling | None:
    """The request's ruling; None where none of the pod's rules can be active for it."""
    pod = rules.pod(facts.request.pod_id)
    if pod is None:
        return None
    ruling = RequestRuling(rules, pod, facts, chain)
    if not pod.activation.asks_strategy and ruling.program(0).is_empty:
        return None if pod.activation.expires(facts.now) == inf else ruling
    return ruling
