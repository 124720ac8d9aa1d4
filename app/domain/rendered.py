"""Items as the answer shows them: encoded once, kept as bytes in a bounded near-cache."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from app.domain.bounded_cache import BoundedCache
from app.domain.catalogue import ItemFeatures, Variation

HIDDEN_PREFIX: Final = "_"
"""Fields of an item's data that begin so are shown only where `fmt_options[hidden_fields]` names
them."""

ENTRY_OVERHEAD: Final = 160
"""What a rendered item costs beside its bytes: the object, its key, its place in a dictionary."""

_encode = msgspec.json.Encoder().encode


class RenderedItems(BoundedCache[int, bytes]):
    """The near-cache of rendered items of all merchants in this process. Keys: an index's `base` +
    row."""

    __slots__ = ()

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, _size)


def variation_document(variation: Variation, hidden_fields: tuple[str, ...] = ()) -> dict[str, Any]:
    """A variation in the wire's form: {"value", "data": {"variation_id", ...}}."""
    return {
        "value": variation.name,
        "data": {"variation_id": variation.id, **_shown(variation.data, hidden_fields)},
    }


def item_document(features: ItemFeatures, hidden_fields: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a result shows of an item: {"value", "data": {"id", ...}, "variations"?}. An item with
    variations names the first of them as `data.variation_id`."""
    data: dict[str, Any] = {"id": features.id}
    if features.variations:
        data["variation_id"] = features.variations[0].id
    data.update(_shown(features.data, hidden_fields))
    document: dict[str, Any] = {"value": features.name, "data": data}
    if features.variations:
        document["variations"] = [variation_document(v, hidden_fields) for v in features.variations]
    return document


def render(features: ItemFeatures) -> bytes:
    """`item_document` as JSON without its closing brace: what differs from answer to answer
    (labels, slot, strategy, reason) is appended."""
    return _encode(item_document(features))[:-1]


def _shown(data: dict[str, Any], hidden_fields: tuple[str, ...]) -> dict[str, Any]:
    if any(name.startswith(HIDDEN_PREFIX) for name in data):
        return {
            name: value
            for name, value in data.items()
            if not name.startswith(HIDDEN_PREFIX) or name in hidden_fields
        }
    return data


def _size(rendered: bytes) -> int:
    return len(rendered) + ENTRY_OVERHEAD
