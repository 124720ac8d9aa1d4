"""Small shops to fit strategies on: `shop` from rows you write, `small_shop` ready made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine_sdk.contract import (
    EMPTY_HISTORY,
    BoolArray,
    Context,
    Events,
    EventType,
    Facet,
    History,
    Items,
    TrainingData,
)

NOW = 1_750_000_000
DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRow:
    """One item as a shop would list it."""

    id: str
    name: str = ""
    price: float = float("nan")
    groups: tuple[str, ...] = ()
    facets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    available: bool = True
    created: int = NOW - 400 * DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One event. `item` is an item's id; an id that no item has becomes position -1."""

    shopper: str
    item: str | None
    type: EventType = EventType.PURCHASE
    time: int = NOW - DAY
    quantity: float = 1.0
    revenue: float = 0.0
    session: str | None = None  # None: one a shopper and day
    term: str | None = None


def shop(items: Sequence[ItemRow], events: Iterable[EventRow] = (), now: int = NOW) -> TrainingData:
    """Training data of these rows, sorted as the contract says, its arrays read-only."""
    position = {row.id: i for i, row in enumerate(items)}
    names = sorted({name for row in items for name in row.facets})
    catalogue = Items(
        ids=[row.id for row in items],
        names=[row.name for row in items],
        available=_frozen([row.available for row in items], np.bool_),
        price=_frozen([row.price for row in items], np.float32),
        created=_frozen([row.created for row in items], np.int64),
        groups=facet([row.groups for row in items]),
        facets={name: facet([row.facets.get(name, ()) for row in items]) for name in names},
    )
    rows = sorted(events, key=lambda row: (row.shopper, row.time))
    shoppers = _codes(row.shopper for row in rows)
    sessions = _codes(
        f"{row.shopper}/{row.time // DAY if row.session is None else row.session}" for row in rows
    )
    terms = _codes(row.term for row in rows if row.term is not None)
    log = Events(
        shopper=_frozen([shoppers[row.shopper] for row in rows], np.int32),
        item=_frozen([position.get(row.item or "", -1) for row in rows], np.int32),
        type=_frozen([int(row.type) for row in rows], np.int8),
        time=_frozen([row.time for row in rows], np.int64),
        quantity=_frozen([row.quantity for row in rows], np.float32),
        revenue=_frozen([row.revenue for row in rows], np.float32),
        session=_frozen(
            [
                sessions[f"{row.shopper}/{row.time // DAY if row.session is None else row.session}"]
                for row in rows
            ],
            np.int32,
        ),
        term=_frozen([-1 if row.term is None else terms[row.term] for row in rows], np.int32),
        terms=list(terms),
        shoppers=len(shoppers),
    )
    return TrainingData(catalogue, log, now)


def facet(values: Iterable[Sequence[str]]) -> Facet:
    """A facet of each item's values."""
    table: dict[str, int] = {}
    codes: list[int] = []
    offsets = [0]
    for row in values:
        codes += [table.setdefault(value, len(table)) for value in row]
        offsets.append(len(codes))
    return Facet(list(table), _frozen(offsets, np.int64), _frozen(codes, np.int32))


def small_shop(seed: int = 0, items: int = 60, shoppers: int = 80) -> TrainingData:
    """A shop with structure to find: four departments, shoppers who mostly stay in one of them,
    every event type, searches, repeat purchases, unknown items; and its last three items have no
    event at all (the last is unavailable, without name, price or group)."""
    rng = np.random.default_rng(seed)
    departments = ["garden", "küche", "おもちゃ", "books"]
    catalogue = [
        ItemRow(
            id=f"sku-{i}",
            name=f"{departments[i % 4]} item {i // 4} {'red' if i % 3 else 'blue'}",
            price=float(np.round(rng.lognormal(2, 1), 2)),
            groups=("all", departments[i % 4], f"{departments[i % 4]}/{i // 4 % 3}"),
            facets={"colour": ("red",) if i % 3 else ("blue",), "brand": (f"b{i % 7}",)},
            created=NOW - int(rng.integers(1, 400)) * DAY,
        )
        for i in range(items - 1)
    ]
    catalogue.append(ItemRow(id=f"sku-{items - 1}", available=False))
    bought = max(items - 3, 1)
    log: list[EventRow] = []
    for shopper in range(shoppers):
        home = int(rng.integers(4))
        time = NOW - 120 * DAY + int(rng.integers(0, 30 * DAY))
        for visit in range(int(rng.integers(1, 6))):
            time = min(time + int(rng.integers(1, 20 * DAY)), NOW - 1)
            for _ in range(int(rng.integers(1, 6))):
                own = home if rng.random() < 0.8 else int(rng.integers(4))
                item = int(rng.geometric(0.15) - 1) * 4 + own
                kind = EventType(int(rng.choice([0, 1, 2, 3, 4, 5, 6], p=_TYPE_SHARES)))
                log.append(
                    EventRow(
                        shopper=f"shopper-{shopper:04d}",
                        item=f"sku-{item}" if item < bought else "discontinued",
                        type=kind,
                        time=time,
                        revenue=5.0 if kind is EventType.PURCHASE else 0.0,
                        session=str(visit),
                        term=departments[own] if kind is EventType.SEARCH else None,
                    )
                )
    return shop(catalogue, log)


_TYPE_SHARES = [0.1, 0.35, 0.1, 0.1, 0.25, 0.07, 0.03]


def history(
    items: Sequence[int],
    types: EventType | Sequence[EventType] = EventType.VIEW,
    ages: float | Sequence[float] | None = None,
) -> History:
    """A history of item positions, newest first; ages default to an hour apart."""
    if not items:
        return EMPTY_HISTORY
    kinds = [types] * len(items) if isinstance(types, EventType) else types
    if ages is None:
        ages = [3600.0 * i for i in range(len(items))]
    seconds = [ages] * len(items) if isinstance(ages, float | int) else ages
    return History(
        _frozen(items, np.int32), _frozen([int(k) for k in kinds], np.int8), _frozen(seconds, "f4")
    )


def context(
    seeds: Sequence[int] = (),
    history: History = EMPTY_HISTORY,
    term: str | None = None,
    eligible: BoolArray | None = None,
    now: int = NOW,
    segments: tuple[str, ...] = (),
) -> Context:
    """A request's context, its arrays read-only, as the host makes it."""
    if eligible is not None:
        eligible = _frozen(eligible, np.bool_)
    return Context(now, _frozen(seeds, np.int32), history, term, segments, eligible)


def _codes(values: Iterable[str]) -> dict[str, int]:
    table: dict[str, int] = {}
    for value in values:
        table.setdefault(value, len(table))
    return table


def _frozen(values: Any, dtype: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.array(values, dtype)
    array.flags.writeable = False
    return array
