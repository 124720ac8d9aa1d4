"""Whole catalogues from files: a task that the worker runs.

A file is read as a stream, its rows are staged beside the catalogue and merged under the next
version in one transaction: an import is seen whole or not at all, and one that was killed has left
nothing. It is begun again from its files by the next worker, a few times at most.

It is all or nothing: where a row is refused, the task FAILS, nothing is changed, and the report
names file, line, id and reason. Who wants the good rows all the same says `skip_rejected`. Then a
full import does not delete what a refused row was about; and if such a row's id cannot be read, it
deletes nothing at all, and its counts say so (`deletions_withheld`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Final, Protocol

import msgspec
import structlog

from app.domain.catalogue import Kind, OnMissing, Record, Section, Write
from app.domain.errors import InvalidInput, Unavailable
from app.domain.merchant import MerchantId
from app.domain.task import CATALOGUE_IMPORT, Rejection, Task
from app.services.catalogue_columns import BrokenFile
from app.services.catalogue_rows import Format, Row, Source, Upload, read_rows
from app.services.ingest import tell
from app.services.ingest_ports import (
    CatalogueProjector,
    CatalogueWriter,
    CatalogueWriting,
    JobLog,
    Refused,
    StagedRow,
    TaskQueue,
    Tasks,
)

log = structlog.get_logger(module=__name__)

JOB: Final = "import_catalogue"
"""The name that imports are enqueued under; its arguments are those of `run_import`."""
MAX_ATTEMPTS: Final = 5
_ENQUEUED_WITHIN: Final = 60.0  # seconds; a younger task may be about to be enqueued
_KEPT_SECONDS: Final = 7 * 86400.0  # uploads that no task took
MAX_REJECTIONS: Final = 1_000
"""Refused rows that a report names; the others are counted."""
_ROWS_AT_ONCE: Final = 200  # read before other work runs again
_PROGRESS_SECONDS: Final = 1.0
_ORDER: Final = (Kind.ITEM_GROUPS, Kind.ITEMS, Kind.VARIATIONS)  # what is referred to comes first


class Files(Protocol):
    """Where uploads are kept: see app.files.catalogue_files."""

    async def receive(
        self, parts: AsyncIterable[tuple[str, str, AsyncIterable[bytes]]]
    ) -> list[Upload]: ...

    def open(self, uploads: Sequence[Upload], stated: Format | None = None) -> Iterator[Source]: ...

    async def remove(self, stored: Iterable[str]) -> None: ...

    async def sweep(self, older_than: float) -> int:
        """Removes what was left behind so many seconds ago. Returns how many uploads."""
        ...


class MerchantSource(Protocol):
    async def versions(self) -> Mapping[MerchantId, int]: ...


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What an import is to do: a task's input."""

    write: Write
    files: tuple[Upload, ...] = ()
    on_missing: OnMissing = OnMissing.FAIL
    force: bool = False
    skip_rejected: bool = False
    format: Format | None = None
    attempts: int = 0  # how often it was begun


class _Failed(Exception):
    """The import cannot be done; nothing was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class _Report:
    """What happens to an import's rows."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {"rows": 0}
        self.rejected = 0
        self.rejections: deque[Rejection] = deque()
        self.unreadable_ids = False  # a refused row was about nobody knows which record

    def reject(self, rejection: Rejection) -> None:
        self.rejected += 1
        if len(self.rejections) < MAX_REJECTIONS:
            self.rejections.append(rejection)

    def take(self, refused: Refused) -> None:
        self.rejected += refused.total
        room = MAX_REJECTIONS - len(self.rejections)
        self.rejections.extend(one.as_rejection() for one in refused.named[:room])

    def closed(self) -> dict[str, int]:
        return self.counts | ({"rejected": self.rejected} if self.rejected else {})


class CatalogueImport:
    """Submitted in a server process, run by the worker."""

    def __init__(
        self,
        writer: CatalogueWriter,
        tasks: Tasks,
        projector: CatalogueProjector,
        files: Files,
        queue: TaskQueue,
    ) -> None:
        self._writer = writer
        self._tasks = tasks
        self._projector = projector
        self._files = files
        self._queue = queue

    async def submit(
        self,
        merchant: MerchantId,
        section: Section,
        order: Order,
        parts: AsyncIterable[tuple[str, str, AsyncIterable[bytes]]],
    ) -> Task:
        """Keeps the files of a form and leaves the import to the worker.

        Args:
            order: without files.
            parts: of the form: name of the field, file name, content.

        Raises:
            InvalidInput: the form is wrong; nothing is kept.
            Unavailable: nothing is kept.
        """
        files = tuple(await self._files.receive(parts))
        try:
            task = await self._tasks.create(
                merchant,
                CATALOGUE_IMPORT,
                section=section,
                input=msgspec.to_builtins(msgspec.structs.replace(order, files=files)),
            )
        except BaseException:
            await self._files.remove(file.stored for file in files)
            raise
        try:
            await self._queue.enqueue(JOB, {"merchant": merchant, "task_id": task.id})
        except Unavailable:
            # The task is there and its files are: `ImportRecovery` comes back to it.
            log.warning("import_not_enqueued", merchant=merchant, task=task.id)
        return task

    async def run_import(self, merchant: MerchantId, task_id: int) -> None:
        """Does an import that was submitted; ends its task, DONE or FAILED, unless another process
        is at work on it.

        Raises:
            Unavailable: a store is away; nothing was changed, and it may be called again.
        """
        task = await self._tasks.start(merchant, task_id)
        if task is None:
            return
        order = msgspec.convert(task.input, Order)
        if await self._tasks.attempt(merchant, task_id) > MAX_ATTEMPTS:
            await self._tasks.fail(
                merchant,
                task_id,
                error=f"was broken off {MAX_ATTEMPTS} times; nothing was changed",
                counts=task.counts,
            )
        elif await self.run(task, order, self._files.open(order.files, order.format)) is None:
            return
        await self._files.remove(file.stored for file in order.files)

    async def run(
        self,
        task: Task,
        order: Order,
        sources: Iterator[Source],
        *,
        read: Callable[[Source], Iterator[Row]] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Task | None:
        """Does an import now.

        Args:
            read: how rows are read, if not as `read_rows` does.
            progress: called with the number of rows read, now and then.

        Returns:
            The task at its end; None where another process is at work on it.

        Raises:
            Unavailable: a store is away; nothing was changed.
        """
        report = _Report()
        section = task.section
        assert section is not None  # noqa: S101
        try:
            async with self._writer.writing(task.merchant, section, bulk=True) as writing:
                if not await writing.claim(task.id):
                    return None
                kinds = await self._stage(writing, task, order, sources, report, read, progress)
                await self._merge(writing, order, kinds, report)
                version = await writing.finish()
                ended = await writing.end_task(
                    task.id, counts=report.closed(), rejections=report.rejections
                )
        except Unavailable:
            raise
        except _Failed as error:
            return await self._fail(task, error.message, report)
        except InvalidInput as error:
            if isinstance(error, BrokenFile):
                report.reject(Rejection(error.reason, error.file, error.line))
            return await self._fail(task, error.message, report)
        except Exception:
            log.exception("import_failed", merchant=task.merchant, task=task.id)
            return await self._fail(
                task, "failed by an error of the server, which is logged", report
            )
        log.info("catalogue_imported", merchant=task.merchant, task=task.id, **report.closed())
        if version is not None:
            await tell(self._projector, task.merchant, section)
        return ended

    async def _stage(
        self,
        writing: CatalogueWriting,
        task: Task,
        order: Order,
        sources: Iterator[Source],
        report: _Report,
        read: Callable[[Source], Iterator[Row]] | None,
        progress: Callable[[int], None] | None,
    ) -> list[Kind]:
        partial = order.write is Write.PATCH

        async def said(rows: int) -> None:
            if progress is not None:
                progress(rows)
            else:
                await self._tasks.progress(task.merchant, task.id, {"rows": rows})

        kinds = []
        for source in sources:
            kinds.append(source.kind)
            rows = read_rows(source, partial=partial) if read is None else read(source)
            await writing.stage(source.kind, _staged(source, rows, report, said))
        if report.rejected and not order.skip_rejected:
            raise _Failed(_summary(report))
        return [kind for kind in _ORDER if kind in kinds]

    async def _merge(
        self, writing: CatalogueWriting, order: Order, kinds: Sequence[Kind], report: _Report
    ) -> None:
        await writing.lock()
        for kind in kinds:
            if refused := await writing.refuse(kind, order.write, order.on_missing):
                report.take(refused)
                if not order.skip_rejected:
                    raise _Failed(_summary(report))
            deletes = order.write is Write.FULL
            if deletes and report.unreadable_ids:
                report.counts["deletions_withheld"] = 1
                deletes = False
            if deletes and not order.force:
                await _guard(writing, kind)
            counts = await writing.merge(kind, order.write, order.on_missing, delete_others=deletes)
            report.counts |= counts.named(kind)

    async def _fail(self, task: Task, message: str, report: _Report) -> Task:
        log.warning("import_refused", merchant=task.merchant, task=task.id, reason=message)
        return await self._tasks.fail(
            task.merchant,
            task.id,
            error=message,
            counts=report.closed(),
            rejections=report.rejections,
        )


async def _guard(writing: CatalogueWriting, kind: Kind) -> None:
    """A full import that deletes more than half is more often a mistake than not."""
    doomed, there = await writing.doomed(kind)
    if doomed * 2 > there:
        raise _Failed(
            f"would delete {doomed:,} of {there:,} {kind.replace('_', ' ')}, more than half:"
            " send the whole catalogue, or say force=true; nothing was changed"
        )


async def _staged(
    source: Source,
    rows: Iterator[Row],
    report: _Report,
    said: Callable[[int], Any],
) -> AsyncIterator[StagedRow]:
    place = 0
    told = time.monotonic()
    for row in rows:
        report.counts["rows"] += 1
        for record in row.records:
            yield StagedRow(place, record, source.name, row.line)
            place += 1
        if row.reason is not None:
            report.reject(Rejection(row.reason, source.name, row.line, row.id))
            if row.id is None:
                report.unreadable_ids = True
            else:
                yield StagedRow(place, Record(id=row.id), source.name, row.line, rejected=True)
                place += 1
        if report.counts["rows"] % _ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)
            if time.monotonic() - told > _PROGRESS_SECONDS:
                told = time.monotonic()
                await said(report.counts["rows"])


def _summary(report: _Report) -> str:
    first = report.rejections[0]
    where = ", ".join(
        part
        for part in (
            first.file,
            None if first.line is None else f"line {first.line:,}",
            None if first.subject is None else f"id {first.subject}",
        )
        if part
    )
    more = f" and {report.rejected - 1:,} more" if report.rejected > 1 else ""
    return f"{where}: {first.reason}{more}; nothing was changed (skip_rejected takes the good rows)"


class ImportRecovery:
    """What a worker does now and then for imports that nobody works on: their worker died, or the
    queue was away when they were submitted."""

    def __init__(
        self,
        tasks: Tasks,
        files: Files,
        queue: TaskQueue,
        jobs: JobLog,
        merchants: MerchantSource,
        *,
        enqueued_within: float = _ENQUEUED_WITHIN,
    ) -> None:
        self._tasks = tasks
        self._files = files
        self._queue = queue
        self._jobs = jobs
        self._merchants = merchants
        self._enqueued_within = enqueued_within

    async def run(self) -> None:
        """Enqueues them, and removes uploads that no task came of.

        Raises:
            Unavailable: a store or the queue is away.
        """
        pending = {(job["merchant"], job["task_id"]) for job in await self._jobs.pending(JOB)}
        for merchant in await self._merchants.versions():
            for task in await self._tasks.unfinished(merchant, CATALOGUE_IMPORT):
                young = time.time() - task.created_at < self._enqueued_within
                if young or (merchant, task.id) in pending:
                    continue
                await self._tasks.requeue(merchant, task.id)
                await self._queue.enqueue(JOB, {"merchant": merchant, "task_id": task.id})
                log.warning("import_taken_up_again", merchant=merchant, task=task.id)
        if swept := await self._files.sweep(_KEPT_SECONDS):
            log.warning("uploads_swept", uploads=swept)
