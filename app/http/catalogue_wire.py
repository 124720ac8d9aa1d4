"""The catalogue's wire: what calls carry and what answers look like.

Source: Constructor's public client for back ends (`src/modules/catalog.js`, `tasks.js`) and the
types that it ships. The body of a list is split into its records without being decoded, so that
they can be parsed in parts while other requests run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from app.domain.catalogue import (
    DEFAULT_SECTION,
    Item,
    ItemGroup,
    Kind,
    OnMissing,
    Section,
    Variation,
)
from app.domain.errors import InvalidInput, TooLarge, Unauthenticated, VitrineError
from app.domain.merchant import Merchant, MerchantId
from app.domain.task import CATALOGUE_IMPORT, Rejection, Task, TaskStatus
from app.http.caller import caller, locate
from app.http.operation import Parameter

MAX_BATCH_BYTES: Final = 32 * 1024 * 1024
"""Of one call: 10,000 records of some kilobytes."""
MAX_IDS: Final = 1_000
MAX_SECTION_LENGTH: Final = 100

INGESTION: Final = "ingestion"
"""The wire's name of the type `catalogue_import`."""


class Directory(Protocol):
    def merchant_of_key(self, key: str) -> Merchant:
        """The merchant of a storefront key.

        Raises:
            Unauthenticated: there is no such key, or it was revoked.
        """
        ...


class ItemsBody(msgspec.Struct):
    items: list[msgspec.Raw]


class VariationsBody(msgspec.Struct):
    variations: list[msgspec.Raw]


class ItemGroupsBody(msgspec.Struct):
    item_groups: list[msgspec.Raw]


class StoredItem(msgspec.Struct, omit_defaults=True):
    id: str
    name: str
    suggested_score: float | None = None
    data: dict[str, Any] = {}
    updated_at: str = ""  # RFC 3339: its own or a variation's last change


class StoredVariation(msgspec.Struct, omit_defaults=True):
    id: str
    item_id: str
    name: str | None = None
    suggested_score: float | None = None
    data: dict[str, Any] = {}
    updated_at: str = ""  # RFC 3339


class ItemsAnswer(msgspec.Struct, omit_defaults=True):
    items: list[StoredItem]
    total_count: int
    next_page_cursor: str | None = None


class VariationsAnswer(msgspec.Struct, omit_defaults=True):
    variations: list[StoredVariation]
    total_count: int
    next_page_cursor: str | None = None


class GroupNode(msgspec.Struct, omit_defaults=True):
    """An item group with all below it."""

    id: str
    name: str
    data: dict[str, Any] = {}
    children: list[GroupNode] = []


class GroupsAnswer(msgspec.Struct):
    item_groups: list[GroupNode]
    total_count: int


class GroupAnswer(msgspec.Struct, omit_defaults=True):
    """An item group and its place in the tree."""

    id: str
    name: str
    path: str  # "/all/food", from the top to its parent
    path_list: list[str]
    parent_id: str | None = None
    data: dict[str, Any] = {}


class GroupCounts(msgspec.Struct):
    processed: int
    inserted: int
    updated: int
    deleted: int


class GroupsWritten(msgspec.Struct):
    item_groups: GroupCounts


class Message(msgspec.Struct):
    message: str


class TaskStarted(msgspec.Struct):
    task_id: int
    task_status_path: str


class ChangeLog(msgspec.Struct):
    sections: dict[str, dict[str, int]]
    item_groups_updated: int
    item_groups_deleted: int
    index_built: bool = True


class TaskResult(msgspec.Struct):
    changelog: ChangeLog


class RejectedRow(msgspec.Struct, omit_defaults=True):
    reason: str
    file: str | None = None
    line: int | None = None
    id: str | None = None


class TaskAnswer(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A task. What the client's type names, and then `counts` and `rejected_rows`."""

    id: int
    type: str
    status: TaskStatus
    submission_time: str
    last_update: str
    start_time: str | None = None
    filename: str | None = None
    protocol: str | None = None
    section: str | None = None
    result: TaskResult | None = None
    error: str | None = None
    counts: dict[str, int] = {}
    rejected_rows: list[RejectedRow] = []


class TasksAnswer(msgspec.Struct):
    total_count: int
    tasks: list[TaskAnswer]
    status_counts: dict[str, int]


_DECODERS: Final[Mapping[Kind, msgspec.json.Decoder[Any]]] = {
    Kind.ITEMS: msgspec.json.Decoder(ItemsBody),
    Kind.VARIATIONS: msgspec.json.Decoder(VariationsBody),
    Kind.ITEM_GROUPS: msgspec.json.Decoder(ItemGroupsBody),
}

SECTION: Final = Parameter(
    "section", description="The section of the catalogue.", example=DEFAULT_SECTION
)
KEY: Final = Parameter(
    "key", description="A storefront key; if given, it must belong to the token's merchant."
)
FORCE: Final = Parameter(
    "force", bool, description="Go on even if more than half of the catalogue would be deleted."
)
NOTIFY: Final = Parameter(
    "notification_email", description="Accepted and not used: Vitrine sends no mail."
)
ON_MISSING: Final = Parameter(
    "on_missing",
    OnMissing,
    description="What becomes of a record that is not there: FAIL (the default) changes nothing.",
)
PAGING: Final = (
    Parameter("num_results_per_page", int, description="1 to 1,000 (tasks: 100)."),
    Parameter("page", int, description="From 1."),
)

encode = msgspec.json.Encoder().encode


def answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json")


def merchant_of(request: web.Request, directory: Directory) -> MerchantId:
    """The token's merchant; a `key` beside it must be of the same.

    Raises:
        Unauthenticated: the key is unknown or another merchant's; which of them is not told.
    """
    merchant = caller(request).merchant
    key = request.query.get("key")
    if key is not None:
        try:
            known = directory.merchant_of_key(key).id == merchant
        except VitrineError:
            known = False
        if not known:
            raise Unauthenticated("key: unknown, or not of the merchant that the token is of")
    return merchant


def section_of(request: web.Request) -> Section:
    name = request.query.get("section", DEFAULT_SECTION)
    if not name.strip() or len(name) > MAX_SECTION_LENGTH or not name.isprintable():
        raise InvalidInput.field(
            "section", f"must be a name of 1 to {MAX_SECTION_LENGTH} printable characters"
        )
    return Section(name)


def on_missing_of(request: web.Request) -> OnMissing:
    given = request.query.get("on_missing", OnMissing.FAIL)
    try:
        return OnMissing(given.upper())
    except ValueError:
        raise InvalidInput.field("on_missing", "must be FAIL, IGNORE or CREATE") from None


def flag(request: web.Request, name: str) -> bool:
    given = request.query.get(name, "false").lower()
    if given not in ("true", "false", "1", "0"):
        raise InvalidInput.field(name, "must be true or false")
    return given in ("true", "1")


def whole_number(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    given = request.query.get(name)
    if given is None:
        return default
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 12 else low - 1
    if not low <= number <= high:
        raise InvalidInput.field(name, f"must be a whole number from {low:,} to {high:,}")
    return number


def day(request: web.Request, name: str, *, end: bool = False) -> datetime | None:
    """The beginning of the day that a parameter names, in UTC; with `end`, of the day after."""
    given = request.query.get(name)
    if given is None:
        return None
    try:
        parsed = datetime.strptime(given, "%Y-%m-%d").replace(tzinfo=UTC)
        return parsed + timedelta(days=1) if end else parsed
    except (ValueError, OverflowError):
        raise InvalidInput.field(name, "must be a day, such as 2026-01-31") from None


def ids_of(request: web.Request) -> list[str] | None:
    ids = request.query.getall("id", None)
    if ids is not None and len(ids) > MAX_IDS:
        raise TooLarge.field("id", f"{len(ids):,} ids, more than {MAX_IDS:,}")
    return ids


async def records_of(request: web.Request, kind: Kind) -> Sequence[bytes]:
    """The JSON of each record in a call's body.

    Raises:
        InvalidInput: the body is no JSON, or has no such list.
    """
    # Decoded here and not by `read_json`: looking for the depth of millions of bytes at once would
    # hold up other requests. Each record is looked at when it is parsed.
    try:
        decoded = _DECODERS[kind].decode(await request.read())
    except msgspec.ValidationError as error:
        raise InvalidInput.field(*locate(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "is nested too deep" if isinstance(error, RecursionError) else "is not valid JSON"
        raise InvalidInput.field("", f'the body {why}: send {{"{kind}": [...]}}') from None
    return [bytes(raw) for raw in getattr(decoded, kind)]


def stored_item(item: Item) -> StoredItem:
    return StoredItem(
        item.id, item.name, item.suggested_score, item.data, rfc3339(item.updated_at or 0)
    )


def stored_variation(variation: Variation) -> StoredVariation:
    return StoredVariation(
        variation.id,
        variation.item_id,
        variation.name,
        variation.suggested_score,
        variation.data,
        rfc3339(variation.updated_at or 0),
    )


def group_tree(groups: Sequence[ItemGroup]) -> list[GroupNode]:
    """The roots, with all that is below them."""
    nodes = {group.id: GroupNode(group.id, group.name, group.data, []) for group in groups}
    roots: list[GroupNode] = []
    for group in groups:
        above = nodes.get(group.parent_id) if group.parent_id is not None else None
        (roots if above is None else above.children).append(nodes[group.id])
    return roots


def task_answer(task: Task, rejections: Sequence[Rejection] = ()) -> TaskAnswer:
    counts = task.counts
    result = None
    if task.type == CATALOGUE_IMPORT and task.status is TaskStatus.DONE:
        done = {
            f"{kind}_{change}": sum(counts.get(f"{kind}_{part}", 0) for part in parts)
            for kind in Kind
            for change, parts in (("updated", ("created", "updated")), ("deleted", ("deleted",)))
        }
        changelog = ChangeLog(
            item_groups_updated=done.pop("item_groups_updated"),
            item_groups_deleted=done.pop("item_groups_deleted"),
            sections={task.section or DEFAULT_SECTION: done},
        )
        result = TaskResult(changelog)
    return TaskAnswer(
        id=task.id,
        type=INGESTION if task.type == CATALOGUE_IMPORT else task.type,
        status=task.status,
        submission_time=rfc3339(task.created_at),
        last_update=rfc3339(task.finished_at or task.started_at or task.created_at),
        start_time=None if task.started_at is None else rfc3339(task.started_at),
        filename=", ".join(f["name"] for f in task.input.get("files", ())) or None,
        protocol="http" if task.type == CATALOGUE_IMPORT else None,
        section=task.section,
        result=result,
        error=task.error,
        counts=counts,
        rejected_rows=[RejectedRow(r.reason, r.file, r.line, r.subject) for r in rejections],
    )


def started(task: Task) -> TaskStarted:
    return TaskStarted(task.id, f"/v1/tasks/{task.id}")


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
