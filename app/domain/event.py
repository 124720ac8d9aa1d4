"""Events: what shoppers did, as the event log keeps it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from app.domain.catalogue import DEFAULT_SECTION, ItemId, Section
from app.domain.merchant import MerchantId
from vitrine_sdk import EventType


class Shopper(msgspec.Struct, frozen=True, gc=False):
    """Who acts: an anonymous client, or a known user on a client."""

    client_id: str | None = None  # wire: i
    user_id: str | None = None  # wire: ui
    session: int | None = None  # wire: s

    @property
    def id(self) -> str | None:
        """The name under which history is kept: the user where known, else the client."""
        if self.user_id is not None:
            return f"u:{self.user_id}"
        return f"c:{self.client_id}" if self.client_id is not None else None


class Line(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One item of an event."""

    item_id: ItemId
    variation_id: str | None = None
    quantity: float = 1.0
    price: float | None = None  # of one


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that a shopper did. A purchase of three items is one event of three lines.

    The garbage collector does not look into it: what came as JSON holds no circle.
    """

    merchant: MerchantId
    type: EventType
    action: str  # the wire's own name of it: "recommendation_result_click"
    time: float  # Unix seconds, as the shopper's clock said where the event carries it
    received: float  # Unix seconds
    shopper: Shopper
    fingerprint: bytes  # 16 bytes: what makes it this event and no other
    section: Section = DEFAULT_SECTION
    lines: tuple[Line, ...] = ()
    revenue: float | None = None  # of the whole event
    order_id: str | None = None
    result_id: str | None = None
    pod_id: str | None = None
    strategy: str | None = None
    term: str | None = None
    conversion_type: str | None = None
    learn: bool = True  # False: a robot's or the merchant's own traffic, or of type OTHER
    payload: dict[str, Any] = {}  # the rest, as it came, personal data scrubbed

    def revenues(self) -> tuple[float, ...]:
        """What each line brought. Lines without a price share what the event's revenue leaves over
        the priced ones, by quantity."""
        if len(self.lines) == 1:  # as most have
            (line,) = self.lines
            if line.price is None:
                return (max(0.0, self.revenue or 0.0),)
            return (line.price * line.quantity,)
        known = [None if line.price is None else line.price * line.quantity for line in self.lines]
        if None not in known:
            return tuple(value or 0.0 for value in known)
        rest = max(0.0, (self.revenue or 0.0) - sum(value or 0.0 for value in known))
        quantity = sum(
            line.quantity for line, value in zip(self.lines, known, strict=True) if value is None
        )
        return tuple(
            value if value is not None else rest * line.quantity / quantity if quantity else 0.0
            for line, value in zip(self.lines, known, strict=True)
        )


REMEMBERED: Final = frozenset(
    (EventType.VIEW, EventType.CLICK, EventType.CART, EventType.PURCHASE, EventType.CONVERSION)
)
"""Types of events whose items become part of a shopper's history."""


class HistoryEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One of a shopper's recent events, as Redis keeps it."""

    item_id: ItemId
    type: EventType
    time: float  # Unix seconds
    result_id: str | None = None
