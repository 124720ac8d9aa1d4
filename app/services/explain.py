"""One request, run with everything written down: for `explain=true` and previews.

It goes the way of every request, through the same code; but nothing of it is counted, kept or
recorded as served.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from app.domain.catalogue import ItemId
from app.domain.explanation import (
    Candidate,
    Explanation,
    Step,
    StrategyRun,
    WhyNot,
)
from app.domain.item_index import ItemIndex
from app.domain.pod import Pod
from app.domain.recommendation import RecommendationRequest
from app.domain.rule_trace import TracedRuling
from app.domain.selection import LeftOut, Ruling
from app.services.answer import BY_RULE, TAIL, Answer
from app.services.published_rules import MerchantRulings
from app.services.recommend import Recommend, ServedSample
from app.services.rulings import UNRULED
from app.services.running import Failure, Outcome, Runner
from app.services.shopper_history import Histories, Recent
from app.services.showing import FeatureReader
from app.services.snapshot import ServedModel, ServingSnapshot
from app.telemetry.metrics import Metrics
from vitrine_sdk import Candidates, Context, FloatArray, IntArray

BUDGET: Final = 5.0
"""Seconds: what is looked into may take longer than a shopper would wait."""

MAX_CANDIDATES: Final = 1_000
"""So many are told of."""

_WHY: Final = {
    LeftOut.UNAVAILABLE: ("unavailable", "it is not available"),
    LeftOut.FILTERED: ("filtered", "the request's filters leave it out"),
    LeftOut.SEED: ("seed", "it is a seed of the request"),
    LeftOut.SEEN: ("seen", "the shopper saw it lately, and the pod leaves out what was seen"),
    LeftOut.BOUGHT: ("bought", "the shopper bought it lately, and the pod leaves that out"),
    LeftOut.DUPLICATE: ("duplicate", "it is in the list, or on the page, already"),
    LeftOut.UNRENDERED: ("unrendered", "what it shows could not be had"),
    LeftOut.RULED: ("rule", "a rule leaves it out"),
}


@dataclass(slots=True, eq=False)
class Run:
    """One request's way, written down."""

    answer: Answer
    index: ItemIndex
    pod: Pod
    runs: dict[str, StrategyRun]  # by configuration; those that were asked
    ruling: TracedRuling | None
    trace: WrittenTrace
    want: int
    at: float
    steps: tuple[Step, ...]

    @property
    def body(self) -> Any:
        """The answer as the storefront gives it, its result id aside."""
        document = msgspec.json.decode(self.answer.head + TAIL)
        del document["result_id"]
        return document


@dataclass(slots=True, eq=False)
class WrittenTrace:
    """See `app.domain.selection.Trace`."""

    left: dict[int, LeftOut] = field(default_factory=dict)  # by row; the first reason
    scores: dict[int, tuple[int, float]] = field(default_factory=dict)  # row → source, score

    def left_out(self, reason: LeftOut, rows: IntArray) -> None:
        for row in rows.tolist():
            if reason is not LeftOut.DUPLICATE or row not in self.scores:
                self.left.setdefault(row, reason)

    def kept(self, source: int, rows: IntArray, scores: FloatArray) -> None:
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            self.scores.setdefault(row, (source, score))


class _WatchedRunner:
    """A runner that remembers what it was asked."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.runs: dict[str, StrategyRun] = {}
        self.first: float | None = None  # when the first strategy was asked; perf_counter
        self.offered: dict[int, tuple[str, float]] = {}  # row → configuration, score

    def run(
        self, model: ServedModel, context: Context, limit: int, deadline: float
    ) -> Outcome | Awaitable[Outcome]:
        started = time.perf_counter()
        self.first = self.first or started
        outcome = self._runner.run(model, context, limit, deadline)
        if inspect.isawaitable(outcome):
            return self._later(outcome, model, limit, started)
        self._note(model, limit, started, outcome)
        return outcome

    async def _later(
        self, outcome: Awaitable[Outcome], model: ServedModel, limit: int, started: float
    ) -> Outcome:
        found = await outcome
        self._note(model, limit, started, found)
        return found

    def _note(self, model: ServedModel, limit: int, started: float, outcome: Outcome) -> None:
        id_ = model.configuration.id
        before = self.runs.get(id_)
        given = 0
        if isinstance(outcome, Candidates):
            given = len(outcome)
            rows = model.rows[outcome.items].tolist()
            for row, score in zip(rows, outcome.scores.tolist(), strict=True):
                self.offered.setdefault(row, (id_, score))
        self.runs[id_] = StrategyRun(
            id=id_,
            outcome=outcome.value if isinstance(outcome, Failure) else "answered",
            asked=limit,
            given=given,
            runs=1 if before is None else before.runs + 1,
            milliseconds=(time.perf_counter() - started) * 1_000
            + (0.0 if before is None else before.milliseconds),
        )


class _WatchedRulings:
    """Rulings that remember what they did, and may be asked for another time than now."""

    def __init__(
        self, rulings: MerchantRulings | None, at: float | None, *, traced: bool = True
    ) -> None:
        self._rulings = rulings
        self._traced = traced
        self.at = at
        self.ruling_: TracedRuling | None = None

    def needs_history(self, pod: Pod) -> int:
        return 0 if self._rulings is None else self._rulings.needs_history(pod)

    def ruling(
        self,
        pod: Pod,
        request: RecommendationRequest,
        index: ItemIndex,
        seeds: IntArray,
        history: Recent,
        now: float,
    ) -> Ruling | None:
        if self.at is None:
            self.at = now
        if self._rulings is None:
            return None
        ruling = self._rulings.ruling(pod, request, index, seeds, history, self.at)
        if not self._traced:
            return ruling
        rules = self._rulings.compiled(index)
        if ruling is None or rules is None:
            return None
        self.ruling_ = TracedRuling(rules, ruling)
        return self.ruling_

    def signed(self, index: ItemIndex, rows: IntArray) -> tuple[int, bytes]:
        return UNRULED if self._rulings is None else self._rulings.signed(index, rows)

    def catch_up(self) -> bool:
        return True


class _NoSamples:
    def record(self, sample: ServedSample) -> None:
        """Nothing of this is served."""


class Explain:
    """
    Args:
        recommend: makes the service that answers, from a runner, histories, features, samples and
            metrics. What it counts goes into metrics that nobody reads.
    """

    def __init__(
        self,
        runner: Runner,
        histories: Histories,
        features: FeatureReader,
        *,
        overfetch: int = 5,
        history_length: int = 100,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._runner = runner
        self._histories = histories
        self._features = features
        self._overfetch = overfetch
        self._history_length = history_length
        self._clock = clock
        self._metrics = Metrics(counted=False)
        self._untraced = self._recommend(runner)

    async def items(
        self,
        snapshot: ServingSnapshot,
        request: RecommendationRequest,
        *,
        rulings: MerchantRulings | None,
        at: float | None = None,
    ) -> tuple[Sequence[ItemId], float]:
        """What `run` answers, alone, and for which time rules were asked.
        Raises as `run` does."""
        watched = _WatchedRulings(rulings, at, traced=False)
        answer = await self._untraced.recommend(replace(snapshot, rulings=watched), request)
        return answer.items, self._clock() if watched.at is None else watched.at

    def _recommend(self, runner: Runner) -> Recommend:
        return Recommend(
            runner,
            self._histories,
            self._features,
            _NoSamples(),
            self._metrics,
            random=lambda: 1.0,
            budget=BUDGET,
            overfetch=self._overfetch,
            history_length=self._history_length,
            prepared_bytes=1,
            sample_rate=0.0,
        )

    async def run(
        self,
        snapshot: ServingSnapshot,
        request: RecommendationRequest,
        *,
        rulings: MerchantRulings | None,
        at: float | None = None,
    ) -> tuple[Run, dict[int, tuple[str, float]]]:
        """The request's way under some rules, and what the strategies offered (by row).

        Args:
            rulings: the rules; the snapshot's own are not asked.
            at: Unix seconds for which the rules' conditions are asked; None: now.

        Raises:
            NotFound: there is no such pod.
            InvalidInput: naming the parameter.
        """
        runner = _WatchedRunner(self._runner)
        watched = _WatchedRulings(rulings, at)
        trace = WrittenTrace()
        recommend = self._recommend(runner)
        served = snapshot.pod(request.pod_id)
        started = time.perf_counter()
        answer = await recommend.recommend(replace(snapshot, rulings=watched), request, trace=trace)
        ended = time.perf_counter()
        want = served.pod.num_results if request.num_results is None else request.num_results
        strategies = sum(run.milliseconds for run in runner.runs.values()) / 1_000
        ruled = 0.0 if watched.ruling_ is None else watched.ruling_.seconds
        before = (runner.first or ended) - started
        rest = max(ended - started - before - strategies - ruled, 0.0)
        run = Run(
            answer=answer,
            index=served.index,
            pod=served.pod,
            runs=runner.runs,
            ruling=watched.ruling_,
            trace=trace,
            want=want,
            at=self._clock() if watched.at is None else watched.at,
            steps=tuple(
                Step(name, round(seconds * 1_000, 3))
                for name, seconds in (
                    ("request, history and filters", before),
                    ("strategies", strategies),
                    ("rules", ruled),
                    ("choosing and showing", rest),
                    ("all", ended - started),
                )
            ),
        )
        return run, runner.offered

    async def explain(
        self,
        snapshot: ServingSnapshot,
        request: RecommendationRequest,
        *,
        why_not: str | None = None,
    ) -> tuple[Any, Explanation]:
        """The answer (without a result id) and why it is as it is. Raises as `run` does.

        Args:
            why_not: an item whose absence is to be explained.
        """
        rulings = snapshot.rulings if isinstance(snapshot.rulings, MerchantRulings) else None
        run, offered = await self.run(snapshot, request, rulings=rulings)
        served = snapshot.pod(request.pod_id)
        chain = tuple(
            run.runs.get(id_)
            or StrategyRun(
                id=id_,
                outcome=_not_asked(model, request, bool(run.runs)),
            )
            for id_, model in zip(served.pod.chain, served.chain, strict=True)
        )
        ruling = run.ruling
        candidates = _candidates(run, offered)
        left_out: dict[str, int] = {}
        for candidate in candidates:
            if candidate.outcome not in ("shown", "cut"):
                left_out[candidate.outcome] = left_out.get(candidate.outcome, 0) + 1
        explanation = Explanation(
            at=run.at,
            chain=chain,
            fallback=run.answer.fallback,
            rules=() if ruling is None else ruling.active(),
            candidates=candidates[:MAX_CANDIDATES],
            slots=() if ruling is None else ruling.slots(run.want),
            shares=() if ruling is None else ruling.missed_shares(),
            left_out=left_out,
            steps=run.steps,
            why_not=None if why_not is None else _why_not(run, offered, why_not),
        )
        return run.body, explanation


def _candidates(run: Run, offered: dict[int, tuple[str, float]]) -> tuple[Candidate, ...]:
    ids, ruling = run.index.ids, run.ruling
    shown = {run.index.row(item_id): i + 1 for i, item_id in enumerate(run.answer.items)}
    ruled = {} if ruling is None else ruling.left_out_by()
    told: list[tuple[int, str, str, float | None, int | None]] = []
    for row, position in shown.items():
        strategy = run.answer.strategies[position - 1]
        score = None if strategy == BY_RULE else offered.get(row, ("", 0.0))[1]
        told.append((row, "shown", strategy, score, position))
    for row, (strategy, score) in offered.items():
        if row < 0 or row in shown:
            continue
        outcome = "cut"
        if row in ruled and ruling is not None:
            outcome = f"rule {ruling.rules.rules[ruled[row]].id}"
        elif row in run.trace.left:
            outcome = _WHY[run.trace.left[row]][0]
        elif ruling is not None and (cap := ruling.capped_by(row)) is not None:
            outcome = f"rule {cap.rule}"
        told.append((row, outcome, strategy, score, None))
    return tuple(
        Candidate(
            item_id=str(ids[row]),
            outcome=outcome,
            strategy=strategy,
            score=score,
            position=position,
            effects=() if ruling is None else ruling.effects(row),
        )
        for row, outcome, strategy, score, position in told[:MAX_CANDIDATES]
    )


def _why_not(run: Run, offered: dict[int, tuple[str, float]], item_id: str) -> WhyNot:
    index, ruling = run.index, run.ruling
    row = index.row(item_id)

    def because(reason: str, detail: str, rule: str | None = None) -> WhyNot:
        return WhyNot(item_id=item_id, shown=False, reason=reason, detail=detail, rule=rule)

    if item_id in run.answer.items:
        position = run.answer.items.index(item_id) + 1
        detail = f"it is shown at position {position}"
        return WhyNot(item_id=item_id, shown=True, reason="shown", detail=detail)
    if row < 0 or not index.present[row]:
        return because("not_in_catalogue", "there is no such item in the pod's section")
    if not index.available[row]:
        return because("unavailable", "it is not available")
    ruled = {} if ruling is None else ruling.left_out_by()
    if ruling is not None and row in ruled:
        ranked = ruling.rules.rules[ruled[row]]
        return because("rule", f"rule {ranked.id} leaves it out", ranked.id)
    if row in run.trace.left and row not in run.trace.scores:
        return because(*_WHY[run.trace.left[row]])
    if row not in offered:
        asked = ", ".join(run.runs) or "none"
        return because("not_offered", f"no strategy offered it (asked were: {asked})")
    if ruling is not None and (cap := ruling.capped_by(row)) is not None:
        return because("rule", f"rule {cap.rule}: {cap.did}", cap.rule)
    strategy, score = offered[row]
    place = sum(1 for other in offered.values() if other[0] == strategy and other[1] > score) + 1
    return because(
        "cut", f"{strategy} has it at place {place}, and others are before it in the list of "
        f"{run.want}"
    )  # fmt: skip


def _not_asked(model: ServedModel | None, request: RecommendationRequest, asked: bool) -> str:
    if model is None:
        return Failure.UNFITTED.value
    if model.needs.seeds and not request.item_ids:
        return "no_seeds"
    if model.needs.term and not request.term:
        return "no_term"
    return "not_needed" if asked else "late"
