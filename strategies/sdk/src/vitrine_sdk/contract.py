"""The whole contract between Vitrine (the host) and a strategy (a plugin).

A strategy is *fitted* offline on a shop's data into named arrays (the artefact), *loaded* from
them into an immutable model, and asked to *recommend* candidates. It is registered as an entry
point of the group ``vitrine.strategies`` that names a class which satisfies `Strategy`::

    [project.entry-points."vitrine.strategies"]
    popular = "vitrine_popular:Popular"

Items are named by **position**: the index of an item in `Items.ids` of the data that the model was
fitted on. The host keeps the ids beside the artefact and translates; no strategy handles ids while
it recommends. Items that the model has not been fitted on never reach it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

CONTRACT = 1
"""The version of this contract. A strategy states the one it was written for."""

ENTRY_POINT_GROUP = "vitrine.strategies"

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Arrays = Mapping[str, npt.NDArray[Any]]


class EventType(enum.IntEnum):
    """What a shopper did. The numbers are stored: never renumber, only append."""

    IMPRESSION = 0  # a recommendation was seen
    VIEW = 1  # an item's own page was opened
    CLICK = 2  # an item was chosen from recommendations, search or browse results
    CART = 3
    PURCHASE = 4
    SEARCH = 5  # a term was searched; the item, where there is one, was chosen from its results
    CONVERSION = 6  # a type of the merchant's own: wishlist, like, sign-up
    OTHER = 7  # whatever else was tracked (session start, focus): kept, never learned from


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a strategy's configuration. Its JSON Schema is published and checked on write.

    Every field has a default that serves; bounds: ``Annotated[int, msgspec.Meta(...)]``.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Facet:
    """One attribute of the items, coded: the values of item `i` are
    ``[values[c] for c in codes[offsets[i]:offsets[i + 1]]]``."""

    values: Sequence[str]
    offsets: npt.NDArray[np.int64]  # n + 1
    codes: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The catalogue in columns, one row an item; n items."""

    ids: Sequence[str]
    names: Sequence[str]
    available: BoolArray  # n
    price: FloatArray  # n, the shop's currency; nan where unknown
    created: npt.NDArray[np.int64]  # n, Unix seconds at which the item was first seen
    groups: Facet  # ids of item groups, ancestors included
    facets: Mapping[str, Facet]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """The event log in columns, one row an event and item, sorted by (shopper, time); m rows."""

    shopper: IntArray  # m, dense codes 0 .. shoppers - 1
    item: IntArray  # m, position in Items; -1 where the event names no known item
    type: npt.NDArray[np.int8]  # m, EventType
    time: npt.NDArray[np.int64]  # m, Unix seconds
    quantity: FloatArray  # m, 1 where the event has none
    revenue: FloatArray  # m, quantity times price paid; 0 where the event has none
    session: IntArray  # m, dense codes: one visit, or one basket for purchases
    term: IntArray  # m, index into `terms`; -1 where there is none
    terms: Sequence[str]
    shoppers: int  # number of distinct shoppers

    def __len__(self) -> int:
        return len(self.shopper)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    items: Items
    events: Events
    now: int  # Unix seconds: the watermark. No event is later; windows and ages count from it.


@dataclass(frozen=True, slots=True)
class Needs:
    """What `Model.recommend` wants in its context. What is not asked for is not fetched."""

    seeds: bool = False  # cannot answer without at least one item in the request
    history: int = 0  # at most so many of the shopper's latest events; 0: none
    term: bool = False  # cannot answer without a search term
    eligible: bool = False  # wants the mask of items that the request's filters leave


@dataclass(slots=True, eq=False)
class History:
    """What the shopper did lately, newest first; h rows."""

    items: IntArray  # h
    types: npt.NDArray[np.int8]  # h, EventType
    ages: FloatArray  # h, seconds since the event

    def __len__(self) -> int:
        return len(self.items)


EMPTY_HISTORY = History(np.empty(0, np.int32), np.empty(0, np.int8), np.empty(0, np.float32))


@dataclass(slots=True, eq=False)
class Context:
    """One request as the model sees it, and leaves it. Its arrays are read-only.

    Not frozen, nor are histories and candidates: that would make setting each field a call, in each
    request.
    """

    now: int  # Unix seconds
    seeds: IntArray = field(default_factory=lambda: np.empty(0, np.int32))  # in the request's order
    history: History = EMPTY_HISTORY
    term: str | None = None
    segments: tuple[str, ...] = ()
    eligible: BoolArray | None = None  # one flag an item; None: every item


@dataclass(slots=True, eq=False)
class Candidates:
    """Items best first, as parallel arrays of length c <= limit. No item twice.

    ``scores`` are finite and non-increasing. ``reasons`` index `Strategy.reasons`.
    """

    items: IntArray
    scores: FloatArray
    reasons: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.items)


NO_CANDIDATES = Candidates(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.uint8))

ConfigT = TypeVar("ConfigT", bound=Config)


class Model(Protocol):
    """An immutable, thread-safe, fitted model."""

    def recommend(self, context: Context, limit: int) -> Candidates:
        """At most `limit` (>= 1) candidates. No I/O, no randomness, no clock, `context` untouched.

        Nothing to say is `NO_CANDIDATES`, not an exception: the host asks the next in the chain.
        Asked again with a larger limit, the answer starts with the same items.
        """
        ...


class Strategy(Protocol[ConfigT]):
    """A plugin. Instances are made without arguments and hold no state."""

    contract: ClassVar[int]  # CONTRACT as the author knew it
    format: ClassVar[int]  # version of the artefact's arrays; an artefact of another is refused
    reasons: ClassVar[tuple[str, ...]]  # machine-readable reason codes, e.g. ("bought_together",)

    @property
    def config(self) -> type[ConfigT]: ...

    def needs(self, config: ConfigT) -> Needs: ...

    def fit(self, data: TrainingData, config: ConfigT, seed: int) -> Arrays:
        """Learn from `data`. Pure: the same data, config and seed give the same bytes.

        The arrays are written as they are and come back memory-mapped, read-only. No object dtype.
        """
        ...

    def load(self, arrays: Arrays, config: ConfigT, items: int) -> Model:
        """The model for arrays that `fit` made with this `format`; `items` is the number of items.

        Raises:
            ValueError: an array is missing or has another shape or type than it must.
        """
        ...
