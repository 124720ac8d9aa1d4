"""What recommendations brought: impressions, clicks, carts, purchases and revenue, by pod and
strategy, counted once events are committed.

A click in a pod is remembered, for its shopper, by its item and by its `result_id`. A cart or
purchase that names a result is that result's; otherwise it is that of the shopper's last click on
the item in any pod, within `PlacementStore`'s window. Off every request's path; what cannot be
attributed is counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from app.domain.errors import Unavailable
from app.domain.event import Event
from app.domain.merchant import MerchantId
from app.services.snapshot import ServingSnapshot
from app.telemetry.metrics import Metrics
from vitrine_sdk import EventType

log = structlog.get_logger(module=__name__)

OTHER: Final = "other"  # the label of a pod or strategy that the merchant does not have
_BATCH: Final = 1_000
_PAUSE: Final = 1.0  # seconds, after Redis did not answer


class Placement(NamedTuple):
    pod: str
    strategy: str


class Click(NamedTuple):
    merchant: MerchantId
    shopper_id: str
    fields: Sequence[str]  # under which it is found again
    placement: Placement


class Search(NamedTuple):
    merchant: MerchantId
    shopper_ids: Sequence[str]  # the user, the client
    fields: Sequence[str]  # the first that is known counts


class PlacementStore(Protocol):
    """Raises (every method): Unavailable."""

    async def remember(self, clicks: Sequence[Click]) -> None: ...

    async def find(self, searches: Sequence[Search]) -> Sequence[Placement | None]: ...


class Snapshots(Protocol):
    def merchants(self) -> Mapping[MerchantId, ServingSnapshot]: ...


class Attribution:
    """One a process. `received` is called for each accepted event, `run` works.

    Args:
        waiting: events that may wait for Redis; further ones are counted and let go.
    """

    def __init__(
        self, store: PlacementStore, serving: Snapshots, metrics: Metrics, *, waiting: int = 20_000
    ) -> None:
        self._store = store
        self._serving = serving
        self._metrics = metrics
        self._most = waiting
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()

    def received(self, event: Event) -> None:
        """Counts what needs no look-up, and leaves the rest for `run`."""
        if not event.learn:
            return
        metrics = self._metrics
        merchant = event.merchant
        if event.type is EventType.IMPRESSION:
            if event.pod_id is not None:
                labels = self._labels(merchant, _named(event))
                metrics.tally(metrics.impressions, *labels).inc(len(event.lines))
            return
        if event.type is EventType.CLICK:
            if event.pod_id is None:
                return  # in search or browse results
            metrics.tally(metrics.clicks, *self._labels(merchant, _named(event))).inc()
        elif event.type is EventType.PURCHASE:
            metrics.tally(metrics.shop_purchases, merchant).inc(len(event.lines))
            metrics.tally(metrics.shop_revenue, merchant).inc(max(0.0, sum(event.revenues())))
        elif event.type is not EventType.CART:
            return
        if len(self._waiting) >= self._most:
            metrics.unattributed.labels("full").inc()
            return
        self._waiting.append(event)
        self._wake.set()

    async def run(self) -> None:
        """Attributes until it is cancelled."""
        away = False
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                await self.attribute(batch)
                away = False
            except Unavailable:
                if not away:
                    log.warning("attribution_away", events=len(batch))
                away = True
                self._metrics.unattributed.labels("away").inc(len(batch))
                await asyncio.sleep(_PAUSE)

    async def attribute(self, events: Sequence[Event]) -> None:
        """Remembers the clicks among the events, then counts the carts and purchases.

        Raises:
            Unavailable: Redis does not answer.
        """
        clicks = [
            Click(event.merchant, event.shopper.id, _fields(event), _named(event))
            for event in events
            if event.type is EventType.CLICK and event.shopper.id is not None
        ]
        if clicks:
            await self._store.remember(clicks)
        wanted = [event for event in events if event.type is not EventType.CLICK]
        lines = [(event, place) for event in wanted for place in range(len(event.lines))]
        searches = [_search(event, place) for event, place in lines]
        found = await self._store.find(searches) if searches else ()
        for (event, place), placement in zip(lines, found, strict=True):
            if event.pod_id is not None:
                placement = _named(event)
            if placement is not None:
                self._count(event, place, self._labels(event.merchant, placement))

    def _count(self, event: Event, place: int, labels: tuple[str, str, str]) -> None:
        metrics = self._metrics
        if event.type is EventType.CART:
            metrics.tally(metrics.carts, *labels).inc()
            return
        metrics.tally(metrics.purchases, *labels).inc()
        metrics.tally(metrics.revenue, *labels).inc(max(0.0, event.revenues()[place]))

    def _labels(self, merchant: MerchantId, placement: Placement) -> tuple[str, str, str]:
        """Anybody may send any name: only those that the merchant has become labels."""
        snapshot = self._serving.merchants().get(merchant)
        pods: Mapping[str, object] = {} if snapshot is None else snapshot.configuration.pods
        known: Mapping[str, object] = {} if snapshot is None else snapshot.configuration.strategies
        return (
            merchant,
            placement.pod if placement.pod in pods else OTHER,
            placement.strategy if placement.strategy in known else OTHER,
        )


def _named(event: Event) -> Placement:
    return Placement(event.pod_id or OTHER, event.strategy or OTHER)


def _fields(event: Event) -> Sequence[str]:
    fields = [f"i:{line.item_id}" for line in event.lines]
    return [*fields, f"r:{event.result_id}"] if event.result_id is not None else fields


def _search(event: Event, place: int) -> Search:
    shopper = event.shopper
    ids = []
    if shopper.user_id is not None:
        ids.append(f"u:{shopper.user_id}")
    if shopper.client_id is not None:
        ids.append(f"c:{shopper.client_id}")
    fields = [f"i:{event.lines[place].item_id}"]
    if event.result_id is not None:
        fields.insert(0, f"r:{event.result_id}")
    return Search(event.merchant, ids, fields)
