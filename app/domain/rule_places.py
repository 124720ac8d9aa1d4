"""From an order to places: pins, filled slots, caps and shares over the at most 100 positions.

Places are given from the first to the last. A pin's place is kept for it; a slot to be filled takes
the best candidate that matches; where a share would otherwise be missed, the best candidate of that
share is next; else the best candidate that is left. What a cap has no room for waits until the
cap's positions have passed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

MAX_TRIES: Final = 5
MAX_PLACES: Final = 1_000

_FIRST: Final = [0]
_NONE: Final[list[int]] = []


@dataclass(frozen=True, slots=True, eq=False)
class FillPlace:
    """Slots to be filled with candidates that match."""

    slots: frozenset[int]
    matches: Sequence[bool]  # one a candidate
    rank: int  # of the rule


@dataclass(frozen=True, slots=True, eq=False)
class CapPlace:
    """At most `count` of a value among the first `first`."""

    count: int
    first: int
    values: Sequence[tuple[int, ...]]  # one a candidate: the values that are limited
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class SharePlace:
    """At least `percent` of the first `first` match."""

    percent: float
    first: int
    matches: Sequence[bool]  # one a candidate
    members: Sequence[int]  # the candidates that match, the best first
    rank: int


@dataclass(slots=True, eq=False)
class Places:
    """The list: candidates by position, and why some are there."""

    candidates: list[int] = field(default_factory=list)
    slotted: list[bool] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)  # of the rule that put it there; -1: none
    missed_slots: list[tuple[int, int]] = field(default_factory=list)  # slot, rank
    missed_shares: list[tuple[int, int, int]] = field(default_factory=list)  # rank, has, should


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is to be placed. Candidates are numbered in their order, 0 the best."""

    ordinary: int  # candidates up to here; those beyond are for pins, slots and shares only
    count: int  # all candidates
    pins: Mapping[int, tuple[int, int]]  # slot → candidate, rank
    fills: Sequence[FillPlace] = ()
    caps: Sequence[CapPlace] = ()
    shares: Sequence[SharePlace] = ()

    def place(self, want: int) -> Places:
        """At most `want` places."""
        if not (self.fills or self.caps or self.shares):
            return self._pins_alone(want)
        if not (self.pins or self.fills or self.shares):
            return self._caps_alone(want)
        length = want
        for _ in range(MAX_TRIES):
            placing = _Placing(self, length)
            places = placing.run()
            if len(places.candidates) == length:
                break
            # Of a shorter list shares are smaller, and pins may be beyond its end.
            length = len(places.candidates)
        return places

    def _pins_alone(self, want: int) -> Places:
        """The order, with the pins in their places."""
        pinned = {candidate for candidate, _ in self.pins.values()}
        enough = min(self.ordinary, want + len(pinned))
        rest = [candidate for candidate in range(enough) if candidate not in pinned]
        length = min(want, len(rest) + len(pinned))
        pins = self.pins_within(length)
        others = iter(rest)
        places = Places()
        for slot in range(1, length + 1):
            candidate, rank = pins.get(slot) or (next(others), -1)
            places.candidates.append(candidate)
            places.slotted.append(rank >= 0)
            places.ranks.append(rank)
        return places

    def _caps_alone(self, want: int) -> Places:
        """The order, with what a cap has no room for behind the cap's positions."""
        chosen: list[int] = []
        rest: Sequence[int] = range(self.ordinary)
        caps = [(cap.values, dict[int, int](), cap.count, cap.first) for cap in self.caps]
        while caps and len(chosen) < want:
            until = min(want, *(first for _, _, _, first in caps))
            parked: list[int] = []
            looked = 0
            for candidate in rest:
                if len(chosen) >= until:
                    break
                looked += 1
                for values, counts, most, _ in caps:
                    if any(counts.get(value, 0) >= most for value in values[candidate]):
                        parked.append(candidate)
                        break
                else:
                    chosen.append(candidate)
                    for values, counts, _, _ in caps:
                        for value in values[candidate]:
                            counts[value] = counts.get(value, 0) + 1
            if len(chosen) < until:
                break  # nothing more fits, and what is parked has no place before these are filled
            rest = [*parked, *rest[looked:]]
            caps = [cap for cap in caps if cap[3] > until]
        if not caps:
            chosen += rest[: want - len(chosen)]
        return Places(chosen, [False] * len(chosen), [-1] * len(chosen))

    def pins_within(self, length: int) -> dict[int, tuple[int, int]]:
        """The pins of a list of that length: those beyond its end take its last free slots."""
        pins = {slot: pin for slot, pin in self.pins.items() if slot <= length}
        free = length
        for slot in sorted(self.pins.keys() - pins.keys(), reverse=True):
            while free in pins:
                free -= 1
            if free < 1:
                break
            pins[free] = self.pins[slot]
        return pins


class _Placing:
    def __init__(self, plan: Plan, length: int) -> None:
        self._plan = plan
        self._length = length
        self._pins = plan.pins_within(length)
        self._used = bytearray(plan.count)
        self._head = 0
        self._parked: list[int] = []  # what a cap has no room for now
        self._places = Places()
        for candidate, _ in plan.pins.values():
            self._used[candidate] = 1
        self._fill_at = {
            slot: i for i, fill in enumerate(plan.fills) for slot in fill.slots
            if slot <= length and slot not in self._pins
        }  # fmt: skip
        self._needed = [0] * len(plan.fills)
        for i in self._fill_at.values():
            self._needed[i] += 1
        self._left = [
            sum(1 for c in range(plan.count) if fill.matches[c] and not self._used[c])
            for fill in plan.fills
        ]
        # Values, how often each is there, how often it may be, among how many.
        self._caps: list[tuple[Sequence[tuple[int, ...]], dict[int, int], int, int]] = [
            (cap.values, {}, cap.count, cap.first) for cap in plan.caps
        ]
        self._caps_until = min((cap.first for cap in plan.caps), default=MAX_PLACES)
        for slot, (candidate, _) in self._pins.items():
            self._count(candidate, slot)
        self._has = [0] * len(plan.shares)
        self._required = [self._requirements(share) for share in plan.shares]

    def run(self) -> Places:
        places, plan, pins = self._places, self._plan, self._pins
        candidates, slotted, ranks = places.candidates, places.slotted, places.ranks
        for slot in range(1, self._length + 1):
            if slot > self._caps_until:
                self._open_caps(slot)
            if slot in pins:
                candidate, rank = pins[slot]
                fixed = True
            else:
                candidate, fixed, rank = self._next(slot)
                if candidate < 0:
                    break
                self._used[candidate] = 1
                if self._caps:
                    self._count(candidate, slot)
                for i, fill in enumerate(plan.fills):
                    self._left[i] -= fill.matches[candidate]
            candidates.append(candidate)
            slotted.append(fixed)
            ranks.append(rank)
            for i, share in enumerate(plan.shares):
                if slot <= share.first:
                    self._has[i] += share.matches[candidate]
        for slot in sorted(slot for slot in pins if slot > len(candidates)):
            # Nothing more fits before the next pin: the list is shorter than was thought.
            candidates.append(pins[slot][0])
            slotted.append(True)
            ranks.append(pins[slot][1])
        for i, required in enumerate(self._required):
            if self._has[i] < required[-1]:
                share = plan.shares[i]
                places.missed_shares.append((share.rank, self._has[i], required[-1]))
        return places

    def _next(self, slot: int) -> tuple[int, bool, int]:
        """The candidate for a slot, whether it is fixed there, and the rule that put it there;
        a candidate of -1: none."""
        if slot in self._fill_at:
            fill_number = self._fill_at[slot]
            self._needed[fill_number] -= 1
            fill = self._plan.fills[fill_number]
            for candidate in range(self._plan.count):
                if fill.matches[candidate] and self._free(candidate):
                    return candidate, True, fill.rank
            self._places.missed_slots.append((slot, fill.rank))
        if self._plan.shares and (demanded := self._demanded(slot)):
            candidate = self._of_shares(demanded)
            if candidate >= 0:
                return candidate, False, self._plan.shares[demanded[0]].rank
        return self._ordinary(), False, -1

    def _ordinary(self) -> int:
        used = self._used
        end = self._plan.ordinary
        while self._head < end and used[self._head]:
            self._head += 1
        caps, fills = self._caps, self._plan.fills
        for candidate in range(self._head, end):
            if used[candidate]:
                continue
            if caps and self._capped(candidate):
                used[candidate] = 2  # looked at no more, until a cap's positions have passed
                self._parked.append(candidate)
            elif not fills or not self._reserved(candidate):
                return candidate
        return -1

    def _of_shares(self, demanded: Sequence[int]) -> int:
        """The best candidate of all shares that are due, else of the first that has one."""
        shares = self._plan.shares
        if len(demanded) > 1:
            for candidate in shares[demanded[0]].members:
                if all(shares[i].matches[candidate] for i in demanded) and self._fits(candidate):
                    return candidate
        for i in demanded:
            for candidate in shares[i].members:
                if self._fits(candidate):
                    return candidate
        return -1

    def _fits(self, candidate: int) -> bool:
        return self._free(candidate) and not self._reserved(candidate)

    def _free(self, candidate: int) -> bool:
        return not self._used[candidate] and not self._capped(candidate)

    def _reserved(self, candidate: int) -> bool:
        """Whether the slots to be filled need every candidate like this one."""
        return any(
            self._needed[i] and self._left[i] <= self._needed[i] and fill.matches[candidate]
            for i, fill in enumerate(self._plan.fills)
        )

    def _capped(self, candidate: int) -> bool:
        for values, counts, most, _ in self._caps:
            for value in values[candidate]:
                if counts.get(value, 0) >= most:
                    return True
        return False

    def _count(self, candidate: int, slot: int) -> None:
        for values, counts, _, first in self._caps:
            if slot <= first:
                for value in values[candidate]:
                    counts[value] = counts.get(value, 0) + 1

    def _open_caps(self, slot: int) -> None:
        """Forget the caps whose positions have passed; what waited for that may come."""
        self._caps = [cap for cap in self._caps if slot <= cap[3]]
        self._caps_until = min((cap[3] for cap in self._caps), default=MAX_PLACES)
        for candidate in self._parked:
            self._used[candidate] = 0
        if self._parked:
            self._head = min(self._head, *self._parked)
        self._parked = []

    def _demanded(self, slot: int) -> list[int]:
        """Shares that must have one here, the first rule's first."""
        if len(self._required) == 1:
            required = self._required[0]
            return _FIRST if slot < len(required) and self._has[0] < required[slot] else _NONE
        due = [
            i
            for i, required in enumerate(self._required)
            if slot < len(required) and self._has[i] < required[slot]
        ]
        lacking = []
        total = 0
        end = self._length
        for i, required in enumerate(self._required):
            lacks = required[-1] - self._has[i] - self._pinned(i, slot)
            if lacks > 0 and slot < len(required):
                lacking.append(i)
                total += lacks
                end = min(end, len(required) - 1)
        free = sum(1 for s in range(slot, end + 1) if s not in self._pins)
        # As if no item could serve two shares: then the last moment is now.
        return lacking if total >= free else due

    def _pinned(self, share: int, slot: int) -> int:
        """Pins from a slot on that serve a share."""
        place = self._plan.shares[share]
        return sum(
            1
            for at, (candidate, _) in self._pins.items()
            if slot <= at <= place.first and place.matches[candidate]
        )

    def _requirements(self, share: SharePlace) -> list[int]:
        """How many must match among the first k, for each k from 0: spread evenly, and never so
        late that the rest of the places could not make up for it."""
        first = min(share.first, self._length)
        total = math.ceil(first * share.percent / 100 - 1e-9)
        required = [k * total // first if first else 0 for k in range(first + 1)]
        for k in range(first - 1, 0, -1):
            pin = self._pins.get(k + 1)
            fill = self._fill_at.get(k + 1)
            if pin is not None:
                can = share.matches[pin[0]]
            else:
                can = fill is None or self._plan.fills[fill].matches is share.matches
            required[k] = max(required[k], required[k + 1] - can)
        return required
