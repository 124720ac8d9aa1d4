"""What a change of rules would do, side by side. The wire's form too."""

from __future__ import annotations

import msgspec

from app.domain.explanation import ActiveRule, Effect, Slot


class Listed(msgspec.Struct, frozen=True):
    item_id: str
    name: str


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one item."""

    item_id: str
    name: str
    before: int | None  # position; None: it was not there
    after: int | None
    move: str  # "+3" (up), "-2" (down), "same", "new", "gone"
    effects: tuple[Effect, ...]  # what the new rules did to it


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """One request under the rules in force and under the new ones."""

    at: float  # Unix seconds that the conditions were asked for
    before: tuple[Listed, ...]
    after: tuple[Listed, ...]
    moves: tuple[Move, ...]  # the new list in its order, then what is gone
    rules: tuple[ActiveRule, ...]  # the new ones whose condition held
    slots: tuple[Slot, ...]
    short: bool  # the new list is shorter than was asked for


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """In how many of the lists an item is."""

    item_id: str
    before: int
    after: int
    revenue: float  # in the days looked at


class SamplePreview(msgspec.Struct, frozen=True, kw_only=True):
    """Recent requests under the rules in force and under the new ones."""

    requests: int
    skipped: int  # their pod is not there any more, or they cannot be read
    changed: int  # lists with another item or another order
    shorter: int  # lists that have fewer items than before
    gaining: tuple[Shift, ...]  # items in more lists than before, most first
    losing: tuple[Shift, ...]
    revenue_days: int
    revenue: float  # of the shop, in those days
    gaining_share: float  # of it, of all items that gain, 0 to 1
    losing_share: float


def moves_of(
    before: tuple[Listed, ...], after: tuple[Listed, ...]
) -> list[tuple[Listed, int | None, int | None, str]]:
    """Each item with its positions and its move: the new list in its order, then what is gone."""
    old = {listed.item_id: place + 1 for place, listed in enumerate(before)}
    told: list[tuple[Listed, int | None, int | None, str]] = []
    for place, listed in enumerate(after, start=1):
        was = old.get(listed.item_id)
        if was is None:
            told.append((listed, None, place, "new"))
        else:
            told.append((listed, was, place, "same" if was == place else f"{was - place:+d}"))
    kept = {listed.item_id for listed in after}
    told += [
        (listed, old[listed.item_id], None, "gone")
        for listed in before
        if listed.item_id not in kept
    ]
    return told
