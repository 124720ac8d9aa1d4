"""Item expressions: which items a rule speaks of. JSON objects told apart by `type`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from app.domain.catalogue import FacetValue

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Attribute = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        description="A facet or scalar field of the items, `group_id` (ancestors included), "
        "`price`, `id` or `name`",
    ),
]
Days = Annotated[float, Meta(gt=0, le=3650)]


class ItemAnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="and"):
    """All of the expressions hold."""

    of: Annotated[tuple[ItemExpression, ...], Meta(min_length=1, max_length=200)]


class ItemOr(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="or"):
    """At least one of the expressions holds."""

    of: Annotated[tuple[ItemExpression, ...], Meta(min_length=1, max_length=200)]


class ItemNot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="not"):
    """The expression does not hold. An item without the attribute is matched by `not`."""

    of: ItemExpression


class ItemIs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="is"):
    """The attribute has at least one of the values. 5 and "5", true and "true" are the same."""

    attribute: Attribute
    values: Annotated[tuple[FacetValue, ...], Meta(min_length=1, max_length=1000)]


class ItemRange(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="range",
):
    """The attribute has a number within the bounds, both included. One bound may be left open."""

    attribute: Attribute
    at_least: float | None = None
    at_most: float | None = None


class ItemList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="items"):
    """One of the items named. They need not be in the catalogue yet."""

    ids: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...],
        Meta(min_length=1, max_length=5000),
    ]


class ItemNew(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="new"):
    """First seen in the catalogue within the last `days` days, counted back from the request."""

    days: Days


class ItemNamed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="named"):
    """The expression of that name in the rule set's `expressions`."""

    name: Name


class ItemEvery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="every"):
    """Every item."""


ItemExpression = (
    ItemAnd | ItemOr | ItemNot | ItemIs | ItemRange | ItemList | ItemNew | ItemNamed | ItemEvery
)
