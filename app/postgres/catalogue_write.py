"""The catalogue in PostgreSQL, written: rows are staged, checked, and merged under the next version
in one transaction. Deleted rows stay as tombstones, so that readers can follow by version.

A section's row is locked while rows are merged, so that writes of one section come one after the
other; staging, the long part of an import, goes on beside other writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.catalogue import MAX_DATA_BYTES, Kind, OnMissing, Section, Write
from app.domain.item_features import GroupTree
from app.domain.merchant import MerchantId
from app.domain.task import Rejection, Task, TaskStatus
from app.postgres import catalogue_sql as sql
from app.postgres import tasks
from app.postgres.database import Database, raw, stage
from app.services.ingest_ports import MergeCounts, Refusal, Refused, StagedRow

_LOCK_TIMEOUT: Final = "10s"  # that a call waits for an import's merge
_COLUMNS: Final = [column.name for column in sql.STAGED]


class CatalogueWriter:
    """
    Raises (every method, and what it opens):
        Unavailable: PostgreSQL is away, or a lock was waited for too long; nothing was changed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def writing(
        self, merchant: MerchantId, section: Section, *, bulk: bool = False
    ) -> AsyncIterator[CatalogueWriting]:
        """A transaction that changes one section; committed at the end of the block.

        Args:
            bulk: whether statements may take as long as they need.
        """
        async with self._database.merchant(
            merchant, statement_timeout=0 if bulk else None
        ) as connection:
            yield CatalogueWriting(connection, await raw(connection), merchant, section, bulk=bulk)


class CatalogueWriting:
    """Implements `app.services.ingest_ports.CatalogueWriting`."""

    def __init__(
        self,
        connection: AsyncConnection,
        driver: asyncpg.Connection,
        merchant: MerchantId,
        section: Section,
        *,
        bulk: bool,
    ) -> None:
        self._bulk = bulk
        self._connection = connection
        self._driver = driver
        self._merchant = merchant
        self._section = section
        self._version = 0
        self._changed: set[Kind] = set()
        self._parents: dict[str, str | None] = {}  # of item groups, before

    async def claim(self, task_id: int) -> bool:
        """Whether this transaction is the only one that works on the task."""
        return bool(
            await self._driver.fetchval(
                "SELECT pg_try_advisory_xact_lock($1, $2)", tasks.LOCK_SPACE, task_id % 2**31
            )
        )

    async def stage(self, kind: Kind, rows: Iterable[StagedRow] | AsyncIterable[StagedRow]) -> None:
        """Put rows beside the catalogue; they are read as a stream."""
        name = sql.STATEMENTS[kind].staged
        await stage(self._connection, name, sql.STAGED)
        records = (
            _staged_stream(rows) if isinstance(rows, AsyncIterable) else map(_staged_values, rows)
        )
        await self._driver.copy_records_to_table(
            name, schema_name="pg_temp", columns=_COLUMNS, records=records, timeout=None
        )
        if self._bulk:
            # What the planner knows of the catalogue may be old: after a first import it takes a
            # million items for one. With an index no plan is quadratic.
            await self._driver.execute(f"CREATE INDEX ON {name} (id)")
        await self._driver.execute(f"ANALYZE {name}")

    async def lock(self) -> int:
        """Waits for other writes of the section. Returns the version that this one makes.

        Raises:
            Unavailable: a call waited for 10 seconds, most likely for an import.
        """
        if not self._bulk:
            await self._driver.execute("SELECT set_config('lock_timeout', $1, true)", _LOCK_TIMEOUT)
        await self._driver.execute(sql.MAKE_SECTION, *self._scope)
        self._version = 1 + await self._driver.fetchval(sql.LOCK_SECTION, *self._scope)
        return self._version

    async def refuse(self, kind: Kind, write: Write, on_missing: OnMissing) -> Refused:
        """Sets staged rows aside that cannot be merged, and says why."""
        of = sql.STATEMENTS[kind]
        refused = await self._set_aside(
            kind, "id", "is given before: give each id once", of.repeated, scoped=False
        )
        if write is Write.PATCH:
            refused += await self._refuse_patch(kind, of, on_missing)
        if write is Write.DELETE:
            return refused
        orphaned, scoped = of.orphaned, True
        if write is Write.FULL and of.orphaned_of_all is not None:
            orphaned, scoped = of.orphaned_of_all, False
        if orphaned is not None:
            parent = "item_id" if kind is Kind.VARIATIONS else "parent_id"
            noun = "item" if kind is Kind.VARIATIONS else "item group"
            # Those below a refused group are refused in the next turn.
            while more := await self._set_aside(
                kind, parent, f"there is no such {noun}", orphaned, scoped=scoped
            ):
                refused += more
        return refused

    async def doomed(self, kind: Kind) -> tuple[int, int]:
        """How many a full write would delete, and of how many."""
        row = await self._driver.fetchrow(sql.STATEMENTS[kind].doomed, *self._scope)
        return row[0], row[1]

    async def merge(
        self, kind: Kind, write: Write, on_missing: OnMissing, *, delete_others: bool
    ) -> MergeCounts:
        """Takes the staged rows into the catalogue, those that are refused left out."""
        of = sql.STATEMENTS[kind]
        await self._note_what_changes(kind, write)
        counts = MergeCounts(given=await self._driver.fetchval(of.given))
        if write is Write.DELETE:
            counts.deleted = await self._delete(kind, of.delete)
            counts.ignored = counts.given - counts.deleted
        elif write is Write.PATCH:
            await self._patch(of, on_missing, counts)
        elif write is Write.ADD:
            await self._put(of.add, counts)
            counts.ignored = counts.given - counts.created
        else:
            await self._put(of.put, counts)
            counts.unchanged = counts.given - counts.created - counts.updated
            if delete_others:
                counts.deleted = await self._delete(kind, of.delete_others)
        if counts.changed:
            self._changed.add(kind)
        return counts

    async def delete_all(self, kind: Kind) -> int:
        """Number of records that were there."""
        await self._note_what_changes(kind, Write.DELETE)
        deleted = await self._delete(kind, sql.STATEMENTS[kind].delete_all)
        if deleted:
            self._changed.add(kind)
        return deleted

    async def finish(self) -> int | None:
        """Makes all of it the next version; items whose variations or groups changed come along.

        Returns:
            The version; None where nothing was changed.

        Raises:
            InvalidInput: the item groups would go round in a circle.
        """
        if not self._changed:
            return None
        if Kind.VARIATIONS in self._changed:
            await self._execute(sql.ITEMS_OF_CHANGED_VARIATIONS)
        if Kind.ITEM_GROUPS in self._changed:
            before, after = GroupTree(self._parents), GroupTree(parents := await self._groups())
            moved = [
                group
                for group in self._parents.keys() | parents.keys()
                if before.path(group) != after.path(group)
            ]
            if moved:
                await self._execute(sql.ITEMS_OF_GROUPS, moved)
        await self._execute(sql.SET_VERSION)
        return self._version

    async def end_task(
        self,
        task_id: int | None,
        *,
        counts: Mapping[str, int],
        input: Mapping[str, Any] | None = None,  # noqa: A002  # the column's name
        rejections: Sequence[Rejection] = (),
    ) -> Task:
        """Notes a DONE task with this write: one that there is, or (None) a new one."""
        if task_id is not None:
            await tasks.reject(self._connection, self._merchant, task_id, rejections)
            return await tasks.end(self._connection, self._merchant, task_id, counts=counts)
        return await tasks.insert(
            self._connection,
            self._merchant,
            section=self._section,
            input=input or {},
            status=TaskStatus.DONE,
            counts=counts,
        )

    @property
    def _scope(self) -> tuple[str, str]:
        return self._merchant, self._section

    async def _execute(self, statement: str, *arguments: Any) -> int:
        """Number of rows that the statement changed."""
        status: str = await self._driver.execute(statement, *self._scope, self._version, *arguments)
        return int(status.rpartition(" ")[2])

    async def _note_what_changes(self, kind: Kind, write: Write) -> None:
        if kind is Kind.ITEM_GROUPS:
            self._parents = await self._groups()
        elif kind is Kind.VARIATIONS and write is not Write.DELETE:
            await self._execute(sql.ITEMS_THAT_VARIATIONS_LEAVE)

    async def _put(self, statement: str, counts: MergeCounts) -> None:
        row = await self._driver.fetchrow(statement, *self._scope, self._version)
        counts.created += row[0]
        counts.updated += row[1]

    async def _patch(self, of: sql.Statements, on_missing: OnMissing, counts: MergeCounts) -> None:
        there = await self._driver.fetchval(of.there, *self._scope)
        counts.updated = await self._execute(of.patch)
        counts.unchanged = there - counts.updated
        if on_missing is OnMissing.CREATE:
            await self._put(of.add, counts)
        else:
            counts.ignored = counts.given - there

    async def _delete(self, kind: Kind, statement: str) -> int:
        deleted = await self._execute(statement)
        if deleted and kind is Kind.ITEMS:
            await self._execute(sql.VARIATIONS_OF_DELETED_ITEMS)
        return deleted

    async def _refuse_patch(self, kind: Kind, of: sql.Statements, on_missing: OnMissing) -> Refused:
        refused = Refused()
        if on_missing is OnMissing.FAIL:
            refused += await self._set_aside(
                kind,
                "id",
                f"there is no such {of.noun}: PUT it, or say on_missing=CREATE or IGNORE",
                of.missing,
            )
        elif on_missing is OnMissing.CREATE:
            refused += await self._set_aside(
                kind,
                "item_id" if kind is Kind.VARIATIONS else "name",
                f"is required: there is no such {of.noun} yet",
                of.unnamed,
            )
        refused += await self._set_aside(
            kind,
            "data",
            f"would have more than {MAX_DATA_BYTES:,} bytes with what is there already",
            of.grown,
        )
        return refused

    async def _set_aside(
        self, kind: Kind, field: str, message: str, places: str, *, scoped: bool = True
    ) -> Refused:
        rows = await self._driver.fetch(
            sql.STATEMENTS[kind].set_aside(places), *(self._scope if scoped else ())
        )
        shown = {"id": "id", "item_id": "parent", "parent_id": "parent"}.get(field)
        return Refused(
            total=rows[0]["total"] if rows else 0,
            named=[
                Refusal(
                    kind=kind,
                    place=row["place"],
                    file=row["file"],
                    line=row["line"],
                    id=row["id"],
                    field=field,
                    message=f'"{row[shown]}" {message}' if shown and row[shown] else message,
                )
                for row in rows
            ],
        )

    async def _groups(self) -> dict[str, str | None]:
        rows = await self._driver.fetch(sql.GROUP_PARENTS, *self._scope)
        return {row["id"]: row["parent_id"] for row in rows}


def _staged_values(row: StagedRow) -> tuple[Any, ...]:
    record = row.record
    return (
        row.place,
        row.file,
        row.line,
        record.id,
        record.name,
        record.suggested_score,
        record.parent,
        record.has_parent,
        record.data.decode(),
        record.removed,
        row.rejected,
    )


async def _staged_stream(rows: AsyncIterable[StagedRow]) -> AsyncIterator[tuple[Any, ...]]:
    async for row in rows:
        yield _staged_values(row)
