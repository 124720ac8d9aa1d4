"""Runs models: contained as their configuration says, and checked.

- `inline`: in the event loop. Nothing is contained: a model that hangs stops the process. For
  strategies that are trusted and quick.
- `thread`: in a thread, with a deadline on the waiting. A thread cannot be killed: one that hangs
  keeps its place, and when a strategy's places are all taken it is not asked any more.
- `process`: in a process of its own, see `app.plugins.process_runner`: with a memory limit, killed
  when it is late, started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Final

import structlog

from app.domain.breaker import Breaker, BreakerState
from app.domain.merchant import MerchantId
from app.domain.pod import RunMode
from app.plugins.misshapen import misshapen
from app.plugins.process_link import Refusal
from app.plugins.process_runner import ChildModel
from app.services.running import Failure, Outcome
from app.services.snapshot import ServedModel
from app.telemetry.metrics import STRATEGY_BUCKETS, Metrics
from app.telemetry.traces import CURRENT
from vitrine_sdk import Candidates, Context, kernel

log = structlog.get_logger(module=__name__)

SUPPORTED_MODES: Final = frozenset(RunMode)

_Job = Callable[[], None]


class StrategyRunner:
    """Implements `app.services.running.Runner`.

    Args:
        failures: in a row, after which a strategy is not asked for `pause` seconds.
        threads: of each strategy configuration in `thread` mode; also how many runs of it may
            be under way.
    """

    def __init__(
        self, metrics: Metrics, *, failures: int = 5, pause: float = 5.0, threads: int = 4
    ) -> None:
        self._metrics = metrics
        self._failures = failures
        self._pause = pause
        self._threads = threads
        self._guards: dict[tuple[MerchantId, str], _Guard] = {}
        if kernel.MISSING is not None:
            log.info("kernel_missing", reason=kernel.MISSING)  # requests take longer: see doctor

    def run(
        self, model: ServedModel, context: Context, limit: int, deadline: float
    ) -> Outcome | Awaitable[Outcome]:
        guard = self._guards.get((model.merchant, model.configuration.id))
        if guard is None:
            guard = self._guard(model)
        now = time.monotonic()  # the clock of asyncio's loops, uvloop's too
        if not guard.breaker.closed and not guard.breaker.allows(now):
            return guard.count(Failure.OPEN)
        if model.configuration.mode is RunMode.INLINE:
            return guard.run(model, context, limit, now)
        if model.configuration.mode is RunMode.THREAD:
            return self._in_thread(guard, model, context, limit, deadline)
        return self._in_process(guard, model, context, limit, deadline)

    def breakers(self) -> dict[tuple[MerchantId, str], BreakerState]:
        """State of each breaker that is not closed, by merchant and strategy configuration."""
        now = time.monotonic()
        return {
            where: guard.breaker.state(now)
            for where, guard in self._guards.items()
            if not guard.breaker.closed
        }

    def _guard(self, model: ServedModel) -> _Guard:
        where = (model.merchant, model.configuration.id)
        breaker = Breaker(self._failures, self._pause)
        guard = self._guards[where] = _Guard(*where, breaker, self._metrics, self._threads)
        return guard

    async def _in_thread(
        self, guard: _Guard, model: ServedModel, context: Context, limit: int, deadline: float
    ) -> Outcome:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Candidates | BaseException] = loop.create_future()

        def job() -> None:
            outcome: Candidates | BaseException
            try:
                outcome = model.model.recommend(context, limit)
            except BaseException as error:  # noqa: BLE001  # a plugin's, whatever it is
                outcome = error
            # The loop may be closed by the time that a late answer comes.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, outcome)

        started = time.monotonic()
        if not guard.threads.submit(job):
            guard.breaker.undecided()
            return guard.count(Failure.BUSY)
        try:
            async with asyncio.timeout_at(deadline):
                outcome = await future
        except TimeoutError:
            return guard.failed(Failure.LATE, time.monotonic())
        except asyncio.CancelledError:
            guard.breaker.undecided()
            raise
        return guard.judge(model, outcome, limit, started)

    async def _in_process(
        self, guard: _Guard, model: ServedModel, context: Context, limit: int, deadline: float
    ) -> Outcome:
        child = model.model
        if not isinstance(child, ChildModel):  # the mode was changed and cannot be kept yet
            guard.breaker.undecided()
            return guard.count(Failure.UNFITTED)
        started = time.monotonic()
        try:
            outcome = await child.ask(context, limit, deadline)
        except asyncio.CancelledError:
            guard.breaker.undecided()
            raise
        if isinstance(outcome, Refusal):
            if outcome.failure in (Failure.BUSY, Failure.DOWN):  # that says nothing of a run
                guard.breaker.undecided()
                return guard.count(outcome.failure)
            return guard.failed(outcome.failure, time.monotonic(), detail=outcome.detail)
        return guard.judge(model, outcome, limit, started)


class _Guard:
    """What is known of one strategy configuration of one merchant."""

    def __init__(
        self,
        merchant: MerchantId,
        configuration_id: str,
        breaker: Breaker,
        metrics: Metrics,
        threads: int,
    ) -> None:
        self.breaker = breaker
        self.threads = _Threads(threads, f"strategy-{configuration_id}")
        self._merchant = merchant
        self._id = configuration_id
        self._observe = metrics.timings(
            metrics.strategy_seconds, STRATEGY_BUCKETS, configuration_id
        ).observe
        self._open = metrics.breaker_open.labels(merchant, configuration_id)
        self._open.set(0)
        self._count = {
            failure: metrics.strategy_failures.labels(configuration_id, failure.value).inc
            for failure in Failure
        }

    def run(self, model: ServedModel, context: Context, limit: int, started: float) -> Outcome:
        outcome: Candidates | BaseException
        try:
            outcome = model.model.recommend(context, limit)
        except Exception as error:  # noqa: BLE001  # a plugin's, whatever it is
            outcome = error
        return self.judge(model, outcome, limit, started)

    def judge(
        self, model: ServedModel, outcome: Candidates | BaseException, limit: int, started: float
    ) -> Outcome:
        now = time.monotonic()
        self._observe(now - started)
        span = CURRENT.get()
        if span is not None:
            span.child(f"strategy {self._id}", now - started)
        if isinstance(outcome, BaseException):
            return self.failed(Failure.RAISED, now, error=outcome)
        wrong = self._wrong(outcome, model, limit)
        if wrong is not None:
            return self.failed(Failure.INVALID, now, detail=wrong)
        if not self.breaker.closed:
            self._open.set(0)
            log.info("strategy_recovered", merchant=self._merchant, configuration=self._id)
        self.breaker.succeeded()
        return outcome

    def failed(
        self,
        failure: Failure,
        now: float,
        *,
        error: BaseException | None = None,
        detail: str | None = None,
    ) -> Failure:
        was_closed = self.breaker.closed
        self.breaker.failed(now)
        if not self.breaker.closed:
            self._open.set(1)
        if was_closed:  # said while it is asked as usual, not at every attempt afterwards
            log.warning(
                "strategy_failed",
                merchant=self._merchant,
                configuration=self._id,
                failure=failure.value,
                detail=detail,
                opened=not self.breaker.closed,
                exc_info=error,
            )
        return self.count(failure)

    def count(self, failure: Failure) -> Failure:
        self._count[failure]()
        return failure

    def _wrong(self, candidates: Candidates, model: ServedModel, limit: int) -> str | None:
        """What of an answer is against the contract; None: nothing."""
        if (
            kernel.compiled is not None
            and candidates.__class__ is Candidates
            and kernel.compiled.sound(
                candidates.items,
                candidates.scores,
                candidates.reasons,
                limit,
                model.items,
                len(model.reasons),
            )
        ):
            return None
        wrong = misshapen(candidates)
        if wrong is not None:
            return wrong
        items, scores = candidates.items, candidates.scores
        count = len(items)
        if not count:
            return None
        if count > limit:
            return f"{count} candidates, {limit} were asked for"
        # A list of some hundred is looked through quicker than an array.
        listed = items.tolist()
        if min(listed) < 0 or max(listed) >= model.items:
            return "positions outside of the model's items"
        if len(set(listed)) != count:
            return "an item twice"
        # NaN compares as false, so that non-increasing between finite ends is finite throughout.
        if not (math.isfinite(scores[0]) and math.isfinite(scores[-1])):
            return "scores that are not finite"
        if b"\0" in (scores[1:] <= scores[:-1]).tobytes():
            return "scores that increase or are not finite"
        if max(candidates.reasons.tobytes()) >= len(model.reasons):
            return "a reason that the strategy does not declare"
        return None


class _Threads:
    """Daemon threads, started when first needed, that each take one job at a time. No queue: a job
    for which no thread is free is refused."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._busy = 0
        self._started = 0

    def submit(self, job: _Job) -> bool:
        with self._lock:
            if self._busy >= self._limit:
                return False
            self._busy += 1
            if self._busy > self._started:
                self._started += 1
                # Daemon: one that hangs must not keep the process from ending.
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        self._jobs.put(job)
        return True

    def _run(self) -> None:
        while True:
            self._jobs.get()()
            with self._lock:
                self._busy -= 1


def _settle(
    future: asyncio.Future[Candidates | BaseException], outcome: Candidates | BaseException
) -> None:
    if not future.done():  # else whoever waited has gone on
        future.set_result(outcome)
