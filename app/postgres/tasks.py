"""Tasks and the rows that they rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.catalogue import Section
from app.domain.errors import NotFound
from app.domain.merchant import MerchantId
from app.domain.task import CATALOGUE_IMPORT, Rejection, Task, TaskStatus
from app.domain.webhook import WebhookEvent
from app.postgres.database import Database
from app.postgres.tables import task, task_rejection
from app.postgres.webhooks import announce

LOCK_SPACE: Final = 0x7461736B
"""First key of the advisory locks that say that somebody works on a task."""


class Tasks:
    """
    Raises (every method):
        Unavailable: PostgreSQL is away.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        merchant: MerchantId,
        type: str,  # noqa: A002  # the column's name
        *,
        section: Section | None,
        input: Mapping[str, Any],  # noqa: A002
    ) -> Task:
        """A QUEUED task."""
        async with self._database.merchant(merchant) as connection:
            return await insert(connection, merchant, type=type, section=section, input=input)

    async def get(self, merchant: MerchantId, task_id: int) -> Task:
        """
        Raises:
            NotFound
        """
        query = sa.select(task).where(task.c.merchant_id == merchant, task.c.id == task_id)
        async with self._database.merchant(merchant) as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise NotFound(f"there is no task {task_id}")
        return _task(row)

    async def page(
        self,
        merchant: MerchantId,
        *,
        limit: int,
        offset: int = 0,
        types: Sequence[str] | None = None,
        status: TaskStatus | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> tuple[list[Task], int, dict[str, int]]:
        """Newest first; how many fit in all; and how many there are by status, whatever status was
        asked for."""
        fits = [task.c.merchant_id == merchant]
        if types is not None:
            fits.append(task.c.type.in_(types))
        if since is not None:
            fits.append(task.c.created_at >= since)
        if until is not None:
            fits.append(task.c.created_at < until)
        counting = sa.select(task.c.status, sa.func.count()).where(*fits).group_by(task.c.status)
        query = sa.select(task).where(*fits).order_by(task.c.id.desc())
        if status is not None:
            query = query.where(task.c.status == status)
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query.limit(limit).offset(offset))).mappings().all()
            counts = {str(status): int(n) for status, n in await connection.execute(counting)}
        total = sum(counts.values()) if status is None else counts.get(status, 0)
        return [_task(row) for row in rows], total, counts

    async def rejections(
        self, merchant: MerchantId, task_id: int, *, limit: int, offset: int = 0
    ) -> list[Rejection]:
        """A part of a task's rejected rows, in the input's order."""
        query = (
            sa.select(task_rejection)
            .where(task_rejection.c.merchant_id == merchant, task_rejection.c.task_id == task_id)
            .order_by(task_rejection.c.id)
            .limit(limit)
            .offset(offset)
        )
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [
            Rejection(
                reason=row["reason"], file=row["file"], line=row["line"], subject=row["subject"]
            )
            for row in rows
        ]

    async def start(self, merchant: MerchantId, task_id: int) -> Task | None:
        """Makes a task IN_PROGRESS; None where it has ended already, or never was."""
        return await self._change(
            merchant,
            task_id,
            (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS),
            status=TaskStatus.IN_PROGRESS,
            started_at=sa.func.coalesce(task.c.started_at, sa.func.now()),
        )

    async def progress(self, merchant: MerchantId, task_id: int, counts: Mapping[str, int]) -> None:
        """Says how far a task is."""
        await self._change(merchant, task_id, (TaskStatus.IN_PROGRESS,), counts=dict(counts))

    async def attempt(self, merchant: MerchantId, task_id: int) -> int:
        """Counts that somebody begins to work on a task. Returns how often it was begun."""
        again = sa.func.coalesce(task.c.input["attempts"].as_integer(), 0) + 1
        changed = await self._change(
            merchant,
            task_id,
            (TaskStatus.IN_PROGRESS,),
            input=task.c.input.concat(
                sa.func.jsonb_build_object(sa.literal("attempts", sa.Text), again)
            ),
        )
        return 0 if changed is None else int(changed.input["attempts"])

    async def requeue(self, merchant: MerchantId, task_id: int) -> None:
        """Makes an unfinished task QUEUED again."""
        await self._change(merchant, task_id, (TaskStatus.IN_PROGRESS,), status=TaskStatus.QUEUED)

    async def fail(
        self,
        merchant: MerchantId,
        task_id: int,
        *,
        error: str,
        counts: Mapping[str, int],
        rejections: Sequence[Rejection] = (),
    ) -> Task:
        """Ends a task that changed nothing.

        Raises:
            NotFound: there is none that is not at its end.
        """
        async with self._database.merchant(merchant) as connection:
            await reject(connection, merchant, task_id, rejections)
            return await end(
                connection,
                merchant,
                task_id,
                counts=counts,
                status=TaskStatus.FAILED,
                error=error,
            )

    async def done(
        self,
        merchant: MerchantId,
        task_id: int,
        *,
        counts: Mapping[str, int],
        rejections: Sequence[Rejection] = (),
    ) -> Task:
        """Ends a task whose work was committed elsewhere.

        Raises:
            NotFound: there is none that is not at its end.
        """
        async with self._database.merchant(merchant) as connection:
            await reject(connection, merchant, task_id, rejections)
            return await end(connection, merchant, task_id, counts=counts)

    async def unfinished(self, merchant: MerchantId, type: str) -> list[Task]:  # noqa: A002
        """Tasks that are QUEUED, or IN_PROGRESS with nobody at work on them (who works holds the
        advisory lock LOCK_SPACE, id)."""
        query = (
            sa.select(task)
            .where(
                task.c.merchant_id == merchant,
                task.c.type == type,
                task.c.status.in_([TaskStatus.QUEUED, TaskStatus.IN_PROGRESS]),
            )
            .order_by(task.c.id)
        )
        lock = sa.text("SELECT pg_try_advisory_xact_lock(:space, :id)")
        async with self._database.merchant(merchant) as connection:
            found = [_task(row) for row in (await connection.execute(query)).mappings()]
            return [
                one
                for one in found
                if (
                    await connection.execute(lock, {"space": LOCK_SPACE, "id": one.id % 2**31})
                ).scalar()
            ]

    async def _change(
        self,
        merchant: MerchantId,
        task_id: int,
        from_statuses: Sequence[TaskStatus],
        **values: Any,
    ) -> Task | None:
        statement = (
            task.update()
            .where(
                task.c.merchant_id == merchant,
                task.c.id == task_id,
                task.c.status.in_(from_statuses),
            )
            .values(**values)
            .returning(task)
        )
        async with self._database.merchant(merchant) as connection:
            row = (await connection.execute(statement)).mappings().first()
        return None if row is None else _task(row)


async def insert(
    connection: AsyncConnection,
    merchant: MerchantId,
    *,
    type: str = CATALOGUE_IMPORT,  # noqa: A002
    section: Section | None,
    input: Mapping[str, Any],  # noqa: A002
    status: TaskStatus = TaskStatus.QUEUED,
    counts: Mapping[str, int] | None = None,
) -> Task:
    """A new task, within the caller's transaction."""
    done = sa.func.now() if status is TaskStatus.DONE else None
    statement = (
        task.insert()
        .values(
            merchant_id=merchant,
            type=type,
            status=status,
            section=section,
            input=dict(input),
            counts=dict(counts or {}),
            started_at=done,
            finished_at=done,
        )
        .returning(task)
    )
    return _task((await connection.execute(statement)).mappings().one())


async def end(
    connection: AsyncConnection,
    merchant: MerchantId,
    task_id: int,
    *,
    counts: Mapping[str, int],
    status: TaskStatus = TaskStatus.DONE,
    error: str | None = None,
) -> Task:
    """Ends an unfinished task, within the caller's transaction.

    Raises:
        NotFound: there is none that is not at its end.
    """
    statement = (
        task.update()
        .where(
            task.c.merchant_id == merchant,
            task.c.id == task_id,
            task.c.status.in_([TaskStatus.QUEUED, TaskStatus.IN_PROGRESS]),
        )
        .values(status=status, counts=dict(counts), error=error, finished_at=sa.func.now())
        .returning(task)
    )
    row = (await connection.execute(statement)).mappings().first()
    if row is None:
        raise NotFound(f"there is no unfinished task {task_id}")
    ended = _task(row)
    event = WebhookEvent.TASK_DONE if status is TaskStatus.DONE else WebhookEvent.TASK_FAILED
    told = ("id", "type", "status", "section", "counts", "error", "created_at", "finished_at")
    await announce(connection, merchant, event, {name: getattr(ended, name) for name in told})
    return ended


async def reject(
    connection: AsyncConnection,
    merchant: MerchantId,
    task_id: int,
    rejections: Sequence[Rejection],
) -> None:
    """Notes rejected rows of a task, within the caller's transaction."""
    if rejections:
        await connection.execute(
            task_rejection.insert(),
            [
                {
                    "merchant_id": merchant,
                    "task_id": task_id,
                    "file": rejection.file,
                    "line": rejection.line,
                    "subject": rejection.subject,
                    "reason": rejection.reason,
                }
                for rejection in rejections
            ],
        )


def _task(row: Mapping[Any, Any]) -> Task:
    return Task(
        id=row["id"],
        merchant=MerchantId(row["merchant_id"]),
        type=row["type"],
        status=TaskStatus(row["status"]),
        section=None if row["section"] is None else Section(row["section"]),
        input=row["input"],
        counts=row["counts"],
        error=row["error"],
        created_at=row["created_at"].timestamp(),
        started_at=None if row["started_at"] is None else row["started_at"].timestamp(),
        finished_at=None if row["finished_at"] is None else row["finished_at"].timestamp(),
    )
