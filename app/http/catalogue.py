"""Items, variations and item groups over HTTP, as Constructor's client for back ends calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from app.domain.catalogue import Item, ItemGroup, Kind, OnMissing, Section, Variation, Write
from app.domain.catalogue_input import wrong_fields
from app.domain.errors import FieldError, InvalidInput, NotFound
from app.domain.item_features import GroupTree
from app.domain.merchant import MerchantId, Role
from app.http import catalogue_wire as wire
from app.http.caller import read_json
from app.http.operation import Operation, Parameter
from app.services.ingest import Ingest

TAG: Final = "catalogue"
WRITERS: Final = frozenset((Role.INGEST, Role.ADMINISTRATOR))
"""Roles that may write a catalogue."""

_BODIES: Final[dict[Kind, Any]] = {
    Kind.ITEMS: wire.ItemsBody,
    Kind.VARIATIONS: wire.VariationsBody,
}
_EXAMPLES: Final[dict[Kind, Any]] = {
    Kind.ITEMS: {
        "items": [
            {
                "id": "mug-1",
                "name": "Blue mug",
                "data": {
                    "url": "/p/mug-1",
                    "price": 7.5,
                    "group_ids": ["mugs"],
                    "facets": {"colour": ["blue"]},
                },
            }
        ]
    },
    Kind.VARIATIONS: {
        "variations": [{"id": "mug-1-xl", "item_id": "mug-1", "data": {"price": 9.5}}]
    },
}


class CatalogueReader(Protocol):
    """Raises (every method): Unavailable."""

    async def items(
        self,
        merchant: MerchantId,
        of: Section,
        *,
        limit: int,
        offset: int = 0,
        after: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> tuple[list[Item], int]:
        """A page of items by id, and how many there are in all."""
        ...

    async def variations(
        self,
        merchant: MerchantId,
        of: Section,
        *,
        limit: int,
        offset: int = 0,
        after: str | None = None,
        ids: Sequence[str] | None = None,
        item_id: str | None = None,
    ) -> tuple[list[Variation], int]:
        """A page of variations by id, and how many there are in all."""
        ...

    async def groups(self, merchant: MerchantId, of: Section) -> list[ItemGroup]:
        """All item groups of a section, by id."""
        ...


class CatalogueHandler:
    """`/v2/items` and `/v2/variations`."""

    def __init__(self, ingest: Ingest, reader: CatalogueReader, directory: wire.Directory) -> None:
        self._ingest = ingest
        self._reader = reader
        self._directory = directory

    def operations(self) -> Sequence[Operation]:
        return (*self._of(Kind.ITEMS, self.items), *self._of(Kind.VARIATIONS, self.variations))

    def _of(self, kind: Kind, read: Any) -> tuple[Operation, ...]:
        noun = kind.capitalize()
        path = f"/v2/{kind}"
        answers = wire.ItemsAnswer if kind is Kind.ITEMS else wire.VariationsAnswer
        common = (wire.SECTION, wire.KEY)

        def writing(method: str, verb: str, summary: str, write: Write) -> Operation:
            patch = (wire.ON_MISSING,) if write is Write.PATCH else ()

            async def handle(request: web.Request) -> web.Response:
                return await self._write(request, kind, write)

            return Operation(
                method,
                path,
                f"{verb}{noun}",
                TAG,
                summary,
                handle,
                roles=WRITERS,
                parameters=(*common, *patch, wire.FORCE, wire.NOTIFY),
                body=_BODIES[kind],
                body_example=_EXAMPLES[kind],
                responses={200: wire.TaskStarted},
                description=(
                    "At most 10,000 in one call. All or nothing: where one is wrong, nothing is"
                    " changed and the answer names each wrong field. What is answered is visible."
                ),
                max_body_bytes=wire.MAX_BATCH_BYTES,
            )

        of_item = (Parameter("item_id", description="Only variations of this item."),)
        return (
            Operation(
                "GET",
                path,
                f"get{noun}",
                TAG,
                f"Read {kind}, by id or page by page",
                read,
                parameters=(
                    *common,
                    Parameter("id", description="May be repeated, up to 1,000 times."),
                    *(of_item if kind is Kind.VARIATIONS else ()),
                    *wire.PAGING,
                    Parameter("offset", int, description="Instead of `page`."),
                    Parameter("cursor", description="`next_page_cursor` of the answer before."),
                ),
                responses={200: answers},
            ),
            writing("PUT", "put", f"Create {kind} or replace them", Write.REPLACE),
            writing("PATCH", "patch", f"Change fields of {kind}", Write.PATCH),
            writing("DELETE", "delete", f"Delete {kind}", Write.DELETE),
        )

    async def items(self, request: web.Request) -> web.Response:
        merchant = wire.merchant_of(request, self._directory)
        limit, offset, after = _page(request)
        items, total = await self._reader.items(
            merchant,
            wire.section_of(request),
            limit=limit,
            offset=offset,
            after=after,
            ids=wire.ids_of(request),
        )
        return wire.answer(
            wire.ItemsAnswer(
                [wire.stored_item(item) for item in items],
                total,
                items[-1].id if len(items) == limit else None,
            )
        )

    async def variations(self, request: web.Request) -> web.Response:
        merchant = wire.merchant_of(request, self._directory)
        limit, offset, after = _page(request)
        variations, total = await self._reader.variations(
            merchant,
            wire.section_of(request),
            limit=limit,
            offset=offset,
            after=after,
            ids=wire.ids_of(request),
            item_id=request.query.get("item_id"),
        )
        return wire.answer(
            wire.VariationsAnswer(
                [wire.stored_variation(variation) for variation in variations],
                total,
                variations[-1].id if len(variations) == limit else None,
            )
        )

    async def _write(self, request: web.Request, kind: Kind, write: Write) -> web.Response:
        merchant = wire.merchant_of(request, self._directory)
        section = wire.section_of(request)
        wire.flag(request, "force")  # what a call names is what it means: nothing to be forced
        on_missing = wire.on_missing_of(request)
        records = await wire.records_of(request, kind)
        task, _ = await self._ingest.write(merchant, section, kind, write, records, on_missing)
        return wire.answer(wire.started(task))


class ItemGroupsHandler:
    """`/v1/item_groups`."""

    def __init__(self, ingest: Ingest, reader: CatalogueReader, directory: wire.Directory) -> None:
        self._ingest = ingest
        self._reader = reader
        self._directory = directory

    def operations(self) -> Sequence[Operation]:
        path = "/v1/item_groups"
        common = (wire.SECTION, wire.KEY)
        example = {
            "item_groups": [
                {"id": "all", "name": "All", "children": [{"id": "mugs", "name": "Mugs"}]}
            ]
        }

        def writing(method: str, verb: str, summary: str, write: Write) -> Operation:
            async def handle(request: web.Request) -> web.Response:
                return await self._write(request, write)

            return Operation(
                method,
                path,
                f"{verb}ItemGroups",
                TAG,
                summary,
                handle,
                roles=WRITERS,
                parameters=common,
                body=wire.ItemGroupsBody,
                body_example=example,
                responses={200: wire.GroupsWritten},
                description="At most 10,000 in one call, children counted.",
                max_body_bytes=wire.MAX_BATCH_BYTES,
            )

        return (
            Operation(
                "GET",
                path,
                "getItemGroups",
                TAG,
                "Read the tree of item groups",
                self.tree,
                parameters=common,
                responses={200: wire.GroupsAnswer},
            ),
            writing("POST", "add", "Add item groups; those that are there stay", Write.ADD),
            writing("PUT", "put", "Replace the whole tree of item groups", Write.FULL),
            writing("PATCH", "patch", "Add item groups or change fields of them", Write.PATCH),
            Operation(
                "DELETE",
                path,
                "deleteItemGroups",
                TAG,
                "Delete all item groups",
                self.delete_all,
                roles=WRITERS,
                parameters=common,
                responses={200: wire.Message},
            ),
            Operation(
                "GET",
                f"{path}/{{group_id}}",
                "getItemGroup",
                TAG,
                "Read an item group and all below it",
                self.one,
                parameters=common,
                responses={200: wire.GroupsAnswer},
                aliases=(f"{path}%2F{{group_id:.+}}",),
            ),
            Operation(
                "PUT",
                f"{path}/{{group_id}}",
                "putItemGroup",
                TAG,
                "Create an item group or change it",
                self.put,
                roles=WRITERS,
                parameters=common,
                body=dict[str, Any],
                body_example={"name": "Mugs", "parent_id": "all"},
                responses={200: wire.GroupAnswer},
                aliases=(f"{path}%2F{{group_id:.+}}",),
            ),
        )

    async def tree(self, request: web.Request) -> web.Response:
        groups = await self._groups(request)
        return wire.answer(wire.GroupsAnswer(wire.group_tree(groups), len(groups)))

    async def one(self, request: web.Request) -> web.Response:
        group_id = request.match_info["group_id"]
        groups = await self._groups(request)
        tree = GroupTree({group.id: group.parent_id for group in groups})
        below = [group for group in groups if group_id in tree.path(group.id)]
        roots = [node for node in wire.group_tree(below) if node.id == group_id]
        if not roots:
            raise NotFound(f'there is no item group "{group_id}"')
        return wire.answer(wire.GroupsAnswer(roots, 1))

    async def put(self, request: web.Request) -> web.Response:
        merchant = wire.merchant_of(request, self._directory)
        section = wire.section_of(request)
        group_id = request.match_info["group_id"]
        body = await read_json(request, dict[str, Any])
        if body.setdefault("id", group_id) != group_id:
            raise InvalidInput.field("/id", "is not the id in the path")
        if "children" in body:
            raise InvalidInput.field("/children", "one group is written here: leave them out")
        try:
            await self._ingest.write(
                merchant,
                section,
                Kind.ITEM_GROUPS,
                Write.PATCH,
                [wire.encode(body)],
                OnMissing.CREATE,
            )
        except InvalidInput as error:
            start = len(f"/{Kind.ITEM_GROUPS}/0")  # the body is the group itself
            fields = [FieldError(e.field[start:], e.message) for e in error.errors]
            raise (wrong_fields(fields) if fields else error) from None
        groups = await self._reader.groups(merchant, section)
        tree = GroupTree({group.id: group.parent_id for group in groups})
        found = next((group for group in groups if group.id == group_id), None)
        if found is None:
            raise NotFound(f'there is no item group "{group_id}" any more')
        above = list(tree.path(group_id)[:0:-1])
        return wire.answer(
            wire.GroupAnswer(
                found.id, found.name, "/" + "/".join(above), above, found.parent_id, found.data
            )
        )

    async def delete_all(self, request: web.Request) -> web.Response:
        merchant = wire.merchant_of(request, self._directory)
        section = wire.section_of(request)
        _, counts = await self._ingest.delete_all(merchant, section, Kind.ITEM_GROUPS)
        return wire.answer(wire.Message(f"{counts.deleted:,} item groups were deleted"))

    async def _groups(self, request: web.Request) -> list[ItemGroup]:
        merchant = wire.merchant_of(request, self._directory)
        return await self._reader.groups(merchant, wire.section_of(request))

    async def _write(self, request: web.Request, write: Write) -> web.Response:
        merchant = wire.merchant_of(request, self._directory)
        section = wire.section_of(request)
        records = await wire.records_of(request, Kind.ITEM_GROUPS)
        _, counts = await self._ingest.write(
            merchant, section, Kind.ITEM_GROUPS, write, records, OnMissing.CREATE
        )
        return wire.answer(
            wire.GroupsWritten(
                wire.GroupCounts(counts.given, counts.created, counts.updated, counts.deleted)
            )
        )


def _page(request: web.Request) -> tuple[int, int, str | None]:
    """Limit, offset, and the id after which the page begins."""
    limit = wire.whole_number(request, "num_results_per_page", 100, 1, wire.MAX_IDS)
    page = wire.whole_number(request, "page", 1, 1, 10**9)
    offset = wire.whole_number(request, "offset", 0, 0, 10**9)
    cursor = request.query.get("cursor")
    if sum(name in request.query for name in ("page", "offset", "cursor")) > 1:
        raise InvalidInput("page, offset and cursor exclude each other: leave one")
    return limit, offset or (page - 1) * limit, cursor
