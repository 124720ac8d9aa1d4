"""What rules did in one request, written down. Costs what it costs: only `explain` and previews
use it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.domain import rule_action as act
from app.domain.explanation import ActiveRule, Effect, Slot
from app.domain.rule_compile import CompiledRules
from app.domain.rule_program import KEEP, Program, RankedRule
from app.domain.ruling import Arranged, RequestRuling
from app.domain.selection import Admits, DropTable, Pool
from vitrine_sdk import BoolArray, FloatArray, IntArray


@dataclass(slots=True, eq=False)
class TracedRuling:
    """A ruling that remembers its last run: `app.domain.selection.Ruling`."""

    rules: CompiledRules
    ruling: RequestRuling
    dropped: dict[int, tuple[IntArray, IntArray]] = field(default_factory=dict)
    """By source: rows, and the rank of the first rule that left each out, or KEEP."""
    arranged: Arranged | None = None
    admits: Admits | None = None
    pool: Pool | None = None
    seconds: float = 0.0

    @property
    def overfetch(self) -> int:
        return self.ruling.overfetch

    @property
    def by_signature(self) -> bool:
        return self.ruling.by_signature

    @property
    def expires(self) -> float:
        return self.ruling.expires

    @property
    def whole_catalogue(self) -> bool:
        return self.ruling.whole_catalogue

    def eligible(self, rows: IntArray, source: int) -> BoolArray | None:
        return self.ruling.eligible(rows, source)

    def keeps(self, rows: IntArray, scores: FloatArray, source: int) -> BoolArray | None:
        started = time.perf_counter()
        program = self.ruling.program(source)
        kept: BoolArray | None = None
        if program.drops and len(rows):
            dropped = self.ruling.dropped(program, rows, scores)
            self.dropped[source] = (rows, dropped)
            kept = dropped == KEEP
        self.seconds += time.perf_counter() - started
        return kept

    def drops(self, rows: IntArray, source: int) -> DropTable | None:  # noqa: ARG002  # the port's
        return None  # which rule leaves out what is told by `keeps`

    def arrange(self, pool: Pool, want: int, admits: Admits) -> Pool:
        started = time.perf_counter()
        self.admits, self.pool = admits, pool
        self.arranged = self.ruling.arranged(pool, want, admits)
        self.seconds += time.perf_counter() - started
        return self.arranged.pool

    # What is told of it

    def left_out_by(self) -> dict[int, int]:
        """Rows that a rule left out, each with the rule's rank."""
        return {
            row: rank
            for rows, dropped in self.dropped.values()
            for row, rank in zip(rows.tolist(), dropped.tolist(), strict=True)
            if rank != KEEP
        }

    def active(self) -> tuple[ActiveRule, ...]:
        """The rules whose condition held, by rank."""
        programs = {source: self.ruling.program(source) for source in (0, *self.dropped)}
        if self.arranged is not None:
            programs[-1] = self.arranged.program
        by_rank = {r.rank: r for program in programs.values() for r in program.rules}
        counts: dict[int, int] = {}
        for rank in self.left_out_by().values():
            counts[rank] = counts.get(rank, 0) + 1
        return tuple(
            ActiveRule(
                id=ranked.id,
                name=ranked.rule.name,
                priority=ranked.rule.priority,
                reason=ranked.rule.reason,
                actions=tuple(tag(action) for action in ranked.rule.then),
                left_out=counts.get(rank, 0),
            )
            for rank, ranked in sorted(by_rank.items())
        )

    def effects(self, row: int) -> tuple[Effect, ...]:
        """What rules did to an item, in the order in which actions apply."""
        return tuple(self._effects(row))

    def _effects(self, row: int) -> Iterator[Effect]:
        left_out = self.left_out_by().get(row)
        if left_out is not None:
            ranked = self.rules.rules[left_out]
            yield Effect(ranked.id, self._leaving_out(ranked), "left it out")
        if self.arranged is None or self.pool is None:
            return
        program = self.arranged.program
        yield from self._order_effects(program, row)
        places = self.arranged.places
        if places is None:
            return
        listed = self.arranged.pool.rows.tolist()
        if row in listed:
            place = listed.index(row)
            rank = places.ranks[place]
            if rank >= 0:
                ranked = self.rules.rules[rank]
                what = "fixed it at" if places.slotted[place] else "brought it to"
                yield Effect(ranked.id, _placing(ranked), f"{what} position {place + 1}")
        elif (cap := self.capped_by(row)) is not None:
            yield cap

    def _order_effects(self, program: Program, row: int) -> Iterator[Effect]:
        assert self.pool is not None  # noqa: S101  # asked only where there is one
        rows = self.pool.rows.tolist()
        if row not in rows:
            return
        one = np.array([row], np.int32)
        for ranked in program.rules:
            for action in ranked.rule.then:
                if isinstance(action, act.Boost | act.Bury) and self._matches(ranked, action, one):
                    sign = "+" if isinstance(action, act.Boost) else "-"
                    yield Effect(ranked.id, tag(action), f"strength {sign}{action.strength}")
        if program.rotation is not None:
            turned = self.ruling.rotated(self.pool).tolist()
            before = rows.index(row)
            after = turned.index(before)
            if before != after:
                moved = f"from place {before + 1} to {after + 1} among equals"
                yield Effect(program.rotation[1].id, "rotate", moved)

    def capped_by(self, row: int) -> Effect | None:
        """The cap that kept a candidate out of the list."""
        if self.arranged is None:
            return None
        shown = self.arranged.pool.rows
        one = np.array([row], np.int32)
        for cap in self.arranged.program.caps:
            first = self.rules.cap_values.of(cap.action, shown[: cap.action.first])
            for value in self.rules.cap_values.of(cap.action, one)[0]:
                if sum(value in values for values in first) >= cap.action.count:
                    column = self.rules.index.columns[cap.action.attribute]
                    return Effect(
                        cap.rule.id,
                        "at_most",
                        f"there are {cap.action.count} of {cap.action.attribute} "
                        f"{column.values[value]!r} among the first {cap.action.first} already",
                    )
        return None

    def slots(self, want: int) -> tuple[Slot, ...]:
        """Every claim to a slot, and what became of it."""
        if self.arranged is None:
            return ()
        shown = self.arranged.pool.rows.tolist()
        ids = self.rules.index.ids
        places = self.arranged.places
        told = []
        for claim in self.arranged.program.claims:
            item_id = claim.item_id
            state = self._claim_state(claim.slot, claim.rule, item_id, want)
            if item_id is None and places is not None and claim.slot <= len(shown):
                item_id = str(ids[shown[claim.slot - 1]]) if state == "met" else None
            told.append(Slot(slot=claim.slot, rule=claim.rule.id, item_id=item_id, state=state))
        return tuple(told)

    def missed_shares(self) -> tuple[Effect, ...]:
        if self.arranged is None or self.arranged.places is None:
            return ()
        return tuple(
            Effect(self.rules.rules[rank].id, "at_least", f"{has} of the {should} that it wants")
            for rank, has, should in self.arranged.places.missed_shares
        )

    def _claim_state(self, slot: int, ranked: RankedRule, item_id: str | None, want: int) -> str:
        assert self.arranged is not None and self.arranged.places is not None  # noqa: S101, PT018
        places, index = self.arranged.places, self.rules.index
        if slot > want:
            return "the list is shorter than the slot"
        taken_by = places.ranks[slot - 1] if slot <= len(places.ranks) else -1
        if item_id is None:
            if (slot, ranked.rank) in places.missed_slots:
                return "nothing that matches is left"
            return "met" if taken_by == ranked.rank else self._owner(taken_by)
        row = index.row(item_id)
        shown = self.arranged.pool.rows.tolist()
        if row in shown and places.ranks[shown.index(row)] == ranked.rank:
            at = shown.index(row) + 1
            return "met" if at == slot else f"the list is too short: at {at}"
        if row < 0 or not index.present[row]:
            return "not in the catalogue"
        if not index.available[row]:
            return "not available"
        one = np.array([row], np.int32)
        if self.admits is not None and not self.admits(one)[0]:
            return "the request leaves it out: a filter, a seed, or seen or bought"
        rank = int(self.ruling.dropped(self.arranged.program, one, None)[0])
        if rank != KEEP and self.rules.rules[rank].rule.priority >= ranked.rule.priority:
            return f"left out by {self.rules.rules[rank].id}"
        return self._owner(taken_by)

    def _owner(self, rank: int) -> str:
        if rank < 0:
            return "the item is pinned elsewhere, or the list is too short"
        return f"the slot is taken by {self.rules.rules[rank].id}"

    def _matches(self, ranked: RankedRule, action: act.Boost | act.Bury, rows: IntArray) -> bool:
        return bool(self.ruling.says(action.items, ranked.rule_set, rows)[0])

    def _leaving_out(self, ranked: RankedRule) -> str:
        kinds = [tag(a) for a in ranked.rule.then if isinstance(a, _LEAVING_OUT)]
        return ", ".join(dict.fromkeys(kinds))


_LEAVING_OUT = (
    act.Exclude | act.IncludeOnly | act.SameAsSeed | act.DifferentFromSeed | act.PriceOfSeed
    | act.LeaveOut | act.MinRelevance
)  # fmt: skip


def tag(action: act.Action) -> str:
    """The action's type, as the wire names it."""
    return str(type(action).__struct_config__.tag)


def _placing(ranked: RankedRule) -> str:
    kinds: Sequence[str] = [
        tag(a) for a in ranked.rule.then if isinstance(a, act.Pin | act.Fill | act.AtLeast)
    ]
    return ", ".join(dict.fromkeys(kinds))
