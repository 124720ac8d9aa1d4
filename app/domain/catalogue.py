"""Items, their variations and item groups, in sections."""

from __future__ import annotations

from typing import Any, NewType

import msgspec

ItemId = NewType("ItemId", str)
Section = NewType("Section", str)

DEFAULT_SECTION = Section("Products")

FacetValue = str | float | bool


class Variation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One buyable form of an item: a size, a colour."""

    id: str
    item_id: ItemId
    name: str | None = None
    suggested_score: float | None = None
    data: dict[str, Any] = {}


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A product. `data` is served as it came; the fields that Vitrine understands are read from it
    by `features`: url, image_url, description, price, sale_price, active, availability, facets,
    group_ids, keywords."""

    id: ItemId
    name: str
    suggested_score: float | None = None
    data: dict[str, Any] = {}


class ItemGroup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of the category tree."""

    id: str
    name: str
    parent_id: str | None = None
    data: dict[str, Any] = {}


class ItemFeatures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What choosing, ruling and showing an item needs: one document an item in Redis.

    `data` is what the answer shows under `data` (facets and group_ids in the wire's form);
    `attributes` is what filters and rules see: facets by name, `group_id` (ancestors included),
    `price`, and every scalar of the metadata.
    """

    id: ItemId
    version: int  # the catalogue version that brought it
    name: str
    available: bool = True
    price: float | None = None  # sale price where there is one
    created: int = 0  # Unix seconds
    attributes: dict[str, tuple[FacetValue, ...]] = {}
    data: dict[str, Any] = {}
    variations: tuple[Variation, ...] = ()
