"""Actions: what an active rule does to a list. JSON objects told apart by `type`. The order in
which they apply, whatever the order they are written in, is in `app.domain.ruling`."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from app.domain.rule_condition import Acted
from app.domain.rule_items import Attribute, Days, ItemExpression

MAX_SLOT: Final = 100

Slot = Annotated[int, Meta(ge=1, le=MAX_SLOT, description="1 is the first position")]
Share = Annotated[float, Meta(ge=0, le=1)]
Strength = Annotated[
    int,
    Meta(
        ge=1,
        le=10,
        description="2 points halve (boost) or double (bury) the position: an item at position p "
        "competes as if it were at p / 2^(strength / 2). Strengths of several rules add up",
    ),
]
Bands = Annotated[
    tuple[Annotated[float, Meta(gt=0)], ...],
    Meta(max_length=100, description="Upper bounds of price bands, ascending: [10, 50]"),
]


class Period(enum.StrEnum):
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pin"):
    """Put an item on a slot. It need not be in stock, nor in the catalogue: it appears when it
    can, and the slot is an ordinary one until then."""

    item_id: Annotated[str, Meta(min_length=1, max_length=200)]
    slot: Slot


class Fill(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fill"):
    """Fill the slots with the best candidates that match; where there are too few, with the newest
    matching items of the catalogue."""

    slots: Annotated[tuple[Slot, ...], Meta(min_length=1, max_length=MAX_SLOT)]
    items: ItemExpression


class Boost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="boost"):
    """Let matching candidates compete as if they were further up."""

    items: ItemExpression
    strength: Strength


class Bury(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="bury"):
    """Let matching candidates compete as if they were further down."""

    items: ItemExpression
    strength: Strength


class IncludeOnly(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="include_only"):
    """Leave out what does not match. Of several such actions, all must match."""

    items: ItemExpression


class Exclude(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="exclude"):
    """Leave out what matches."""

    items: ItemExpression


class SameAsSeed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="same_as_seed"):
    """Leave out what does not share the seed's value of the attribute: its brand, its category
    (`group_id`: the most specific group of the seed), or, with `bands`, the band of its price.
    Without a seed that has the attribute, nothing happens. Of several seeds, one must share."""

    attribute: Attribute
    bands: Bands = ()


class DifferentFromSeed(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="different_from_seed"
):
    """Leave out what `same_as_seed` would keep."""

    attribute: Attribute
    bands: Bands = ()


class AtMost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="at_most"):
    """At most `count` items of one value of the attribute among the first `first`. Items without
    the attribute are not limited. Of `group_id` an item's own group counts, not those above it,
    unless `values` name them. Pinned items count, but stay."""

    count: Annotated[int, Meta(ge=0, le=MAX_SLOT)]
    attribute: Attribute
    first: Slot = MAX_SLOT
    values: Annotated[
        tuple[str | float | bool, ...],
        Meta(max_length=1000, description="Only these are limited; empty: each of them"),
    ] = ()


class AtLeast(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="at_least"
):
    """At least `percent` of the list's first `first` match, spread over it. Where there are too few
    matching candidates, the newest matching items of the catalogue are added."""

    percent: Annotated[float, Meta(gt=0, le=100)]
    items: ItemExpression
    first: Slot = MAX_SLOT


class PriceOfSeed(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="price_of_seed",
):
    """Leave out what costs less than `at_least` or more than `at_most` times the seed's price. Of
    several seeds, the lowest and the highest price. An item without a price is left out."""

    at_least: Annotated[float, Meta(ge=0, le=1000)] | None = None
    at_most: Annotated[float, Meta(ge=0, le=1000)] | None = None


class LeaveOut(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="leave_out"
):
    """Leave out what the shopper bought, viewed or clicked within the last `days` days, or has in
    the cart."""

    what: Acted
    days: Days = 30


class Rotate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rotate"):
    """Let equals take turns: among the first `first`, candidates whose relevance is within
    `tolerance` of each other's change places from period to period (UTC), always the same way
    within one."""

    every: Period
    per_shopper: bool = False
    tolerance: Share = 0.05
    first: Slot = MAX_SLOT


class MinRelevance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="min_relevance"):
    """Leave out candidates whose relevance, their strategy's best being 1, is below `at_least`.
    Pinned items stay."""

    at_least: Share


Action = (
    Pin
    | Fill
    | Boost
    | Bury
    | IncludeOnly
    | Exclude
    | SameAsSeed
    | DifferentFromSeed
    | AtMost
    | AtLeast
    | PriceOfSeed
    | LeaveOut
    | Rotate
    | MinRelevance
)
