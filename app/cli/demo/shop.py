"""What a demo's shop consists of, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec

ITEMS: Final = "items.jsonl"
GROUPS: Final = "item_groups.jsonl"
EVENTS: Final = "events.parquet"
PAGES: Final = "shop.sqlite"


class ShopError(Exception):
    """The shop's data cannot be read. The message says what is wrong and how to mend it."""


class ShopSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What was prepared, for the page and for the person who waits."""

    name: str
    about: str
    currency: str
    items: int
    notes: tuple[str, ...] = ()  # what was left out or guessed, counted


class ShopSource(Protocol):
    """Data that `prepare` turns into four files of one folder: `ITEMS` and `GROUPS` (JSON lines as
    the catalogue's wire has them), `EVENTS` (see `EVENT_COLUMNS`), `PAGES` (the shop's own)."""

    @property
    def merchant(self) -> str: ...

    def fingerprint(self) -> str:
        """Changes when the data does."""
        ...

    def prepare(self, folder: Path) -> ShopSummary:
        """
        Raises:
            ShopError
        """
        ...


EVENT_COLUMNS: Final[Mapping[str, str]] = {
    "type": "view, click, cart, purchase, ...: purchase where the column is missing",
    "time": "Unix seconds",
    "user_id": "who (or client_id)",
    "client_id": "an anonymous browser",
    "order_id": "lines of one order are one purchase",
    "item_id": "what",
    "quantity": "1 where it is missing",
    "price": "of one",
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy configuration of the demo."""

    strategy: str
    config: Mapping[str, object]


STRATEGIES: Final[Mapping[str, Strategy]] = {
    "popular": Strategy("popular", {}),
    "similar": Strategy("similar", {"relation": "substitute"}),
    "complementary": Strategy("similar", {"relation": "complement"}),
    "personalized": Strategy("personalized", {}),
}
"""By id: what is fitted."""

PODS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "home_popular": ("Popular", ("popular",)),
    "home_for_you": ("For you", ("personalized", "popular")),
    "pdp_similar": ("Similar products", ("similar", "popular")),
    "cart_complements": ("Goes well with your cart", ("complementary", "popular")),
}
"""By id: display name and chain."""
