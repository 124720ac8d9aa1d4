"""A cache bounded by bytes whose hits cost one dictionary look-up."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Two generations: what is read moves to the young one; when that holds half of the bound, the
    old one is let go. So what was used since the last turn stays, without an order to keep.

    Args:
        max_bytes: of all entries together.
        size: bytes that an entry takes, its place in the dictionary included.
    """

    __slots__ = ("_half", "_old", "_old_bytes", "_size", "_young", "_young_bytes", "turns")

    def __init__(self, max_bytes: int, size: Callable[[V], int]) -> None:
        self._half = max(max_bytes // 2, 1)
        self._size = size
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._young_bytes = 0
        self._old_bytes = 0
        self.turns = 0  # how often a generation was let go

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    @property
    def held_bytes(self) -> int:
        """At most the bound, and one entry more where an entry is larger than half of it."""
        return self._young_bytes + self._old_bytes

    @property
    def room(self) -> int:
        """Bytes that can surely be added before anything is let go; none where little is left."""
        free = self._half - self._young_bytes
        room = free if self._old else free + self._half
        return room if room > self._half // 16 else 0

    def get(self, key: K) -> V | None:
        found = self._young.get(key)
        if found is None and (found := self._old.pop(key, None)) is not None:
            self._old_bytes -= self._size(found)
            self.put(key, found)
        return found

    def get_many(self, keys: Sequence[K]) -> list[V | None]:
        found: list[V | None] = list(map(self._young.get, keys))
        if None in found:
            for i, entry in enumerate(found):
                if entry is None:
                    found[i] = self.get(keys[i])
        return found

    def holds(self, keys: Sequence[K]) -> list[bool]:
        """Which keys are held; does not count as use."""
        young, old = self._young, self._old
        return [key in young or key in old for key in keys]

    def put(self, key: K, entry: V) -> None:
        self.drop(key)
        size = self._size(entry)
        if self._young_bytes + size > self._half and self._young:
            if self._old:
                self.turns += 1
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        self._young[key] = entry
        self._young_bytes += size

    def drop(self, key: K) -> None:
        if (found := self._young.pop(key, None)) is not None:
            self._young_bytes -= self._size(found)
        elif (found := self._old.pop(key, None)) is not None:
            self._old_bytes -= self._size(found)
