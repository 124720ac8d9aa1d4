"""What writing a catalogue needs of a store, and the words that both sides use."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from app.domain.catalogue import Kind, OnMissing, Record, Section, Write
from app.domain.merchant import MerchantId
from app.domain.task import Rejection, Task


class StagedRow(NamedTuple):
    """One record of an input, on its way into the catalogue."""

    place: int  # unique and rising within its kind; in a call's body the place in the list
    record: Record
    file: str | None = None
    line: int | None = None
    rejected: bool = False  # only keeps what has its id from being deleted by a full import


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that cannot be merged, and why."""

    kind: Kind
    place: int
    file: str | None
    line: int | None
    id: str
    field: str
    message: str

    def as_rejection(self) -> Rejection:
        """As the line of a task's report."""
        return Rejection(
            reason=f"{self.field}: {self.message}", file=self.file, line=self.line, subject=self.id
        )


@dataclass(slots=True)
class Refused:
    """Rows that cannot be merged: all counted, the first ones named."""

    total: int = 0
    named: list[Refusal] = field(default_factory=list)

    def __iadd__(self, other: Refused) -> Refused:
        self.total += other.total
        self.named.extend(other.named)
        return self

    def __bool__(self) -> bool:
        return self.total > 0


@dataclass(slots=True)
class MergeCounts:
    """What became of one kind's rows."""

    given: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    ignored: int = 0  # not there, and nothing was to be done then

    @property
    def changed(self) -> int:
        return self.created + self.updated + self.deleted

    def named(self, kind: Kind) -> dict[str, int]:
        """As a task's counts: items_created, ..."""
        return {
            f"{kind}_{name}": value
            for name, value in (
                ("created", self.created),
                ("updated", self.updated),
                ("unchanged", self.unchanged),
                ("deleted", self.deleted),
                ("ignored", self.ignored),
            )
            if value or name in ("created", "updated", "deleted")
        }


class CatalogueWriting(Protocol):
    """One transaction on one section: stage, lock, and then for each kind refuse and merge."""

    async def claim(self, task_id: int) -> bool:
        """Whether this transaction is the only one that works on the task."""
        ...

    async def stage(self, kind: Kind, rows: Iterable[StagedRow] | AsyncIterable[StagedRow]) -> None:
        """Put rows beside the catalogue; they are read as a stream."""
        ...

    async def lock(self) -> int:
        """Waits for other writes of the section. Returns the version that this one makes."""
        ...

    async def refuse(self, kind: Kind, write: Write, on_missing: OnMissing) -> Refused:
        """Sets staged rows aside that cannot be merged, and says why."""
        ...

    async def doomed(self, kind: Kind) -> tuple[int, int]:
        """How many a full write would delete, and of how many."""
        ...

    async def merge(
        self, kind: Kind, write: Write, on_missing: OnMissing, *, delete_others: bool
    ) -> MergeCounts:
        """Takes the staged rows into the catalogue, those that are refused left out."""
        ...

    async def delete_all(self, kind: Kind) -> int:
        """Number of records that were there."""
        ...

    async def finish(self) -> int | None:
        """Makes all of it the next version; None where nothing was changed.

        Raises:
            InvalidInput: the item groups would go round in a circle.
        """
        ...

    async def end_task(
        self,
        task_id: int | None,
        *,
        counts: Mapping[str, int],
        input: Mapping[str, Any] | None = None,  # noqa: A002
        rejections: Sequence[Rejection] = (),
    ) -> Task:
        """Notes a DONE task with this write: one that there is, or (None) a new one."""
        ...


class CatalogueWriter(Protocol):
    def writing(
        self, merchant: MerchantId, section: Section, *, bulk: bool = False
    ) -> AbstractAsyncContextManager[CatalogueWriting]:
        """A transaction that changes one section; committed at the end of the block.

        Args:
            bulk: whether statements may take as long as they need.

        Raises:
            Unavailable: the store is away, or a lock was waited for too long.
        """
        ...


class Tasks(Protocol):
    """The store of tasks. Raises (every method): Unavailable."""

    async def create(
        self,
        merchant: MerchantId,
        type: str,  # noqa: A002
        *,
        section: Section | None,
        input: Mapping[str, Any],  # noqa: A002
    ) -> Task: ...

    async def get(self, merchant: MerchantId, task_id: int) -> Task:
        """Raises NotFound."""
        ...

    async def start(self, merchant: MerchantId, task_id: int) -> Task | None:
        """Makes it IN_PROGRESS; None where it has ended already."""
        ...

    async def progress(
        self, merchant: MerchantId, task_id: int, counts: Mapping[str, int]
    ) -> None: ...

    async def fail(
        self,
        merchant: MerchantId,
        task_id: int,
        *,
        error: str,
        counts: Mapping[str, int],
        rejections: Sequence[Rejection] = (),
    ) -> Task: ...

    async def attempt(self, merchant: MerchantId, task_id: int) -> int:
        """Counts that somebody begins to work on a task. Returns how often it was begun."""
        ...

    async def requeue(self, merchant: MerchantId, task_id: int) -> None:
        """Makes an unfinished task QUEUED again."""
        ...

    async def unfinished(self, merchant: MerchantId, type: str) -> list[Task]:  # noqa: A002
        """Tasks that are QUEUED, or IN_PROGRESS with nobody at work on them."""
        ...


class TaskQueue(Protocol):
    """Where work is left for the worker process."""

    async def enqueue(self, name: str, args: Mapping[str, Any]) -> None:
        """
        Raises:
            Unavailable: the queue is away.
        """
        ...


class JobLog(Protocol):
    async def pending(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The arguments of the jobs of this name that wait or run.

        Raises:
            Unavailable: the queue is away.
        """
        ...


class CatalogueProjector(Protocol):
    async def project(self, merchant: MerchantId, section: Section) -> bool:
        """Brings Redis to the section's version; False: another process is at it.

        Raises:
            Unavailable
        """
        ...
