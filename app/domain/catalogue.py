"""Items, their variations and item groups, in sections."""

from __future__ import annotations

import enum
from typing import Any, Final, NewType

import msgspec

ItemId = NewType("ItemId", str)
Section = NewType("Section", str)

DEFAULT_SECTION = Section("Products")

FacetValue = str | float | bool

MAX_BATCH: Final = 10_000
"""Items or variations that one call may carry, as in Constructor's API."""
MAX_GROUPS: Final = 10_000
"""Item groups that one call may carry, children counted."""
MAX_ID_LENGTH: Final = 250
MAX_NAME_LENGTH: Final = 1_000
MAX_DATA_BYTES: Final = 200_000
"""Of one record's `data` as JSON."""


class Kind(enum.StrEnum):
    """What a catalogue is made of; the wire's names."""

    ITEMS = "items"
    VARIATIONS = "variations"
    ITEM_GROUPS = "item_groups"


class OnMissing(enum.StrEnum):
    """What a PATCH does with a record that does not exist yet."""

    FAIL = "FAIL"
    IGNORE = "IGNORE"
    CREATE = "CREATE"


class Write(enum.StrEnum):
    """How records are written."""

    FULL = "full"  # these are all: the others go
    REPLACE = "replace"  # these as they are, the others stay
    ADD = "add"  # only those that are not there yet
    PATCH = "patch"  # only the fields that are given
    DELETE = "delete"


class Variation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One buyable form of an item: a size, a colour."""

    id: str
    item_id: ItemId
    name: str | None = None
    suggested_score: float | None = None
    data: dict[str, Any] = {}
    updated_at: float | None = None  # Unix seconds, where it was read from the catalogue


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A product. `data` is served as it came; the fields that Vitrine understands are read from it
    by `item_features.features`: url, image_url, description, price, sale_price, active,
    availability, facets, group_ids, keywords."""

    id: ItemId
    name: str
    suggested_score: float | None = None
    data: dict[str, Any] = {}
    updated_at: float | None = None  # its own or a variation's


class ItemGroup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of the category tree."""

    id: str
    name: str
    parent_id: str | None = None
    data: dict[str, Any] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One item, variation or item group as an input gives it: whole, or the part that a PATCH
    changes. `parent` is a variation's item_id or a group's parent_id."""

    id: str
    name: str | None = None
    suggested_score: float | None = None
    parent: str | None = None
    has_parent: bool = False  # whether the input says anything of the parent
    data: bytes = b"{}"  # JSON object
    removed: tuple[str, ...] = ()  # fields of data that a PATCH takes away (null)
    pointer: str = ""  # where in the input it was


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
