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
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import numpy as np
import numpy.typing as npt

from app.domain import rule_action as act
from app.domain.rule_activation import Facts
from app.domain.rule_assembly import Assembly, minute_of, take
from app.domain.rule_compile import CompiledRules, PodRules
from app.domain.rule_items import ItemExpression
from app.domain.rule_places import Places
from app.domain.rule_program import KEEP, Program
from app.domain.selection import NO_TABLE, Admits, DropTable, Pool
from vitrine_sdk import BoolArray, FloatArray, IntArray, kernel

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
        return bool(program.claims or program.shares or program.is_narrow)

    @property
    def by_signature(self) -> bool:
        """Whether prices count only in what items' signatures say: they are not compared with a
        seed's, nor asked at a time."""
        programs = [self.program(source) for source in range(len(self._chain))]
        return not any(p.relatives or p.timed_drops or p.timed_boosts for p in programs)

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

    def eligible(self, rows: IntArray, source: int) -> BoolArray | None:
        return self.program(source).eligible(self._rules.index, rows)

    def keeps(self, rows: IntArray, scores: FloatArray, source: int) -> BoolArray | None:
        program = self.program(source)
        if not program.drops or not len(rows):
            return None
        kept: BoolArray = self.dropped(program, rows, scores) == KEEP
        return kept

    def drops(self, rows: IntArray, source: int) -> DropTable | None:
        program = self.program(source)
        if not program.drops or not len(rows):
            return NO_TABLE
        if not program.drops_by_signature:
            return None
        signatures = self._rules.signatures.by_row(rows)
        said = program.said()
        if said is None:
            return None
        return NO_TABLE if said.drop is None else (signatures, said.drop)

    def dropped(self, program: Program, rows: IntArray, scores: FloatArray | None) -> IntArray:
        """For each row the rank of the first rule that leaves it out, or KEEP.

        Args:
            scores: a strategy's, best first; None: of rows that have none, such as pinned ones.
        """
        facts = self._facts
        said = program.says(self._rules.signatures.of(rows)).drop
        dropped = np.full(len(rows), KEEP, np.int32) if said is None else said
        for test, inverse, rank in program.timed_drops:
            _leave_out(dropped, test.evaluate(rows, minute_of(facts.now)) != inverse, rank)
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
        if kernel.compiled is not None and kernel.plain(pool.scores, kernel.FLOAT32):
            quickly = self._arranged_by_signature(pool, want)
            if quickly is not None:
                return quickly
        return self.arranged(pool, want, admits).pool

    def _arranged_by_signature(self, pool: Pool, want: int) -> Pool | None:
        """The same, where boosts by signature and caps are all that rules do with the list."""
        rows = pool.rows
        program = self.program(int(pool.sources[0]) if len(rows) else 0)
        if not program.arranges_by_signature or kernel.compiled is None:
            return None
        signatures = boosts = None
        if program.boosts:
            signatures = self._rules.signatures.by_row(rows)
            said = program.said()
            if said is None:
                return None
            boosts = said.boost
        caps = []
        for cap in program.caps:
            table = self._rules.cap_values.table(cap.action)
            if table is not None:
                caps.append((*table, cap.action.count, cap.action.first))
        ordered = kernel.compiled.arrange(
            rows, pool.scores, pool.sources, pool.reasons,
            signatures, boosts, positions(len(rows)), caps, want,
        )  # fmt: skip
        rows, scores, sources, reasons = ordered
        return Pool(rows, scores, sources, reasons, None, pool.labels)

    def arranged(self, pool: Pool, want: int, admits: Admits) -> Arranged:
        """`arrange`, with what made the list."""
        program = self.program(int(pool.sources[0]) if len(pool) else 0)
        order = self._order(program, pool)
        if not program.places:
            chosen = order[:want]
            return Arranged(take(pool, chosen), program, order, None)
        placing = Assembly(
            self._rules,
            program,
            self._facts,
            admits,
            lambda rows: self.dropped(program, rows, None),
            pool,
            order,
        )
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
            hits = test.evaluate(rows, minute_of(self._facts.now)).astype(np.float32) * weight
            boost = hits if boost is None else boost + hits
        return boost

    def says(self, items: ItemExpression, rule_set: int, rows: IntArray) -> BoolArray:
        """What an item expression of one of the active rules says of rows."""
        return self._rules.bind(items, rule_set).evaluate(rows, minute_of(self._facts.now))

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


def positions(count: int) -> npt.NDArray[np.int64]:
    """Where candidates compete before boosts and buries; of so many, or more."""
    global _positions
    if count > len(_positions):
        places = np.arange(1, 2 * count + 1, dtype=np.float64)
        _positions = np.round(np.log2(places) * _DOUBLE).astype(np.int64)
    return _positions


def boosted_order(boost: FloatArray) -> IntArray:
    """The order in which candidates compete, given the sum of strengths of each, best first."""
    shift = (boost * np.float32(_DOUBLE / 2)).astype(np.int64)
    position = positions(len(boost))[: len(boost)] - shift
    return position.argsort(kind="stable").astype(np.int32)


def _leave_out(dropped: IntArray, hits: BoolArray, rank: int) -> None:
    np.minimum(dropped, np.where(hits, np.int32(rank), KEEP), out=dropped)


def _period_end(period: act.Period, now: float) -> float:
    seconds = PERIODS[period]
    return ((now - _MONDAY) // seconds + 1) * seconds + _MONDAY


def _mixed(value: int, seed: int) -> int:
    """A number that seems random, from an item and a period."""
    value = (value ^ seed) * 0x9E3779B1 & 0xFFFFFFFF
    value ^= value >> 15
    value = value * 0x85EBCA77 & 0xFFFFFFFF
    return value ^ (value >> 13)


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
