"""A pod's strategy chain: asked in order, for more and more, until the list is full."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Final

import numpy as np

from app.domain.merchant import MerchantId
from app.domain.pod import RunMode
from app.domain.selection import BROUGHT, GROWTH, MAX_CANDIDATES, Selection
from app.services.pod_request import Chosen, PodRequest
from app.services.running import Failure, Runner
from app.services.shopper_history import Recent
from app.services.snapshot import ServedModel
from app.telemetry.metrics import Metrics
from vitrine_sdk import EMPTY_HISTORY, Candidates, Context, History, kernel

_SHARE: Final = 0.5  # of the time left, that a strategy may take which has others after it


class Chain:
    """
    Args:
        overfetch: candidates asked for, a result asked for, where filters or rules choose.
    """

    def __init__(self, runner: Runner, metrics: Metrics, *, overfetch: int) -> None:
        self._runner = runner
        self._overfetch = overfetch
        self._failures = metrics.strategy_failures
        self._last_good: dict[tuple[MerchantId, str], Chosen] = {}

    async def choose(self, asked: PodRequest) -> Chosen:
        """The list; where every strategy that could answer failed, the last good one of the pod, as
        far as it suits this request."""
        chosen = await self._choose(asked)
        key = (asked.snapshot.merchant, asked.served.pod.id)
        if count := len(chosen.pool):
            if count == asked.want and asked.filters is None and not asked.failed:
                pool = chosen.pool
                if pool.scores.base is not None or pool.reasons.base is not None:
                    # A strategy may give parts of its model's arrays, and would stay with them.
                    pool.scores, pool.reasons = pool.scores.copy(), pool.reasons.copy()
                self._last_good[key] = chosen
            return chosen
        last = self._last_good.get(key)
        if last is None or not asked.failed:
            return chosen
        asked.went_without("strategies")
        selection = self._selection(asked, ordered=False)  # its scores are values already
        pool = last.pool
        for source in dict.fromkeys(pool.sources.tolist()):
            if source != BROUGHT:
                of_it = pool.sources == source
                rows = pool.rows[of_it]
                again = Candidates(rows, pool.scores[of_it], pool.reasons[of_it])
                selection.offer(rows, again, source, len(rows))
        return Chosen(last.listing, selection.result(), selection.left_out, selection.examined())

    async def _choose(self, asked: PodRequest) -> Chosen:
        selection = self._selection(asked)
        need = asked.want
        if asked.ruling is not None:
            need *= max(1, asked.ruling.overfetch)
        by_value = asked.served.by_value
        if by_value is not None:  # there must be some to choose from, of each strategy's in a blend
            need *= self._overfetch * (len(asked.served.chain) if by_value.blend else 1)
        while True:
            more = await self._ask_all(asked, selection, need)
            pool = selection.result()
            # Rules may leave places open that more candidates could fill.
            if (
                len(pool) >= asked.want
                or not more
                or need >= MAX_CANDIDATES
                or time.monotonic() >= asked.deadline
            ):
                break
            need = min(need * GROWTH, MAX_CANDIDATES)
            selection.restart()
        return Chosen(asked.served.listing, pool, selection.left_out, selection.examined())

    def _selection(self, asked: PodRequest, *, ordered: bool = True) -> Selection:
        return Selection(
            asked.served.index,
            asked.want,
            filters=asked.filters,
            exclusions=asked.exclusions,
            at_hand=asked.at_hand,
            ruling=asked.ruling,
            trace=asked.trace,
            ordering=asked.served.by_value if ordered else None,
        )

    async def _ask_all(self, asked: PodRequest, selection: Selection, need: int) -> bool:
        """Offer the chain's candidates until `need` qualify; whether there may be more of them."""
        served = asked.served
        blend = served.by_value is not None and served.by_value.blend
        fill = served.pod.fill or blend
        more = False
        for source, model in enumerate(served.chain):
            if selection.count >= need or (selection.count and not fill):
                break
            if source >= asked.reached:
                asked.reached = source + 1
            failure: Failure | None = None
            why: str | None = None
            if model is None:
                failure = Failure.UNFITTED
                self._failures.labels(served.pod.chain[source], failure.value).inc()
            elif model.needs.seeds and not len(asked.seeds):
                why = "no_seeds"
            elif model.needs.term and not asked.request.term:
                why = "no_term"
            elif time.monotonic() >= asked.deadline and (
                # An empty list helps nobody: while there is nothing, the quick ones are asked.
                selection.count or model.configuration.mode is not RunMode.INLINE
            ):
                failure = Failure.LATE
            else:
                before = selection.count
                # In a blend each has its part of the places, and what those before it left.
                goal = need * (source + 1) // len(served.chain) if blend else need
                failure, has_more = await self._ask(asked, selection, source, model, goal)
                more |= has_more
                if failure is None and selection.count == before:
                    why = "empty"
            if failure is not None:
                asked.failed = True
                why = failure.value
            if source == 0 and why is not None and asked.fallback is None:
                asked.fallback = why
        return more or selection.count >= need  # then some that qualify may not have been taken

    async def _ask(
        self, asked: PodRequest, selection: Selection, source: int, model: ServedModel, need: int
    ) -> tuple[Failure | None, bool]:
        """One strategy's candidates, more and more of them until enough qualify. Why there are
        none, and whether it may have more."""
        context = _context(asked, model, source)
        most = min(len(model.rows), MAX_CANDIDATES)
        limit = min(max(selection.limit(self._overfetch), need - selection.count), most)
        deadline = asked.deadline
        if source + 1 < len(asked.served.chain):  # whoever comes next needs time too
            now = time.monotonic()
            deadline = now + (deadline - now) * _SHARE
        offered = False
        while limit > 0:
            outcome = self._runner.run(model, context, limit, deadline)
            if not isinstance(outcome, Candidates):
                if isinstance(outcome, Awaitable):
                    outcome = await outcome
                if isinstance(outcome, Failure):
                    return (None if offered else outcome), False
            if offered:
                selection.withdraw(source)
            offered = True
            rows = model.rows_of(outcome.items)
            selection.offer(rows, outcome, source, need - selection.count)
            has_more = len(outcome) >= limit and limit < most
            if selection.count >= need or not has_more or time.monotonic() >= deadline:
                return None, has_more
            limit = min(limit * GROWTH, most)
        return None, False


def _context(asked: PodRequest, model: ServedModel, source: int) -> Context:
    eligible = None
    if model.needs.eligible and asked.filters is not None:
        eligible = model.eligible(asked.filters.expression, asked.served.expressions)
    if model.needs.eligible and asked.ruling is not None:
        ruled = asked.ruling.eligible(model.rows, source)
        if ruled is not None:
            eligible = ruled if eligible is None else eligible & ruled
            eligible.flags.writeable = False
    now = int(asked.now)
    return Context(
        now=now,
        seeds=model.positions_of(asked.seeds),
        history=_history(model, asked.history, now),
        term=asked.request.term,
        segments=asked.request.segments,
        eligible=eligible,
    )


def _history(model: ServedModel, recent: Recent, now: int) -> History:
    """The latest events that the model wants, of items that it knows."""
    wanted = model.needs.history
    if not wanted or not len(recent):
        return EMPTY_HISTORY
    positions, rows, types, times = model.positions, recent.rows, recent.types, recent.times
    if kernel.history is not None and kernel.plain(rows, kernel.INT32):
        items, types, ages = kernel.history.known(positions, rows, types, times, wanted, now)
    else:
        # Rows that came after the model are all beyond its last place, which says "unknown".
        items = positions.take(rows, mode="clip")
        here = (items >= 0).nonzero()[0][:wanted]
        items, types = items.take(here), types.take(here)
        # A clock may be ahead.
        ages = np.maximum(now - times.take(here), 0).astype(np.float32)
    for array in (items, types, ages):
        array.setflags(write=False)
    return History(items, types, ages)
