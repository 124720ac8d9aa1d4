"""Items as the answer shows them: encoded once, kept as bytes in a bounded near-cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from app.domain.bounded_cache import BoundedCache
from app.domain.catalogue import ItemFeatures, Variation

HIDDEN_PREFIX: Final = "_"
"""Fields of an item's data that begin so are shown only where `fmt_options[hidden_fields]` names
them."""

ENTRY_OVERHEAD: Final = 160
"""What a rendered item costs beside its bytes: the object, its key, its place in a dictionary."""

_SETTLED_AT_ONCE: Final = 64  # some 30 µs
_SMALL: Final = 1_000  # items of a change that join those that have not settled yet
_MOST_LAYERS: Final = 4  # while nobody reads, nobody is held up either

_encode = msgspec.json.Encoder().encode


class RenderedItems(BoundedCache[int, bytes]):
    """The near-cache of rendered items of all merchants in this process. Keys: an index's `base` +
    row.

    A change of many items is laid over it at once, and settles bit by bit as the cache is read: the
    event loop does not stand still for it.
    """

    __slots__ = ("_layers",)

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, _size)
        self._layers: list[dict[int, bytes | None]] = []  # the newest last

    def lay_over(self, change: dict[int, bytes | None]) -> None:
        """From now on these are the items; None: it is not held any more. The dictionary is the
        cache's from then on."""
        if self._layers and (len(change) <= _SMALL or len(self._layers) == _MOST_LAYERS):
            self._layers[-1].update(change)
        elif change:
            self._layers.append(change)

    def get(self, key: int) -> bytes | None:
        for layer in reversed(self._layers):
            if key in layer:
                return layer[key]
        return super().get(key)

    def get_many(self, keys: Sequence[int]) -> list[bytes | None]:
        if self._layers:
            self._settle()
            return [self.get(key) for key in keys]
        return super().get_many(keys)

    def holds(self, keys: Sequence[int]) -> list[bool]:
        held = super().holds(keys)
        for layer in self._layers:
            held = [
                layer.get(key, b"" if is_held else None) is not None
                for key, is_held in zip(keys, held, strict=True)
            ]
        return held

    def drop(self, key: int) -> None:
        for layer in self._layers:
            layer.pop(key, None)
        super().drop(key)

    def _settle(self) -> None:
        """Puts a few items of the oldest layer into their place."""
        oldest, *newer = self._layers
        for _ in range(min(_SETTLED_AT_ONCE, len(oldest))):
            key, rendered = oldest.popitem()
            if any(key in layer for layer in newer):
                continue
            if rendered is None:
                super().drop(key)
            else:
                super().put(key, rendered)
        if not oldest:
            del self._layers[0]


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
