"""From a catalogue's records to what serving needs: features, and the tree of item groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from app.domain.catalogue import (
    MAX_ID_LENGTH,
    FacetValue,
    Item,
    ItemFeatures,
    Variation,
)
from app.domain.errors import InvalidInput

MAX_ATTRIBUTE_LENGTH: Final = 250
"""Longer texts are shown, not filtered by."""
MAX_ATTRIBUTE_VALUES: Final = 500
"""Of one attribute of an item, its variations' included."""
MAX_TREE_DEPTH: Final = 64
"""Levels of item groups."""

# Shown or understood, but nothing that a filter names.
_NO_ATTRIBUTES: Final = frozenset(
    {"active", "deactivated", "description", "facets", "group_ids", "image_url", "keywords",
     "price", "sale_price", "url"}
)  # fmt: skip
_AWAY: Final = frozenset(
    {"outofstock", "soldout", "oos", "discontinued", "unavailable", "notavailable", "false", "no",
     "0"}
)  # fmt: skip
_NOT_A_LETTER = re.compile(r"[^a-z0-9]")
_AMOUNT = re.compile(r"[^\d.,+-]{0,8}(\d{1,15}(?:\.\d{1,10})?)[^\d.,]{0,8}")


class GroupTree:
    """The tree of item groups: each id's parent, None for a root."""

    def __init__(self, parents: Mapping[str, str | None]) -> None:
        """
        Raises:
            InvalidInput: the groups go round in a circle, which it names, or are too deep.
        """
        self._parents = parents
        self._paths: dict[str, tuple[str, ...]] = {}
        for group in parents:
            self.path(group)

    def path(self, group: str) -> tuple[str, ...]:
        """The group and all above it, nearest first. One that is not in the tree is its own."""
        known = self._paths.get(group)
        if known is not None:
            return known
        path: list[str] = []
        at: str | None = group
        while at is not None and at not in self._paths:
            if at in path:
                circle = " > ".join([*path[path.index(at) :], at])
                raise InvalidInput.field("parent_id", f"item groups go round in a circle: {circle}")
            path.append(at)
            if len(path) > MAX_TREE_DEPTH:
                raise _too_deep(group)
            at = self._parents.get(at)
        rest = self._paths[at] if at is not None else ()
        if len(path) + len(rest) > MAX_TREE_DEPTH:
            raise _too_deep(group)
        for place in range(len(path) - 1, -1, -1):
            rest = self._paths[path[place]] = (path[place], *rest)
        return self._paths[group]


def _too_deep(group: str) -> InvalidInput:
    return InvalidInput.field(
        "parent_id", f"the item group {group} is more than {MAX_TREE_DEPTH} levels deep"
    )


EMPTY_TREE: Final = GroupTree({})


def features(
    item: Item,
    variations: Sequence[Variation] = (),
    groups: GroupTree = EMPTY_TREE,
    *,
    version: int = 0,
    created: int = 0,
) -> ItemFeatures:
    """What serving needs of an item.

    - available: neither `active: false`, `deactivated: true` nor an `availability` that says no
      ("out of stock", "sold out", "discontinued", schema.org's OutOfStock, false); and where there
      are variations, one of them is available at least.
    - price: the sale price where there is one, else the price, else the lowest of the available
      variations.
    - attributes: facets by name, every scalar of the data and every list of scalars, of the item
      and then of its variations (a filter for red finds what is to be had in red); `group_id` with
      all groups above; `price`.

    Args:
        version: the catalogue version that brought the item.
        created: Unix seconds at which it was first seen.
    """
    offered = [variation for variation in variations if is_available(variation.data)]
    price = _price(item.data)
    if price is None:
        price = min((p for v in offered if (p := _price(v.data)) is not None), default=None)
    attributes: dict[str, dict[FacetValue, None]] = {}
    for data in (item.data, *(variation.data for variation in variations)):
        for name, value in _values(data):
            attributes.setdefault(name, {})[value] = None
    paths = (groups.path(group) for group in item.data.get("group_ids", ()))
    group_ids = dict.fromkeys(group for path in paths for group in path)
    known: dict[str, tuple[FacetValue, ...]] = {
        name: tuple(values)[:MAX_ATTRIBUTE_VALUES] for name, values in attributes.items()
    }
    if group_ids:
        known["group_id"] = tuple(group_ids)
    if price is not None:
        known["price"] = (price,)
    return ItemFeatures(
        id=item.id,
        version=version,
        name=item.name,
        available=is_available(item.data) and (bool(offered) or not variations),
        price=price,
        created=created,
        attributes=known,
        data=_shown(item.data),
        variations=tuple(
            Variation(
                id=variation.id,
                item_id=variation.item_id,
                name=variation.name,
                suggested_score=variation.suggested_score,
                data=_shown(variation.data),
            )
            for variation in variations
        ),
    )


def is_available(data: Mapping[str, Any]) -> bool:
    """Whether the data of an item or a variation lets it be recommended. What `availability` says
    in words that are not known is not taken for a no."""
    if data.get("active") is False or data.get("deactivated") is True:
        return False
    stated = data.get("availability")
    if isinstance(stated, str):
        return _NOT_A_LETTER.sub("", stated.rpartition("/")[2].lower()) not in _AWAY
    return stated is None or stated is not False


def amount(value: Any) -> float | None:
    """The number that a price is: 12.5, "12.50", "£12.50", "12.50 GBP"; None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if 0 <= value < 1e15 else None
    if isinstance(value, str) and (found := _AMOUNT.fullmatch(value.strip())):
        return float(found[1])
    return None


def facets_of(facets: Any) -> dict[str, list[str | float | bool]] | None:
    """Facets by name, from any form that the wire has; None where it is none of them."""
    if isinstance(facets, dict):
        pairs: list[tuple[Any, Any]] = list(facets.items())
    elif isinstance(facets, list) and all(isinstance(facet, dict) for facet in facets):
        pairs = [(facet.get("name", facet.get("key")), facet.get("values")) for facet in facets]
    else:
        return None
    found: dict[str, list[str | float | bool]] = {}
    for name, given in pairs:
        values = given if isinstance(given, list) else [given]
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= MAX_ID_LENGTH
            or not all(isinstance(value, str | int | float) for value in values)
        ):
            return None
        found.setdefault(name, []).extend(values)
    return found


def _price(data: Mapping[str, Any]) -> float | None:
    sale = amount(data.get("sale_price"))
    return amount(data.get("price")) if sale is None else sale


def _values(data: Mapping[str, Any]) -> Iterator[tuple[str, FacetValue]]:
    for name, facet in (facets_of(data.get("facets") or {}) or {}).items():
        for value in _scalars(facet):
            yield name, value
    for name, given in data.items():
        if name not in _NO_ATTRIBUTES:
            for value in _scalars(given if isinstance(given, list) else (given,)):
                yield name, value


def _scalars(values: Iterable[Any]) -> Iterator[FacetValue]:
    for value in values:
        if isinstance(value, str):
            if 0 < len(value) <= MAX_ATTRIBUTE_LENGTH:
                yield value
        elif isinstance(value, bool):
            yield value
        elif isinstance(value, int | float) and abs(value) < 1e300:
            yield float(value)


def _shown(data: dict[str, Any]) -> dict[str, Any]:
    """The data with its facets in the one form that answers have."""
    if "facets" not in data:
        return data
    facets = facets_of(data["facets"]) or {}
    return {**data, "facets": [{"name": n, "values": values} for n, values in facets.items()]}
