"""Items as the answer shows them: encoded once, kept as bytes in a bounded near-cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from app.domain.catalogue import ItemFeatures, Variation

HIDDEN_PREFIX = "_"
"""Fields of an item's data that begin so are shown only where `fmt_options[hidden_fields]` names
them."""

# What an entry costs beside its bytes: the bytes object, its key and its place in a dictionary.
ENTRY_OVERHEAD = 160

_encode = msgspec.json.Encoder().encode


def variation_document(variation: Variation) -> dict[str, Any]:
    """A variation in the wire's form: {"value", "data": {"variation_id", ...}}."""
    return {
        "value": variation.name,
        "data": {"variation_id": variation.id, **_shown(variation.data)},
    }


def item_document(features: ItemFeatures) -> dict[str, Any]:
    """What a result shows of an item: {"value", "data": {"id", ...}, "variations"?}."""
    document: dict[str, Any] = {
        "value": features.name,
        "data": {"id": features.id, **_shown(features.data)},
    }
    if features.variations:
        document["variations"] = [variation_document(v) for v in features.variations]
    return document


def render(features: ItemFeatures) -> bytes:
    """`item_document` as JSON without its closing brace: what differs from answer to answer
    (labels, slot, strategy, reason) is appended."""
    return _encode(item_document(features))[:-1]


def _shown(data: dict[str, Any]) -> dict[str, Any]:
    if any(name.startswith(HIDDEN_PREFIX) for name in data):
        return {n: value for n, value in data.items() if not n.startswith(HIDDEN_PREFIX)}
    return data


class RenderedItems:
    """The near-cache of rendered items of all merchants in this process.

    Two generations: what is read moves to the young one; when that holds half of the bound, the old
    one is let go. A hit costs one dictionary look-up, and what was used since the last turn stays.
    Keys are numbers: an index's `base` + row.
    """

    __slots__ = ("_half", "_old", "_old_bytes", "_young", "_young_bytes", "turns")

    def __init__(self, max_bytes: int) -> None:
        self._half = max(max_bytes // 2, 1)
        self._young: dict[int, bytes] = {}
        self._old: dict[int, bytes] = {}
        self._young_bytes = 0
        self._old_bytes = 0
        self.turns = 0  # how often a generation was let go

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    @property
    def held_bytes(self) -> int:
        """Bytes held, overhead included; at most the bound and one entry."""
        return self._young_bytes + self._old_bytes

    @property
    def room(self) -> int:
        """Bytes that can be added before anything is let go."""
        free = self._half - self._young_bytes
        return max(free if self._old else free + self._half, 0)

    def get(self, key: int) -> bytes | None:
        found = self._young.get(key)
        if found is None and (found := self._old.pop(key, None)) is not None:
            self._old_bytes -= len(found) + ENTRY_OVERHEAD
            self.put(key, found)
        return found

    def get_many(self, keys: Sequence[int]) -> list[bytes | None]:
        found: list[bytes | None] = list(map(self._young.get, keys))
        if None in found:
            for i, item in enumerate(found):
                if item is None:
                    found[i] = self.get(keys[i])
        return found

    def put(self, key: int, rendered: bytes) -> None:
        self.drop(key)
        size = len(rendered) + ENTRY_OVERHEAD
        if self._young_bytes + size > self._half and self._young:
            if self._old:
                self.turns += 1
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        self._young[key] = rendered
        self._young_bytes += size

    def drop(self, key: int) -> None:
        if (found := self._young.pop(key, None)) is not None:
            self._young_bytes -= len(found) + ENTRY_OVERHEAD
        elif (found := self._old.pop(key, None)) is not None:
            self._old_bytes -= len(found) + ENTRY_OVERHEAD
