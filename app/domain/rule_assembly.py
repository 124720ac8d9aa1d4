"""Candidates, pinned items and the newest of the catalogue, made ready to be placed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil

import numpy as np

from app.domain.rule_activation import Facts
from app.domain.rule_compile import CompiledRules
from app.domain.rule_places import CapPlace, FillPlace, Places, Plan, SharePlace
from app.domain.rule_program import KEEP, Program
from app.domain.rule_table import ItemTest
from app.domain.selection import BROUGHT, Admits, Pool
from vitrine_sdk import BoolArray, IntArray


class Assembly:
    """Candidates, pinned items and the newest of the catalogue, made ready to be placed."""

    def __init__(
        self,
        rules: CompiledRules,
        program: Program,
        facts: Facts,
        admits: Admits,
        dropped: Callable[[IntArray], IntArray],
        pool: Pool,
        order: IntArray,
    ) -> None:
        self._rules = rules
        self._program = program
        self._facts = facts
        self._admits = admits
        self._dropped = dropped
        self._pool = pool
        self._order = order
        self._offered = pool.rows[order]
        self._brought: list[int] = []  # rows that no strategy offered
        self._count = len(pool)
        self._numbers: dict[int, int] = {}  # row → candidate

    def place(self, want: int) -> tuple[Places, Pool]:
        program = self._program
        if program.claims or program.shares:  # else nothing is looked for
            self._numbers = dict(zip(self._offered.tolist(), range(self._count), strict=True))
        pins, slots = self._claims(want)
        said = self._asked(want, slots)
        rows = self._all_rows()
        plan = Plan(
            ordinary=len(self._pool),
            count=self._count,
            pins=pins,
            fills=[
                FillPlace(frozenset(found), said[id(test)].tolist(), rank)
                for (rank, test), found in slots.items()
            ],
            caps=[
                CapPlace(
                    cap.action.count,
                    cap.action.first,
                    self._rules.cap_values.of(cap.action, rows),
                    cap.rule.rank,
                )
                for cap in program.caps
            ],
            shares=[
                SharePlace(
                    share.percent,
                    share.first,
                    (matches := said[id(share.test)]).tolist(),
                    matches.nonzero()[0].tolist(),
                    share.rule.rank,
                )
                for share in program.shares
            ],
        )
        places = plan.place(want)
        return places, self._placed(places, rows)

    def _asked(
        self, want: int, slots: Mapping[tuple[int, ItemTest], Sequence[int]]
    ) -> dict[int, BoolArray]:
        """What the tests of slots and shares say of each candidate, by the test's identity. Where
        too few match, the newest matching items of the catalogue become candidates."""
        wanted = [(test, len(found)) for (_, test), found in slots.items()]
        wanted += [
            (share.test, ceil(min(share.first, want) * share.percent / 100 - 1e-9))
            for share in self._program.shares
        ]
        if not wanted:
            return {}
        said = self._said(wanted)
        lacking = [
            (test, need - have)
            for test, need in wanted
            if (have := int(np.count_nonzero(said[id(test)]))) < need
        ]
        if not lacking:
            return said
        for test, more in lacking:
            self._bring(test, more)
        return self._said(wanted)

    def _claims(
        self, want: int
    ) -> tuple[dict[int, tuple[int, int]], dict[tuple[int, ItemTest], list[int]]]:
        """Who has which slot: pins (slot → candidate, rank), and what fills which."""
        pins: dict[int, tuple[int, int]] = {}
        slots: dict[tuple[int, ItemTest], list[int]] = {}
        taken: set[int] = set()
        pinned: set[int] = set()
        rows = self._pinnable(want)
        row_of = self._rules.index.row
        for claim in self._program.claims:
            if claim.slot > want or claim.slot in taken:
                continue
            if claim.test is not None:
                slots.setdefault((claim.rule.rank, claim.test), []).append(claim.slot)
            else:
                assert claim.item_id is not None  # noqa: S101  # one of both
                row = row_of(claim.item_id)
                fails = row in pinned or (
                    (left_out := rows.get(row)) is None
                    or (
                        left_out != KEEP
                        and self._rules.rules[left_out].rule.priority >= claim.rule.rule.priority
                    )
                )
                if fails:
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
        dropped = self._dropped(rows)
        return dict(zip(rows.tolist(), dropped.tolist(), strict=True))

    def _number(self, row: int) -> int:
        """The row's number among the candidates, behind them where it is none yet."""
        number = self._numbers.get(row)
        if number is None:
            number = self._numbers[row] = self._count
            self._brought.append(row)
            self._count += 1
        return number

    def _bring(self, test: ItemTest, more: int) -> None:
        """Make so many of the newest matching items of the catalogue candidates."""
        newest = self._rules.newest.matching(test, int(self._facts.now // 60))
        rows = np.array([row for row in newest.tolist() if row not in self._numbers], np.int32)
        if not len(rows):
            return
        rows = rows[self._admits(rows)]
        rows = rows[self._dropped(rows) == KEEP]
        # A cap may have no room for some of them.
        room = more if not self._program.caps else 4 * more + 10
        for row in rows[:room].tolist():
            self._number(row)

    def _said(self, wanted: Sequence[tuple[ItemTest, int]]) -> dict[int, BoolArray]:
        rows = self._all_rows()
        signatures = self._rules.signatures
        numbers = signatures.of(rows)
        minute = minute_of(self._facts.now)
        return {
            id(test): signatures.membership[test.number, numbers]
            if test.number >= 0
            else test.evaluate(rows, minute)
            for test, _ in wanted
        }

    def _all_rows(self) -> IntArray:
        if not self._brought:
            return self._offered
        return np.concatenate((self._offered, np.array(self._brought, np.int32)))

    def _placed(self, places: Places, rows: IntArray) -> Pool:
        pool = self._pool
        chosen = np.array(places.candidates, np.int32)
        slotted = np.array(places.slotted, np.bool_) if self._program.claims else None
        if self._count == len(pool):  # nothing was brought
            return take(pool, self._order[chosen], slotted)
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


def take(pool: Pool, places: IntArray, slotted: BoolArray | None = None) -> Pool:
    return Pool(
        pool.rows[places],
        pool.scores[places],
        pool.sources[places],
        pool.reasons[places],
        slotted,
        pool.labels,
    )


def minute_of(now: float) -> float:
    """Ages count from the whole minute, so that lists can be kept for one."""
    return now // 60 * 60
