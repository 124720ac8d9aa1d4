"""The list for a pod: history, chain, selection, rendering, within a time budget.

At most two waits on Redis (history; items that are not in the near-cache), none on PostgreSQL.
Whatever is away or late, there is an answer: it says by `degraded` what it went without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
import numpy as np

from app.domain.catalogue import ItemId
from app.domain.merchant import MerchantId
from app.domain.recommendation import RecommendationRequest
from app.domain.selection import LeftOut, Trace
from app.services.answer import Answer, assemble, results, shortness
from app.services.chain import Chain
from app.services.pod_request import Chosen, PodRequest, understand
from app.services.prepared import MAX_AGE, Prepared, PreparedLists, signed
from app.services.running import Runner
from app.services.shopper_history import Histories
from app.services.showing import FeatureReader, Showing
from app.services.snapshot import ServingSnapshot
from app.telemetry.metrics import Metrics
from app.telemetry.tallies import Tally
from vitrine_sdk import EventType

SEEN: Final = (EventType.VIEW, EventType.CLICK, EventType.CART)
BOUGHT: Final = (EventType.PURCHASE,)

T = TypeVar("T")


class ServedSample(msgspec.Struct, frozen=True, kw_only=True):
    """One answer that was given, with what a replay of it needs."""

    merchant: MerchantId
    result_id: str
    served_at: float  # Unix seconds
    pod_id: str
    request: Mapping[str, Any]
    items: tuple[ItemId, ...]
    strategies: tuple[str, ...]  # of each item


class ServedSampleLog(Protocol):
    def record(self, sample: ServedSample) -> None:
        """Take a sample to be stored later. Does not wait; what is lost is counted."""
        ...


class Begun:
    """A list that has to wait for something."""

    __slots__ = ("asked", "chosen", "dependence", "limit", "revision")

    def __init__(self, asked: PodRequest, limit: int, dependence: str | None) -> None:
        self.asked = asked
        self.limit = limit  # events of the shopper's that it depends on
        self.dependence = dependence
        self.revision = -1  # of the index, before anything was chosen
        self.chosen: Chosen | None = None


def at_once(coming: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives that waits for nothing: no task or turn of the loop is needed."""
    try:
        coming.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    coming.close()
    raise RuntimeError("it waits")


class Recommend:
    """
    Args:
        random: numbers in [0, 1), that decide which answers are recorded as served.
        budget: seconds that a request may take.
        overfetch: candidates asked for, a result asked for, where filters or rules choose.
        sample_rate: share of the answers that are recorded as served.
    """

    def __init__(
        self,
        runner: Runner,
        histories: Histories,
        features: FeatureReader,
        samples: ServedSampleLog,
        metrics: Metrics,
        *,
        random: Callable[[], float],
        budget: float = 0.1,
        overfetch: int = 5,
        history_length: int = 100,
        prepared_bytes: int = 128 * 1024 * 1024,
        sample_rate: float = 0.01,
    ) -> None:
        self._histories = histories
        self._chain = Chain(runner, metrics, overfetch=overfetch)
        self._showing = Showing(features, self._chain, metrics)
        self._samples = samples
        self._metrics = metrics
        self._random = random
        self._budget = budget
        self._history_length = history_length
        self._sample_rate = sample_rate
        self._answered: dict[tuple[MerchantId, str, str | None], Tally] = {}
        self._dropped = [
            metrics.tally(metrics.dropped_candidates, reason.name.lower()).inc for reason in LeftOut
        ]
        self._hit = metrics.tally(metrics.prepared_lists, "hit")
        self._missed = metrics.tally(metrics.prepared_lists, "miss")
        self.prepared_lists = PreparedLists(prepared_bytes)

    def prepared(self, snapshot: ServingSnapshot, pod_id: str, dependence: str) -> Answer | None:
        """A list that is ready to be sent, if there is one.

        Args:
            dependence: all of the request that a list without history depends on, as a text; the
                same text that `recommend` was given.
        """
        served = snapshot.pods.get(pod_id)
        if served is None:
            return None
        answer = self.prepared_lists.get(
            (served.generation, dependence), served.versions, time.time(), snapshot.rulings
        )
        if answer is None:
            self._missed.count += 1
        else:
            self._hit.count += 1
            self._count(snapshot.merchant, pod_id, answer.strategy)
        return answer

    async def recommend(
        self,
        snapshot: ServingSnapshot,
        request: RecommendationRequest,
        *,
        dependence: str | None = None,
        trace: Trace | None = None,
    ) -> Answer:
        """
        Args:
            dependence: see `prepared`; None: the answer is not kept.

        Raises:
            NotFound: there is no such pod.
            InvalidInput: naming the parameter.
        """
        begun = self.begin(snapshot, request, dependence=dependence, trace=trace)
        return begun if isinstance(begun, Answer) else await self.finish(begun)

    def begin(
        self,
        snapshot: ServingSnapshot,
        request: RecommendationRequest,
        *,
        dependence: str | None = None,
        trace: Trace | None = None,
    ) -> Answer | Begun:
        """As far as `recommend` comes without waiting: to its end, where the list needs no history,
        every strategy runs here and all items are at hand.

        Raises:
            NotFound, InvalidInput: as `recommend`.
        """
        asked = understand(snapshot, request, self._budget, trace)
        limit = self._history_limit(asked)
        begun = Begun(asked, limit, dependence)
        if (limit and request.consent) or not asked.served.inline:
            return begun
        self._rule(asked)
        begun.revision = asked.served.index.revision
        begun.chosen = chosen = at_once(self._chain.choose(asked))
        items = self._showing.at_once(asked, chosen)
        return begun if items is None else self._finished(begun, chosen, items)

    async def finish(self, begun: Begun) -> Answer:
        """The rest of `recommend`."""
        asked, chosen = begun.asked, begun.chosen
        if chosen is None:
            if begun.limit and asked.request.consent:
                await self._read_history(asked, begun.limit)
            self._rule(asked)
            begun.revision = asked.served.index.revision
            chosen = await self._chain.choose(asked)
        items = self._showing.at_once(asked, chosen)
        if items is None:
            chosen, items = await self._showing.show(asked, chosen)
        return self._finished(begun, chosen, items)

    def _finished(self, begun: Begun, chosen: Chosen, items: Sequence[bytes]) -> Answer:
        asked, dependence = begun.asked, begun.dependence
        answer = self._answer(asked, chosen, results(chosen.listing, chosen.pool, items))
        if (
            dependence is not None
            and not (begun.limit or asked.degraded or asked.failed)
            and self.prepared_lists.welcomes((asked.served.generation, dependence))
        ):
            self._keep(asked, chosen, answer, begun.revision, dependence)
        return answer

    def understand(self, snapshot: ServingSnapshot, request: RecommendationRequest) -> PodRequest:
        """
        Raises:
            NotFound, InvalidInput: as `recommend`.
        """
        return understand(snapshot, request, self._budget)

    async def recommend_page(self, page: Sequence[PodRequest]) -> Sequence[Answer]:
        """A shopper's lists on one page, no item twice: the first that it suits has it. One read of
        the history and one of items for all of them; each list has the budget for its choice.

        Args:
            page: of one snapshot and one shopper.
        """
        await self._read_histories(page)
        lists: list[tuple[PodRequest, Chosen]] = []
        shown: dict[ItemId, None] = {}
        for asked in page:
            asked.deadline = time.monotonic() + self._budget
            self._rule(asked, tuple(shown))
            chosen = await self._chain.choose(asked)
            ids = asked.served.index.ids
            shown.update((ids[row], None) for row in chosen.pool.rows.tolist())
            lists.append((asked, chosen))
        return [
            self._answer(asked, chosen, results(chosen.listing, chosen.pool, items))
            for (asked, _), (chosen, items) in zip(
                lists, await self._showing.show_page(lists), strict=True
            )
        ]

    def sample(
        self,
        snapshot: ServingSnapshot,
        pod_id: str,
        result_id: str,
        answer: Answer,
        request: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Record an answer as served, if the dice fall so. `request` is asked only then."""
        if self._random() < self._sample_rate:
            self._samples.record(
                ServedSample(
                    merchant=snapshot.merchant,
                    result_id=result_id,
                    served_at=time.time(),
                    pod_id=pod_id,
                    request=request(),
                    items=answer.items,
                    strategies=answer.strategies,
                )
            )

    async def _read_history(self, asked: PodRequest, limit: int) -> None:
        asked.history, fresh = await self._histories.recent(
            asked.snapshot.merchant,
            asked.request.shopper,
            limit,
            asked.served.index,
            time.monotonic(),
            asked.deadline,
        )
        if not fresh:
            asked.went_without("history")

    async def _read_histories(self, page: Sequence[PodRequest]) -> None:
        limits = [self._history_limit(asked) if asked.request.consent else 0 for asked in page]
        if not any(limits):
            return
        first = page[0]
        histories, fresh = await self._histories.recent_each(
            first.snapshot.merchant,
            first.request.shopper,
            [(asked.served.index, limit) for asked, limit in zip(page, limits, strict=True)],
            time.monotonic(),
            first.deadline,
        )
        for asked, limit, history in zip(page, limits, histories, strict=True):
            asked.history = history
            if limit and not fresh:
                asked.went_without("history")

    def _history_limit(self, asked: PodRequest) -> int:
        """How many of the shopper's events the answer depends on; 0: on none, it is nobody's."""
        pod = asked.served.pod
        limit = asked.served.needs_history
        if pod.exclude_seen or pod.exclude_bought:
            limit = self._history_length
        if asked.snapshot.rulings is not None:
            limit = max(limit, asked.snapshot.rulings.needs_history(pod))
        return min(limit, self._history_length)

    def _rule(self, asked: PodRequest, exclude: Sequence[ItemId] = ()) -> None:
        """What is left out, and the rules. `exclude`: items that are elsewhere on the page."""
        served, rulings = asked.served, asked.snapshot.rulings
        self._exclude(asked)
        if exclude:
            asked.exclusions.add(served.index.rows(exclude), LeftOut.DUPLICATE)
        if rulings is not None:
            asked.ruling = rulings.ruling(
                served.pod, asked.request, served.index, asked.seeds, asked.history, asked.now
            )

    def _exclude(self, asked: PodRequest) -> None:
        pod = asked.served.pod
        if len(asked.seeds):
            asked.exclusions.add(asked.seeds, LeftOut.SEED)
        if pod.exclude_seen:
            asked.exclusions.add(asked.history.rows_of(SEEN), LeftOut.SEEN)
        if pod.exclude_bought:
            asked.exclusions.add(asked.history.rows_of(BOUGHT), LeftOut.BOUGHT)

    def _answer(self, asked: PodRequest, chosen: Chosen, listed: Sequence[bytes]) -> Answer:
        count = len(chosen.pool)
        short: dict[str, Any] | None = None
        if count < asked.want:
            short = shortness(asked.want, count, chosen.left_out)
            if asked.filters is not None and (unknown := asked.filters.unknown()):
                short["unknown_attributes"] = unknown
        answer = Answer(
            parts=assemble(
                asked.served.listing,
                asked.echo(),
                listed,
                count,
                short=short,
                degraded=asked.degraded,
            ),
            listing=chosen.listing,
            rows=chosen.pool.rows,
            sources=chosen.pool.sources,
            fallback=asked.fallback,
            degraded=tuple(asked.degraded),
        )
        self._count(asked.snapshot.merchant, asked.served.pod.id, answer.strategy)
        self._count_flaws(asked, chosen, short is not None)
        return answer

    def _keep(
        self, asked: PodRequest, chosen: Chosen, answer: Answer, revision: int, dependence: str
    ) -> None:
        ruling = asked.ruling
        expires = asked.now + MAX_AGE
        if ruling is not None:
            expires = min(expires, ruling.expires)
        # Filters that are handed to a strategy were asked of the whole catalogue.
        filtered = asked.filters is not None and any(
            model is not None and model.needs.eligible for model in asked.served.chain
        )
        rows = chosen.examined
        if ruling is not None:  # it may have brought rows that no strategy offered
            rows = np.concatenate((rows, chosen.pool.rows))
        index = asked.served.index
        prices_aside = (
            asked.format is None
            and asked.filters is None
            and asked.served.by_value is None
            and (ruling is None or ruling.by_signature)
            and revision == index.revision
        )
        self.prepared_lists.put(
            (asked.served.generation, dependence),
            Prepared(
                answer=answer,
                index=index,
                revision=revision,
                rows=rows,
                versions=asked.served.versions,
                # The order by value is told by all of them.
                reached=len(asked.served.chain) if asked.served.by_value else asked.reached,
                whole_catalogue=filtered or (ruling is not None and ruling.whole_catalogue),
                expires=expires,
                shared=asked.format is None,
                signed=signed(asked.snapshot.rulings, index, rows) if prices_aside else None,
            ),
        )

    def _count(self, merchant: MerchantId, pod_id: str, strategy: str | None) -> None:
        count = self._answered.get((merchant, pod_id, strategy))
        if count is None:
            count = self._metrics.tally(
                self._metrics.recommendations, merchant, pod_id, strategy or ""
            )
            self._answered[merchant, pod_id, strategy] = count
        count.count += 1

    def _count_flaws(self, asked: PodRequest, chosen: Chosen, short: bool) -> None:
        merchant, pod_id = asked.snapshot.merchant, asked.served.pod.id
        if short:
            self._metrics.short_lists.labels(merchant, pod_id).inc()
        if asked.fallback is not None:
            self._metrics.fallbacks.labels(merchant, pod_id, asked.fallback).inc()
        for what in asked.degraded:
            self._metrics.degraded.labels(what).inc()
        if any(chosen.left_out):
            for reason, dropped in enumerate(chosen.left_out):
                if dropped:
                    self._dropped[reason](dropped)
