"""Items as the answer shows them: encoded once, kept as bytes in a bounded near-cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from app.domain.catalogue import ItemFeatures, Variation
from vitrine_sdk import IntArray, kernel

BASE_SHIFT: Final = 32
"""Bits of a key that are the row's."""

HIDDEN_PREFIX: Final = "_"
"""Fields of an item's data that begin so are shown only where `fmt_options[hidden_fields]` names
them."""

ENTRY_OVERHEAD: Final = 64
"""What a rendered item costs beside its bytes: the object, its place."""

_SETTLED_AT_ONCE: Final = 64  # some 60 µs
_PATIENCE: Final = 64
"""Items that were read and are passed over for one that was not: to let go takes no longer."""

_ROW: Final = (1 << BASE_SHIFT) - 1
_BASE: Final = ~_ROW
_SMALL: Final = 1_000  # items of a change that join those that have not settled yet
_MOST_LAYERS: Final = 4  # while nobody reads, nobody is held up either

_encode = msgspec.json.Encoder().encode


class _Shelf:
    """An index's items by row: no dictionary, where each would be three places in the memory."""

    __slots__ = ("items", "used")

    def __init__(self) -> None:
        self.items: list[bytes | None] = []
        self.used = bytearray()  # by row: read since the hand came by

    def reach(self, row: int) -> None:
        more = row + 1 - len(self.items)
        if more > 0:
            more = max(more, len(self.items))
            self.items.extend([None] * more)
            self.used.extend(bytes(more))


class RenderedItems:
    """The near-cache of rendered items of all merchants in this process, bounded by bytes. Keys: an
    index's `base` + row.

    Where there is no room, a hand goes round over the items and lets go what was not read since it
    came by last.

    A change of many items is laid over it at once, and settles bit by bit as the cache is read: the
    event loop does not stand still for it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.held_bytes = 0
        """At most the bound, or one entry that is larger."""
        self.let_go = 0
        """Entries for which there was no room any more."""
        self._max = max_bytes
        self._count = 0
        self._shelves: dict[int, _Shelf] = {}
        self._order: list[_Shelf] = []
        self._hand = 0, 0  # place in the order, and the next row
        self._layers: list[dict[int, bytes | None]] = []  # the newest last

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        """Bytes that can be added before anything is let go; none where little is left."""
        room = self._max - self.held_bytes
        return room if room > self._max // 32 else 0

    def lay_over(self, change: dict[int, bytes | None]) -> None:
        """From now on these are the items; None: it is not held any more. The dictionary is the
        cache's from then on."""
        if self._layers and (len(change) <= _SMALL or len(self._layers) == _MOST_LAYERS):
            self._layers[-1].update(change)
        elif change:
            self._layers.append(change)

    def shown(self, base: int, rows: IntArray) -> list[bytes] | None:
        """What rows of an index show; None: not all of it is held."""
        shelf = self._shelves.get(base)
        if self._layers or shelf is None:
            found = self.get_many([base + row for row in rows.tolist()])
            return None if None in found else cast(list[bytes], found)
        if kernel.compiled is not None and kernel.plain(rows, kernel.INT32):
            return kernel.compiled.shown(shelf.items, shelf.used, rows)  # type: ignore[no-any-return]
        listed = [self._read(shelf, row) for row in rows.tolist()]
        return None if None in listed else cast(list[bytes], listed)

    def get(self, key: int) -> bytes | None:
        for layer in reversed(self._layers):
            if key in layer:
                return layer[key]
        shelf = self._shelves.get(key & _BASE)
        return None if shelf is None else self._read(shelf, key & _ROW)

    def get_many(self, keys: Sequence[int]) -> list[bytes | None]:
        if self._layers:
            self._settle()
        return [self.get(key) for key in keys]

    def holds(self, keys: Sequence[int]) -> list[bool]:
        """Which keys are held; does not count as use."""
        return [self._held(key) is not None for key in keys]

    def put(self, key: int, entry: bytes) -> None:
        self.drop(key)
        size = len(entry) + ENTRY_OVERHEAD
        while self._count and self.held_bytes + size > self._max:
            self._let_one_go()
        base, row = key & _BASE, key & _ROW
        shelf = self._shelves.get(base)
        if shelf is None:
            shelf = self._shelves[base] = _Shelf()
            self._order.append(shelf)
        shelf.reach(row)
        shelf.items[row] = entry
        self.held_bytes += size
        self._count += 1

    def drop(self, key: int) -> None:
        for layer in self._layers:
            layer.pop(key, None)
        shelf = self._shelves.get(key & _BASE)
        if shelf is not None:
            self._drop(shelf, key & _ROW)

    def _read(self, shelf: _Shelf, row: int) -> bytes | None:
        item = shelf.items[row] if row < len(shelf.items) else None
        if item is not None:
            shelf.used[row] = 1
        return item

    def _held(self, key: int) -> bytes | None:
        for layer in reversed(self._layers):
            if key in layer:
                return layer[key]
        shelf, row = self._shelves.get(key & _BASE), key & _ROW
        return None if shelf is None or row >= len(shelf.items) else shelf.items[row]

    def _drop(self, shelf: _Shelf, row: int) -> None:
        if row < len(shelf.items) and (entry := shelf.items[row]) is not None:
            shelf.items[row] = None
            shelf.used[row] = 0
            self.held_bytes -= len(entry) + ENTRY_OVERHEAD
            self._count -= 1

    def _let_one_go(self) -> None:
        place, row = self._hand
        looked_at = 0
        while True:
            shelf = self._order[place % len(self._order)]
            for at in range(row, len(shelf.items)):
                if shelf.items[at] is None:
                    continue
                looked_at += 1
                if not shelf.used[at] or looked_at > _PATIENCE:
                    self._drop(shelf, at)
                    self.let_go += 1
                    self._hand = place, at + 1
                    return
                shelf.used[at] = 0
            place, row = (place + 1) % len(self._order), 0

    def _settle(self) -> None:
        """Puts a few items of the oldest layer into their place."""
        oldest, *newer = self._layers
        for _ in range(min(_SETTLED_AT_ONCE, len(oldest))):
            key, rendered = oldest.popitem()
            if any(key in layer for layer in newer):
                continue
            if rendered is None:
                self.drop(key)
            else:
                self.put(key, rendered)
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
