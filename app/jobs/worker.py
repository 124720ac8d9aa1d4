"""The process that does what takes long: training, imports, retention."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import procrastinate
import psycopg
import structlog
from croniter import croniter
from procrastinate import exceptions
from procrastinate.jobs import Job, Status

from app.domain.errors import InvalidInput, Unavailable, VitrineError
from app.jobs.queue import JobQueue, without_trace
from app.telemetry.traces import Tracer

log = structlog.get_logger(module=__name__)

MOST_ATTEMPTS: Final = 8
"""After so many, a job that meets an absent store, or whose worker died, is given up."""
_LONGEST_PAUSE: Final = 300  # seconds between two attempts
_KEPT_HOURS: Final = 7 * 24  # how long finished jobs can be looked at

Handler = Callable[..., Awaitable[None]]
"""Is called with a job's arguments. What it raises is final, but for Unavailable: that is tried
again. A job may be run twice, when its worker died: handlers bear that."""


@dataclass(frozen=True, slots=True)
class Periodic:
    """What is done by the clock, by one worker of all that run."""

    name: str
    cron: str  # UTC; five or six fields, the sixth are seconds
    handler: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Repeated:
    """What every worker does again and again, a pause between: look for work of another kind."""

    name: str
    seconds: float
    handler: Callable[[], Awaitable[object]]


class Observer(Protocol):
    """Counts. `app.telemetry` has no part in what happens here."""

    def ended(self, task: str, outcome: str, seconds: float) -> None:
        """Outcomes: done, failed, put_off (a store was away: tried again)."""
        ...


class _Unobserved:
    def ended(self, task: str, outcome: str, seconds: float) -> None: ...


class Worker:
    """
    Args:
        handlers: by the name that jobs are enqueued under.
        concurrency: jobs that run at the same time.
        grace: seconds that running jobs may take when the worker is asked to stop; then they are
            broken off and left for the next worker.
        tracer: of the jobs; each continues the trace of who left it.

    Raises:
        InvalidInput: a periodic task's cron expression is none.
    """

    def __init__(
        self,
        queue: JobQueue,
        handlers: Mapping[str, Handler],
        periodic: Sequence[Periodic] = (),
        repeated: Sequence[Repeated] = (),
        *,
        concurrency: int = 2,
        grace: float = 30.0,
        observer: Observer | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        observer = observer or _Unobserved()
        self._app = queue.app
        self._repeated = repeated
        self._concurrency = concurrency
        self._grace = grace
        self._stopping = asyncio.Event()
        retry = _Retry()
        for name, handler in handlers.items():
            self._app.task(name=name, retry=retry)(
                _traced(name, _observed(name, _logged(name, handler), observer), tracer)
            )
        for one in (*periodic, Periodic("recover_jobs", "* * * * *", self._recover)):
            if not croniter.is_valid(one.cron):
                raise InvalidInput(
                    f"{one.name}: {one.cron!r} is no cron expression: see man 5 crontab"
                )
            task = self._app.task(name=one.name, queueing_lock=one.name, lock=one.name)(
                _by_the_clock(one.name, one.handler, observer, tracer)
            )
            self._app.periodic(cron=one.cron)(task)

    def stop(self) -> None:
        """Take no more jobs; `run` returns when those that run are done."""
        self._stopping.set()

    async def run(self, *, until_idle: bool = False) -> None:
        """Do jobs until `stop`. While PostgreSQL is away it waits and tries again.

        Args:
            until_idle: return when there is nothing to do any more.
        """
        repeating = (
            []
            if until_idle
            else [asyncio.ensure_future(self._again_and_again(one)) for one in self._repeated]
        )
        try:
            await self._do_jobs(until_idle)
        finally:
            if repeating:
                self._stopping.set()
                await asyncio.gather(*repeating)

    async def _again_and_again(self, one: Repeated) -> None:
        while not self._stopping.is_set():
            try:
                await one.handler()
            except Unavailable as error:
                log.warning("repeated_put_off", task=one.name, reason=error.message)
            except Exception:  # the next turn may do better
                log.exception("repeated_failed", task=one.name)
            await _first(self._stopping.wait(), asyncio.sleep(one.seconds))

    async def _do_jobs(self, until_idle: bool) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            working = asyncio.ensure_future(
                self._app.run_worker_async(
                    concurrency=self._concurrency,
                    wait=not until_idle,
                    shutdown_graceful_timeout=self._grace,
                    install_signal_handlers=False,
                    fetch_job_polling_interval=2.0,
                )
            )
            started = time.monotonic()
            try:
                # Cancelling it is procrastinate's way to stop in order.
                await _first(working, self._stopping.wait())
            except (exceptions.ConnectorException, psycopg.Error, OSError) as error:
                log.warning("queue_away", reason=type(error).__name__)
            else:
                if until_idle:
                    return
            # It returns by itself when it has lost the database, too.
            pause = 1.0 if time.monotonic() - started > 60 else min(2 * pause, 30.0)
            await _first(self._stopping.wait(), asyncio.sleep(pause))

    async def _recover(self) -> None:
        """Jobs whose worker died are begun again; what is long done is cleared away."""
        manager = self._app.job_manager
        for job in await manager.get_stalled_jobs():
            if job.attempts + 1 < MOST_ATTEMPTS:
                log.warning("job_taken_over", job=job.id, task=job.task_name)
                await manager.retry_job(job)
            else:
                log.error("job_given_up", job=job.id, task=job.task_name, attempts=job.attempts)
                await manager.finish_job(job, Status.FAILED, delete_job=False)
        await manager.delete_old_jobs(
            nb_hours=_KEPT_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
        )


class _Retry(procrastinate.BaseRetryStrategy):
    def get_retry_decision(
        self, *, exception: BaseException, job: Job
    ) -> procrastinate.RetryDecision | None:
        if isinstance(exception, asyncio.CancelledError):  # the worker stops: the next one's
            return procrastinate.RetryDecision(retry_at=datetime.datetime.now(datetime.UTC))
        if isinstance(exception, Unavailable) and job.attempts < MOST_ATTEMPTS:
            pause = min(5 * 2**job.attempts, _LONGEST_PAUSE)
            return procrastinate.RetryDecision(retry_in={"seconds": pause})
        return None


def _traced(name: str, handler: Handler, tracer: Tracer | None) -> Handler:
    async def job(**args: Any) -> None:
        own = without_trace(args)
        span = None
        if tracer is not None:
            brought = {key: args[key] for key in args.keys() - own.keys()}
            span = tracer.begin(f"job {name}", brought, consumer=True)
        if span is None:
            await handler(**own)
            return
        try:
            await handler(**own)
        except BaseException as error:
            span.end(error)
            raise
        span.end()

    return job


def _observed(name: str, handler: Handler, observer: Observer) -> Handler:
    async def job(**args: Any) -> None:
        began = time.monotonic()
        outcome = "failed"
        try:
            await handler(**args)
            outcome = "done"
        except (Unavailable, asyncio.CancelledError):
            outcome = "put_off"
            raise
        finally:
            observer.ended(name, outcome, time.monotonic() - began)

    return job


def _logged(name: str, handler: Handler) -> Handler:
    async def job(**args: Any) -> None:
        log.info("job_started", task=name, **args)
        try:
            await handler(**args)
        except Unavailable as error:
            log.warning("job_put_off", task=name, reason=error.message, **args)
            raise
        except VitrineError as error:
            log.error("job_failed", task=name, reason=error.message, **args)
            raise
        except Exception:
            log.exception("job_failed", task=name, **args)
            raise
        log.info("job_done", task=name, **args)

    return job


def _by_the_clock(
    name: str,
    handler: Callable[[], Awaitable[None]],
    observer: Observer,
    tracer: Tracer | None,
) -> Callable[..., Awaitable[None]]:
    observed = _traced(name, _observed(name, handler, observer), tracer)

    async def job(timestamp: int) -> None:  # noqa: ARG001  # procrastinate gives it
        try:
            await observed()
        except Unavailable as error:  # the next turn comes by itself
            log.warning("periodic_put_off", task=name, reason=error.message)

    return job


async def _first(*awaitables: Awaitable[object]) -> None:
    """Waits for one of them; the others are broken off. Raises what the first one raised."""
    futures = [asyncio.ensure_future(one) for one in awaitables]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in futures:
            if not future.done():
                future.cancel()
        await asyncio.gather(*futures, return_exceptions=True)
    for future in futures:
        if future.done() and not future.cancelled():
            future.result()
