"""The queue of background jobs: rows of PostgreSQL, taken by `vitrine worker`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import procrastinate
import psycopg
from procrastinate import exceptions

from app.domain.errors import Unavailable
from app.telemetry.traces import TRACEPARENT, carried

HELD_BY_MERCHANT: Final = "merchant"
"""The argument whose jobs of one name run one after the other."""

_DEPTH: Final = """
SELECT count(*) AS jobs,
    coalesce(extract(epoch FROM now() - min(coalesce(job.scheduled_at, deferred.at))), 0) AS oldest
FROM procrastinate_jobs job
LEFT JOIN procrastinate_events deferred ON deferred.job_id = job.id AND deferred.type = 'deferred'
WHERE job.status = 'todo' AND coalesce(job.scheduled_at, now()) <= now()
"""


class JobQueue:
    """Leaves jobs for the worker. Open it before the first `enqueue`, close it at the end.

    Args:
        database_url: postgresql://..., as vitrine_app.
        pool: connections at most.
    """

    def __init__(self, database_url: str, *, pool: int = 2) -> None:
        self.app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(
                conninfo=database_url,
                min_size=0,
                max_size=pool,
                timeout=5.0,
                # Statements prepared in one session are not there in the next of a pooler.
                kwargs={"prepare_threshold": None, "application_name": "vitrine-jobs"},
            )
        )

    async def open(self) -> None:
        """
        Raises:
            Unavailable: PostgreSQL is away.
        """
        try:
            await self.app.open_async()
        except (exceptions.ConnectorException, psycopg.Error) as error:
            raise _unavailable() from error

    async def close(self) -> None:
        await self.app.close_async()

    async def enqueue(self, name: str, args: Mapping[str, Any]) -> None:
        """Leave a job. Jobs of one name and merchant run one after the other, in order. It goes on
        in the trace of who left it.

        Args:
            name: of one of the worker's tasks.
            args: its keyword arguments, as JSON has them.

        Raises:
            Unavailable: the queue is away.
        """
        args = {**args, **carried()}
        merchant = args.get(HELD_BY_MERCHANT)
        job = self.app.configure_task(name, lock=None if merchant is None else f"{name}:{merchant}")
        try:
            await job.defer_async(**args)
        except (exceptions.ConnectorException, exceptions.AppNotOpen, psycopg.Error) as error:
            raise _unavailable() from error

    async def pending(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The arguments of the jobs of this name that wait or run.

        Raises:
            Unavailable: the queue is away.
        """
        found: list[Mapping[str, Any]] = []
        try:
            for status in ("todo", "doing"):
                jobs = await self.app.job_manager.list_jobs_async(task=name, status=status)
                found += [without_trace(job.task_kwargs) for job in jobs]
        except (exceptions.ConnectorException, exceptions.AppNotOpen, psycopg.Error) as error:
            raise _unavailable() from error
        return found

    async def depth(self) -> tuple[int, float]:
        """Jobs that are due and not begun, and for how many seconds the oldest has been due.

        Raises:
            Unavailable: the queue is away.
        """
        try:
            row = await self.app.connector.execute_query_one_async(_DEPTH)
        except (exceptions.ConnectorException, exceptions.AppNotOpen, psycopg.Error) as error:
            raise _unavailable() from error
        return int(row["jobs"]), max(0.0, float(row["oldest"]))


def without_trace(args: Mapping[str, Any]) -> dict[str, Any]:
    """A job's own arguments."""
    return {name: value for name, value in args.items() if name != TRACEPARENT}


def _unavailable() -> Unavailable:
    return Unavailable("the queue of background jobs does not answer now: try again")
