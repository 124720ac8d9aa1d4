"""Chosen items as JSON: from the near-cache, missing ones from Redis in one call."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import or_
from typing import Any, Protocol

import msgspec
import numpy as np
import structlog

from app.domain.breaker import Breaker
from app.domain.catalogue import ItemFeatures, ItemId, Section
from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId
from app.domain.rendered import render
from app.domain.selection import LeftOut
from app.services.chain import Chain
from app.services.pod_request import Chosen, PodRequest
from app.telemetry.metrics import Metrics
from vitrine_sdk import BoolArray, IntArray

log = structlog.get_logger(module=__name__)

_encode = msgspec.json.Encoder().encode

_Wanting = tuple[PodRequest, Sequence[int], dict[int, bytes]]
"""A list, the rows whose items it wants, and where they go."""


class FeatureReader(Protocol):
    async def features(
        self, merchant: MerchantId, section: Section, ids: Sequence[ItemId]
    ) -> Sequence[ItemFeatures | None]:
        """The items' features, one an id; None where there are none. One round trip.

        Raises:
            Unavailable: the store is away.
        """
        ...


class Showing:
    """
    Args:
        share: of the time that a request has left, what is spent on waiting at most.
        failures: in a row, after which the store is not asked for `pause` seconds.
    """

    def __init__(
        self,
        features: FeatureReader,
        chain: Chain,
        metrics: Metrics,
        *,
        share: float = 0.7,
        failures: int = 3,
        pause: float = 0.25,
    ) -> None:
        self._features = features
        self._chain = chain
        self._share = share
        self._breaker = Breaker(failures, pause)
        self._hits = metrics.tally(metrics.near_cache_hits).inc
        self._misses = metrics.tally(metrics.near_cache_misses).inc

    def at_once(self, asked: PodRequest, chosen: Chosen) -> Sequence[bytes] | None:
        """What `show` gives, where all of it is at hand; None: it is to be asked."""
        if asked.format is not None:
            return None
        index = asked.served.index
        found = index.rendered.shown(index.base, chosen.pool.rows)
        if found is not None:
            self._hits(len(found))
        return found

    async def show(self, asked: PodRequest, chosen: Chosen) -> tuple[Chosen, Sequence[bytes]]:
        """The items' JSON, each without its closing brace. What cannot be shown is replaced by what
        can; where nothing can, items are shown by what the index knows of them."""
        fetched: dict[int, bytes] = {}
        items, missing = self._at_hand(asked, chosen.pool.rows, fetched)
        if not missing:
            return chosen, items
        await self._fetch(((asked, missing, fetched),))
        items, missing = self._at_hand(asked, chosen.pool.rows, fetched)
        if not missing:
            return chosen, items
        return await self._show_others(asked, chosen, fetched)

    async def show_page(
        self, lists: Sequence[tuple[PodRequest, Chosen]]
    ) -> Sequence[tuple[Chosen, Sequence[bytes]]]:
        """`show` for the lists of a page, of which no two have an item in common: neither have
        those that are given. What is missing comes in one call a section, all at the same time."""
        shown: list[tuple[Chosen, Sequence[bytes]]] = []
        fetched: list[dict[int, bytes]] = [{} for _ in lists]
        wanting: dict[Section, list[_Wanting]] = {}
        for (asked, chosen), found in zip(lists, fetched, strict=True):
            items, missing = self._at_hand(asked, chosen.pool.rows, found)
            shown.append((chosen, items))
            if missing:
                wanting.setdefault(asked.served.pod.section, []).append((asked, missing, found))
        if not wanting:
            return shown
        await asyncio.gather(*(self._fetch(each) for each in wanting.values()))
        taken: dict[ItemId, None] = {}
        for place, ((asked, chosen), found) in enumerate(zip(lists, fetched, strict=True)):
            index = asked.served.index
            shown[place] = await self._show_beside(asked, chosen, found, taken, shown[place][1])
            taken.update((index.ids[row], None) for row in shown[place][0].pool.rows.tolist())
        return shown

    async def _show_beside(
        self,
        asked: PodRequest,
        chosen: Chosen,
        fetched: dict[int, bytes],
        taken: Mapping[ItemId, None],
        items: Sequence[bytes],
    ) -> tuple[Chosen, Sequence[bytes]]:
        """A list beside those before it, which may have had to take what was to be in this one.

        Args:
            items: its items, where all were at hand before others were fetched.
        """
        index = asked.served.index
        missing: Sequence[int] = ()
        if not items:
            items, missing = self._at_hand(asked, chosen.pool.rows, fetched)
        clash = any(index.ids[row] in taken for row in chosen.pool.rows.tolist())
        if missing or clash:
            asked.exclusions.add(index.rows(tuple(taken)), LeftOut.DUPLICATE)
        if clash:
            chosen = await self._chain.choose(asked)
            items, missing = self._at_hand(asked, chosen.pool.rows, fetched)
        return await self._show_others(asked, chosen, fetched) if missing else (chosen, items)

    async def _show_others(
        self, asked: PodRequest, chosen: Chosen, fetched: dict[int, bytes]
    ) -> tuple[Chosen, Sequence[bytes]]:
        """What can be shown in the place of what cannot."""
        if not fetched and asked.format is not None:
            # Without the hidden fields rather than not at all.
            asked.format = replace(asked.format, hidden_fields=())
        index, format_ = asked.served.index, asked.format
        only_fetched = format_ is not None and format_.needs_features

        def at_hand(rows: IntArray) -> BoolArray:
            listed = rows.tolist()
            held = [row in fetched for row in listed]
            if not only_fetched:
                kept = index.rendered.holds([index.base + row for row in listed])
                held = list(map(or_, held, kept))
            return np.array(held, np.bool_)

        asked.at_hand = at_hand
        bare, chosen = chosen, await self._chain.choose(asked)
        items, missing = self._at_hand(asked, chosen.pool.rows, fetched)
        if items and not missing:
            return chosen, items
        asked.went_without("features")
        return bare, self._bare(asked, bare.pool.rows)

    def _at_hand(
        self, asked: PodRequest, rows: IntArray, fetched: dict[int, bytes]
    ) -> tuple[Sequence[bytes], list[int]]:
        """What can be shown, or the rows that cannot."""
        index, format_ = asked.served.index, asked.format
        found: list[bytes | None]
        if format_ is not None and format_.needs_features:
            found = [fetched.get(row) for row in rows.tolist()]
            format_ = None  # applied already
        else:
            found = index.rendered.get_many([index.base + row for row in rows.tolist()])
            if fetched:  # what the near-cache had no room for, or the catalogue overtook
                found = [
                    item or fetched.get(row) for row, item in zip(rows.tolist(), found, strict=True)
                ]
        items = [item for item in found if item is not None]
        if len(items) != len(found):
            pairs = zip(rows.tolist(), found, strict=True)
            return (), [row for row, item in pairs if item is None]
        self._hits(len(items))
        return items if format_ is None else [format_.apply(item) for item in items], []

    async def _fetch(self, lists: Sequence[_Wanting]) -> None:
        """What lists of one section want, in one call."""
        asked = lists[-1][0]  # the last to be late
        index = asked.served.index
        missing = list(dict.fromkeys(row for _, rows, _ in lists for row in rows))
        self._misses(len(missing))
        now = time.monotonic()
        if now >= asked.deadline or not self._breaker.allows(now):
            _go_without(lists)
            return
        revision = index.revision
        try:
            # Some of the time is left for choosing again without what did not come.
            async with asyncio.timeout_at(now + (asked.deadline - now) * self._share):
                answers = await self._features.features(
                    asked.snapshot.merchant,
                    asked.served.pod.section,
                    [index.ids[row] for row in missing],
                )
        except (TimeoutError, Unavailable) as error:
            open_before = not self._breaker.closed
            self._breaker.failed(now)
            if not (open_before or self._breaker.closed):
                log.warning("features_away", reason=type(error).__name__)
            _go_without(lists)
            return
        except BaseException:
            self._breaker.undecided()
            raise
        self._breaker.succeeded()
        found = dict(zip(missing, answers, strict=True))
        for wanting, rows, fetched in lists:
            format_ = wanting.format
            for row in rows:
                features = found[row]
                if features is None:  # deleted a moment ago
                    continue
                if format_ is not None and format_.needs_features:
                    fetched[row] = format_.render(features)
                    continue
                rendered = fetched[row] = render(features)
                # What changed while it was fetched may be older than what the index knows.
                if index.changed[row] <= revision:
                    index.rendered.put(index.base + row, rendered)

    def _bare(self, asked: PodRequest, rows: IntArray) -> list[bytes]:
        index = asked.served.index
        items = []
        for row in rows.tolist():
            data: dict[str, Any] = {"id": index.ids[row]}
            if not math.isnan(price := float(index.price[row])):
                data["price"] = round(price, 4)
            items.append(_encode({"value": index.ids[row], "data": data})[:-1])
        return items


def _go_without(lists: Sequence[_Wanting]) -> None:
    for asked, _, _ in lists:
        asked.went_without("features")
