"""Writing a catalogue: small batches at once, in one transaction, visible when answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from app.domain.catalogue import MAX_BATCH, MAX_GROUPS, Kind, OnMissing, Record, Section, Write
from app.domain.catalogue_input import (
    MAX_ERRORS,
    parse_id,
    parse_records,
    refuse_repeated,
    wrong_fields,
)
from app.domain.errors import FieldError, InvalidInput, TooLarge, Unavailable
from app.domain.merchant import MerchantId
from app.domain.task import Task
from app.services.ingest_ports import (
    CatalogueProjector,
    CatalogueWriter,
    CatalogueWriting,
    MergeCounts,
    Refused,
    StagedRow,
)

log = structlog.get_logger(module=__name__)

_RECORDS_AT_ONCE: Final = 200  # parsed before other requests run again


class Ingest:
    """
    Args:
        projector: brings Redis up to date right after a write. What fails there is made up for by
            its own loop, and is no failure of the write.
    """

    def __init__(self, writer: CatalogueWriter, projector: CatalogueProjector) -> None:
        self._writer = writer
        self._projector = projector

    async def write(
        self,
        merchant: MerchantId,
        section: Section,
        kind: Kind,
        write: Write,
        raws: Sequence[bytes],
        on_missing: OnMissing = OnMissing.FAIL,
    ) -> tuple[Task, MergeCounts]:
        """Puts, patches, adds or deletes the records of one call.

        Args:
            raws: the JSON of each record.

        Raises:
            InvalidInput: naming every wrong field (the first 100); nothing was changed.
            TooLarge: more records than one call may have; nothing was changed.
            Unavailable: nothing was changed.
        """
        records = await parse(kind, write, raws)

        async def work(writing: CatalogueWriting) -> MergeCounts:
            await writing.stage(kind, map(StagedRow, range(len(records)), records))
            await writing.lock()
            if refused := await writing.refuse(kind, write, on_missing):
                raise _invalid(refused, records)
            return await writing.merge(kind, write, on_missing, delete_others=write is Write.FULL)

        return await self._write(merchant, section, kind, write, work)

    async def delete_all(
        self, merchant: MerchantId, section: Section, kind: Kind
    ) -> tuple[Task, MergeCounts]:
        """Deletes every record of a kind.

        Raises:
            Unavailable: nothing was changed.
        """

        async def work(writing: CatalogueWriting) -> MergeCounts:
            await writing.lock()
            return MergeCounts(deleted=await writing.delete_all(kind))

        return await self._write(merchant, section, kind, Write.DELETE, work)

    async def _write(
        self,
        merchant: MerchantId,
        section: Section,
        kind: Kind,
        write: Write,
        work: Callable[[CatalogueWriting], Awaitable[MergeCounts]],
    ) -> tuple[Task, MergeCounts]:
        async with self._writer.writing(merchant, section) as writing:
            counts = await work(writing)
            version = await writing.finish()
            task = await writing.end_task(
                None,
                counts={"rows": counts.given, **counts.named(kind)},
                input={"write": write, "kind": kind, "call": True},
            )
        if version is not None:
            await tell(self._projector, merchant, section)
        return task, counts


async def parse(kind: Kind, write: Write, raws: Sequence[bytes]) -> list[Record]:
    """The records of one call, letting other requests run between parts of it.

    Raises:
        InvalidInput: naming every wrong field (the first 100).
        TooLarge: more than one call may have.
    """
    limit = MAX_GROUPS if kind is Kind.ITEM_GROUPS else MAX_BATCH
    if len(raws) > limit:
        raise TooLarge.field(
            f"/{kind}",
            f"{len(raws):,} {_noun(kind)} in one call, more than {limit:,}: send several calls,"
            " or a file to /v1/catalog",
        )
    if not raws:
        raise InvalidInput.field(f"/{kind}", "is empty: send one at least")
    records: list[Record] = []
    errors: list[FieldError] = []
    for start in range(0, len(raws), _RECORDS_AT_ONCE):
        part = raws[start : start + _RECORDS_AT_ONCE]
        try:
            if write is Write.DELETE:
                records.extend(_deletions(kind, part, start))
            else:
                partial = write is Write.PATCH
                records.extend(parse_records(kind, part, partial=partial, start=start))
        except InvalidInput as error:
            errors.extend(error.errors)
            if len(errors) >= MAX_ERRORS:
                break
        await asyncio.sleep(0)
    if errors:
        raise wrong_fields(errors)
    if len(records) > limit:
        raise TooLarge.field(
            f"/{kind}", f"{len(records):,} {_noun(kind)} with all below them, more than {limit:,}"
        )
    refuse_repeated(records)
    return records


async def tell(projector: CatalogueProjector, merchant: MerchantId, section: Section) -> None:
    """Brings Redis up to date after a commit. What was written stays written if that fails: the
    projector's loop comes back to it."""
    try:
        await projector.project(merchant, section)
    except Unavailable:
        log.info("projection_put_off", merchant=merchant, section=section)
    except Exception:
        log.exception("projection_failed", merchant=merchant, section=section)


def _deletions(kind: Kind, raws: Sequence[bytes], start: int) -> list[Record]:
    errors: list[FieldError] = []
    records = []
    for number, raw in enumerate(raws, start):
        try:
            records.append(Record(id=parse_id(raw), pointer=f"/{kind}/{number}"))
        except InvalidInput as error:
            errors.extend(FieldError(f"/{kind}/{number}{e.field}", e.message) for e in error.errors)
    if errors:
        raise wrong_fields(errors)
    return records


def _invalid(refused: Refused, records: Sequence[Record]) -> InvalidInput:
    errors = [
        FieldError(f"{records[refusal.place].pointer}/{refusal.field}", refusal.message)
        for refusal in refused.named
    ]
    return wrong_fields(errors, total=refused.total)


def _noun(kind: Kind) -> str:
    return kind.replace("_", " ")
