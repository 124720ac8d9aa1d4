"""`/admin/v1/audit`: who changed what. It can be read, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from app.domain.audit import AuditEntry
from app.http import admin_wire as wire
from app.http.caller import caller
from app.http.cursor import PAGE_PARAMETERS, Page, asked_page
from app.http.operation import Operation, Parameter
from app.services.configuration import AuditLog


class AdminAudit:
    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                "/admin/v1/audit",
                "listAudit",
                wire.TAG,
                "List changes, newest first",
                self.list,
                roles=wire.READERS,
                parameters=(
                    Parameter("action", description='Only this one, e.g. "pod.change".'),
                    Parameter("subject", description="Only of the thing with this id."),
                    Parameter("actor", description="Only by the token with this id."),
                    *PAGE_PARAMETERS,
                ),
                responses={200: Page[AuditEntry]},
            ),
        )

    async def list(self, request: web.Request) -> web.Response:
        after, limit = asked_page(request, int)
        found = await self._audit.page(
            caller(request).merchant,
            before_id=after,
            limit=limit + 1,
            action=request.query.get("action"),
            subject=request.query.get("subject"),
            actor=request.query.get("actor"),
        )
        page = wire.page_of(found, limit, lambda entry: entry.id, lambda entry: entry)
        return wire.answer(page)
