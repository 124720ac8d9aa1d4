"""Counts what becomes of events."""

from __future__ import annotations

from typing import Final

from app.domain.event import Event
from app.telemetry.metrics import Metrics
from vitrine_sdk import EventType

OUTCOMES: Final = {
    "accepted": "stored",
    "duplicate": "repeated",
    "rejected": "refused",
    "apart": "apart",
}


class TrackingMetrics:
    """Implements `services.track.Observer`; labels are bound once."""

    def __init__(self, metrics: Metrics) -> None:
        self._count = {
            (type_, outcome): metrics.tally(metrics.events, type_.name.lower(), label)
            for type_ in EventType
            for outcome, label in OUTCOMES.items()
        }
        self._observe = metrics.event_commit_seconds.observe
        self._untracked = metrics.events.labels("unknown", "unconsented").inc

    def committed(self, events: int, seconds: float) -> None:  # noqa: ARG002
        """One group, of so many events, was made durable."""
        self._observe(seconds)

    def received(self, event: Event, outcome: str) -> None:
        """`outcome`: a key of `OUTCOMES`."""
        self._count[event.type, outcome].count += 1

    def untracked(self) -> None:
        """An event was not kept for want of consent."""
        self._untracked()
