"""Lists that do not depend on the shopper, kept ready to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.domain.bounded_cache import BoundedCache
from app.domain.item_index import ItemIndex
from app.services.answer import Answer
from app.services.rulings import UNRULED, Rulings
from vitrine_sdk import IntArray

MAX_AGE: Final = 300.0
"""Seconds after which a list is made anew, so that what ages in a model does so here too."""

_MAX_ASKED: Final = 100_000  # keys remembered
_OVERHEAD: Final = 1_000  # of an entry beside its bytes and rows

Key = tuple[bytes, str]  # the pod's generation, and what of the request the list depends on

Signed = tuple[int, bytes]
"""What the rules make of some rows, to be compared with what they made of them before."""


@dataclass(slots=True, eq=False)
class Prepared:
    """A ready list and what it depends on."""

    answer: Answer
    index: ItemIndex
    revision: int  # of the index, at which it was last known to be true
    rows: IntArray  # every row that was looked at for it
    versions: tuple[bytes, ...]  # see ServedPod
    reached: int  # how many of the chain had a turn; another model of the others changes nothing
    whole_catalogue: bool  # any change of the catalogue may change it
    expires: float  # Unix seconds
    shared: bool = False  # its items' JSON is the near-cache's
    signed: Signed | None = None
    """Where other prices alone change nothing but by this; None: they may."""

    def holds(self, versions: tuple[bytes, ...], now: float, rulings: Rulings | None) -> bool:
        """
        Args:
            versions: of the pod's models that serve now.
            rulings: those in force.
        """
        if now >= self.expires:
            return False
        if versions is not self.versions:
            if versions[: self.reached] != self.versions[: self.reached]:
                return False
            self.versions = versions
        index = self.index
        if self.revision != index.revision:
            if self.whole_catalogue:
                return False
            if not index.unchanged_since(self.rows, self.revision) and not (
                self._is_chosen_alike(rulings) and self._shown_anew()
            ):
                return False
            self.revision = index.revision
        return True

    def _is_chosen_alike(self, rulings: Rulings | None) -> bool:
        """Whether what changed are prices, and what shows of items: then the list stays, as long as
        the rules make the same of its candidates. An import that touches every price would else
        leave no list ready, and the process with four times the work for each request."""
        if self.signed is None or not self.index.unmoved_since(self.rows, self.revision):
            return False
        return self.signed == signed(rulings, self.index, self.rows)

    def _shown_anew(self) -> bool:
        """Puts in the items' JSON as it is now; False: not all of it is at hand."""
        index, answer = self.index, self.answer
        items = index.rendered.shown(index.base, answer.rows)
        if items is None:
            return False
        answer.show(items)
        return True


def signed(rulings: Rulings | None, index: ItemIndex, rows: IntArray) -> Signed:
    return UNRULED if rulings is None else rulings.signed(index, rows)


class PreparedLists:
    """Bounded by bytes, of all merchants together: those that a list has for itself. Items' JSON it
    shares with the near-cache; where that lets items go, kept lists hold them up to five minutes
    longer. Of a pod that has another generation, what was prepared before is not found any more,
    and let go in time."""

    def __init__(self, max_bytes: int) -> None:
        self._lists: BoundedCache[Key, Prepared] = BoundedCache(max_bytes, _size)
        self._asked: set[int] = set()  # hashes of keys that were asked for once
        self.hits = 0
        self.misses = 0

    @property
    def held_bytes(self) -> int:
        return self._lists.held_bytes

    def get(
        self, key: Key, versions: tuple[bytes, ...], now: float, rulings: Rulings | None
    ) -> Answer | None:
        found = self._lists.get(key)
        if found is None or not found.holds(versions, now, rulings):
            self.misses += 1
            return None
        self.hits += 1
        return found.answer

    def welcomes(self, key: Key) -> bool:
        """Whether a list is worth keeping: from the second time on that it is asked for. Most
        seeds and filters of a large shop are asked for once, and would push out the others."""
        asked = hash(key)
        if asked in self._asked:
            return True
        if len(self._asked) >= _MAX_ASKED:
            self._asked.clear()
        self._asked.add(asked)
        return False

    def put(self, key: Key, prepared: Prepared) -> None:
        self._lists.put(key, prepared)


def _size(prepared: Prepared) -> int:
    parts = prepared.answer.parts
    own = parts[:1] + parts[-1:] if prepared.shared else parts
    return _OVERHEAD + 8 * len(parts) + sum(map(len, own)) + prepared.rows.nbytes
