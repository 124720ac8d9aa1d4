"""Catalogue files over HTTP, and the tasks that come of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from app.domain.catalogue import Write
from app.domain.errors import InvalidInput, NotFound
from app.domain.merchant import MerchantId
from app.domain.task import CATALOGUE_IMPORT, Rejection, Task, TaskStatus
from app.http import catalogue_wire as wire
from app.http.catalogue import TAG, WRITERS
from app.http.operation import Operation, Parameter
from app.services.catalogue_import import CatalogueImport, Order

_CHUNK: Final = 256 * 1024
_SHOWN_REJECTIONS: Final = 100
_FORMATS: Final = ("csv", "jsonl")
CANCELED: Final = "CANCELED"


class TaskReader(Protocol):
    """Raises (every method): Unavailable."""

    async def get(self, merchant: MerchantId, task_id: int) -> Task:
        """Raises NotFound."""
        ...

    async def page(
        self,
        merchant: MerchantId,
        *,
        limit: int,
        offset: int = 0,
        types: Sequence[str] | None = None,
        status: TaskStatus | None = None,
        since: Any = None,
        until: Any = None,
    ) -> tuple[list[Task], int, dict[str, int]]:
        """Newest first; how many fit in all; and how many there are by status."""
        ...

    async def rejections(
        self, merchant: MerchantId, task_id: int, *, limit: int, offset: int = 0
    ) -> list[Rejection]: ...


class CatalogueFilesHandler:
    """`/v1/catalog`."""

    def __init__(
        self,
        catalogue_import: CatalogueImport,
        directory: wire.Directory,
        *,
        max_upload_bytes: int,
    ) -> None:
        self._import = catalogue_import
        self._directory = directory
        self._max_upload_bytes = max_upload_bytes

    def operations(self) -> Sequence[Operation]:
        parameters = (
            wire.SECTION,
            wire.KEY,
            wire.FORCE,
            wire.NOTIFY,
            Parameter("format", description="csv or jsonl; without it the file itself tells."),
            Parameter(
                "skip_rejected",
                bool,
                description="Take the good rows where some are wrong, instead of none.",
            ),
        )
        description = (
            "Form data with the files `items`, `variations` and `item_groups` (CSV, JSONL; plain or"
            " gzipped), or one tar archive of them under its name. The import is a task: nothing of"
            " it is visible before all of it is. A full import that would delete more than half is"
            " refused without `force`. See /v1/tasks/{task_id} for what became of it."
        )

        def writing(method: str, verb: str, summary: str, more: tuple[Parameter, ...]) -> Operation:
            return Operation(
                method,
                "/v1/catalog",
                f"{verb}Catalog",
                TAG,
                summary,
                self.replace if method == "PUT" else self.update,
                roles=WRITERS,
                parameters=(*parameters, *more),
                body=dict[str, str],
                body_media_types=("multipart/form-data",),
                responses={202: wire.TaskStarted},
                description=description,
                max_body_bytes=self._max_upload_bytes,
            )

        return (
            writing("PUT", "put", "Replace the catalogue by files", ()),
            writing(
                "PATCH",
                "patch",
                "Add to the catalogue, or change it, by files",
                (
                    Parameter(
                        "patch_delta",
                        bool,
                        description="Change only the fields that a row has; else rows are whole.",
                    ),
                    wire.ON_MISSING,
                ),
            ),
        )

    async def replace(self, request: web.Request) -> web.Response:
        if request.query.get("mode", "full") != "full":
            raise InvalidInput.field("mode", "only full is taken: send the whole records")
        return await self._submit(request, Write.FULL)

    async def update(self, request: web.Request) -> web.Response:
        patch = wire.flag(request, "patch_delta")
        return await self._submit(request, Write.PATCH if patch else Write.REPLACE)

    async def _submit(self, request: web.Request, write: Write) -> web.Response:
        merchant = wire.merchant_of(request, self._directory)
        section = wire.section_of(request)
        stated: Any = request.query.get("format")
        if stated is not None and stated not in _FORMATS:
            raise InvalidInput.field("format", f"must be one of {', '.join(_FORMATS)}")
        order = Order(
            write=write,
            on_missing=wire.on_missing_of(request),
            force=wire.flag(request, "force"),
            skip_rejected=wire.flag(request, "skip_rejected"),
            format=stated,
        )
        if request.content_type != "multipart/form-data":
            raise InvalidInput("the body must be multipart/form-data with the files in it")
        task = await self._import.submit(merchant, section, order, _parts(request))
        return wire.answer(wire.started(task), 202)


class CatalogueTasksHandler:
    """`/v1/tasks`."""

    def __init__(self, tasks: TaskReader, directory: wire.Directory) -> None:
        self._tasks = tasks
        self._directory = directory

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                "/v1/tasks",
                "getTasks",
                TAG,
                "Read the latest tasks, newest first",
                self.page,
                parameters=(
                    wire.KEY,
                    *wire.PAGING,
                    Parameter("start_date", description="First day, such as 2026-01-31 (UTC)."),
                    Parameter("end_date", description="Last day."),
                    Parameter("status", TaskStatus),
                    Parameter("type", example=wire.INGESTION),
                ),
                responses={200: wire.TasksAnswer},
            ),
            Operation(
                "GET",
                "/v1/tasks/{task_id}",
                "getTask",
                TAG,
                "Read what became of a task, its rejected rows included",
                self.one,
                parameters=(
                    wire.KEY,
                    Parameter(
                        "rejected_offset",
                        int,
                        description="Where the list of rejected rows begins (100 are shown).",
                    ),
                ),
                responses={200: wire.TaskAnswer},
                aliases=("/v1/tasks%2F{task_id}",),
            ),
        )

    async def page(self, request: web.Request) -> web.Response:
        merchant = wire.merchant_of(request, self._directory)
        limit = wire.whole_number(request, "num_results_per_page", 20, 1, 100)
        page = wire.whole_number(request, "page", 1, 1, 10**9)
        kind = request.query.get("type")
        if request.query.get("status", "").upper() == CANCELED:  # the client has it, Vitrine not
            return wire.answer(wire.TasksAnswer(0, [], dict.fromkeys((*TaskStatus, CANCELED), 0)))
        tasks, total, counts = await self._tasks.page(
            merchant,
            limit=limit,
            offset=(page - 1) * limit,
            types=None if kind is None else [{wire.INGESTION: CATALOGUE_IMPORT}.get(kind, kind)],
            status=_status(request),
            since=wire.day(request, "start_date"),
            until=wire.day(request, "end_date", end=True),
        )
        by_status = dict.fromkeys((*TaskStatus, CANCELED), 0) | counts
        return wire.answer(
            wire.TasksAnswer(total, [wire.task_answer(task) for task in tasks], by_status)
        )

    async def one(self, request: web.Request) -> web.Response:
        merchant = wire.merchant_of(request, self._directory)
        given = request.match_info["task_id"]
        offset = wire.whole_number(request, "rejected_offset", 0, 0, 10**9)
        if not (given.isascii() and given.isdigit() and len(given) < 19):
            raise NotFound(f"there is no task {given[:40]!r}")
        task = await self._tasks.get(merchant, int(given))
        rejections = await self._tasks.rejections(
            merchant, task.id, limit=_SHOWN_REJECTIONS, offset=offset
        )
        return wire.answer(wire.task_answer(task, rejections))


def _status(request: web.Request) -> TaskStatus | None:
    given = request.query.get("status")
    if given is None:
        return None
    try:
        return TaskStatus(given.upper())
    except ValueError:
        raise InvalidInput.field("status", f"must be one of {', '.join(TaskStatus)}") from None


async def _parts(
    request: web.Request,
) -> AsyncIterator[tuple[str, str, AsyncIterator[bytes]]]:
    """The form's files: name of the field, file name, content."""
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise InvalidInput("the form has a part that is no file with a name")
            yield part.name, part.filename or "", _content(part)
    except (ValueError, web.RequestPayloadError, HttpProcessingError) as error:
        raise InvalidInput("the form cannot be read: is its boundary missing?") from error


async def _content(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(_CHUNK):
        yield chunk
