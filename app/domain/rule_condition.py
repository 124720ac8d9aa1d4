"""Conditions: for which requests a rule is active. JSON objects told apart by `type`."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from app.domain.rule_items import Days, ItemExpression

Text = Annotated[str, Meta(min_length=1, max_length=200)]
Texts = Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1000)]
Clock = Annotated[
    str,
    Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$", description="HH:MM, 24 hours"),
]


class Weekday(enum.StrEnum):
    MONDAY = "mon"
    TUESDAY = "tue"
    WEDNESDAY = "wed"
    THURSDAY = "thu"
    FRIDAY = "fri"
    SATURDAY = "sat"
    SUNDAY = "sun"


class TermMatch(enum.StrEnum):
    EXACT = "exact"
    CONTAINS = "contains"
    STARTS_WITH = "starts_with"


class Acted(enum.StrEnum):
    """What a shopper did to an item."""

    VIEWED = "viewed"
    CLICKED = "clicked"
    IN_CART = "in_cart"  # put into the cart, and not bought since
    BOUGHT = "bought"


class WhenAnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="and"):
    """All of the conditions hold."""

    of: Annotated[tuple[Condition, ...], Meta(min_length=1, max_length=100)]


class WhenOr(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="or"):
    """At least one of the conditions holds."""

    of: Annotated[tuple[Condition, ...], Meta(min_length=1, max_length=100)]


class WhenNot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="not"):
    """The condition does not hold."""

    of: Condition


class WhenPod(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pod"):
    """The request is for one of the pods. A rule without this is for all pods."""

    ids: Texts


class WhenStrategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="strategy"):
    """The list is led by one of the strategies: the first of the pod's chain that gave a
    candidate. A strategy's name, or the id of a strategy configuration."""

    ids: Texts


class WhenSeed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="seed"):
    """At least one of the request's seed items is matched. Without a seed it does not hold."""

    items: ItemExpression


class WhenFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="filter"):
    """The request filters by the name; with `values`: by at least one of them."""

    name: Text
    values: Annotated[tuple[Text, ...], Meta(max_length=1000)] = ()


class WhenTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="term"):
    """The request's term, case and surrounding space aside."""

    terms: Texts
    match: TermMatch = TermMatch.EXACT


class WhenSegment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="segment"):
    """The shopper is in at least one of the segments (wire: `us`)."""

    ids: Texts


class WhenShopper(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="shopper"
):
    """An attribute of the shopper. `known` ("true" where the request names a user) is Vitrine's
    own; every other is what the shop sends as a segment of the form `name:value`."""

    attribute: Text
    values: Texts


class WhenActed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="acted"):
    """The shopper did so to a matching item within the last `days` days."""

    what: Acted
    days: Days
    items: ItemExpression | None = None  # None: any item


class WhenCell(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cell"):
    """The request is in the experiment's cell (wire: `ef-<experiment>=<cell>`, or assigned)."""

    experiment: Text
    cells: Texts


class WhenBetween(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="between",
):
    """start <= now < end. Times carry their offset. One bound may be left open."""

    start: Annotated[dt.datetime, Meta(tz=True)] | None = None
    end: Annotated[dt.datetime, Meta(tz=True)] | None = None


class WhenWeekly(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="weekly",
):
    """On the weekdays, from `start` up to `end`, by the clock of the zone. Where `end` is not after
    `start`, it is the next day's: the weekday is that of the start."""

    zone: Annotated[str, Meta(min_length=1, max_length=64, description='IANA: "Europe/London"')]
    days: Annotated[tuple[Weekday, ...], Meta(min_length=1, max_length=7)] = tuple(Weekday)
    start: Clock = "00:00"
    end: Clock = "24:00"


Condition = (
    WhenAnd
    | WhenOr
    | WhenNot
    | WhenPod
    | WhenStrategy
    | WhenSeed
    | WhenFilter
    | WhenTerm
    | WhenSegment
    | WhenShopper
    | WhenActed
    | WhenCell
    | WhenBetween
    | WhenWeekly
)
