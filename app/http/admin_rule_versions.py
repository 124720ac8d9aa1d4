"""Publications of rule sets: what is in force, what was, and going back to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from aiohttp import web

from app.domain.errors import NotFound
from app.domain.rule import RuleSetVersion
from app.domain.rule_gate import RuleVerdict
from app.http import admin_wire as wire
from app.http.admin_rules import ONE, PATH, path_id, read
from app.http.caller import caller
from app.http.cursor import PAGE_PARAMETERS, Page, asked_page
from app.http.etag import IF_MATCH, expected_versions
from app.http.idempotency import IDEMPOTENCY_KEY, Idempotency
from app.http.operation import Operation, Parameter
from app.services.merchandise import Merchandise

Reason = Annotated[
    str, msgspec.Meta(max_length=1000, description="Why, for those who read the record later")
]
VersionNumber = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class Publication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: Reason = ""


class DraftPublication(Publication, frozen=True, forbid_unknown_fields=True):
    force: Annotated[
        bool, msgspec.Meta(description="In force whatever the gate finds; that is in the record")
    ] = False


class RollBack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: VersionNumber
    reason: Reason = ""


class AdminRuleVersions:
    def __init__(self, merchandise: Merchandise, idempotency: Idempotency) -> None:
        self._merchandise = merchandise
        self._idempotency = idempotency

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "POST",
                f"{ONE}/publish",
                "publishRuleSet",
                wire.TAG,
                "Put the draft in force",
                self.publish,
                roles=wire.MERCHANDISERS,
                parameters=(IF_MATCH, IDEMPOTENCY_KEY),
                body=DraftPublication,
                body_example={"reason": "The autumn campaign begins"},
                responses={201: RuleSetVersion},
                description="Every server process uses it within a second, between two requests."
                " The version is kept, unchanged, for good. Recent requests are asked again first:"
                " where their lists would carry less revenue than a margin allows, or be empty, it"
                " is refused with 409, or published with that verdict, as the server is set.",
            ),
            Operation(
                "POST",
                f"{ONE}/judge",
                "judgeRuleSet",
                wire.TAG,
                "What the gate would find if the draft were published now",
                self.judge,
                roles=wire.READERS,
                responses={200: RuleVerdict},
                description="Nothing is changed. 409 where the server has no gate.",
            ),
            Operation(
                "POST",
                f"{ONE}/roll-back",
                "rollBackRuleSet",
                wire.TAG,
                "Put an earlier version's rules in force again, as a new version",
                self.roll_back,
                roles=wire.MERCHANDISERS,
                parameters=(IF_MATCH, IDEMPOTENCY_KEY),
                body=RollBack,
                body_example={"number": 1, "reason": "The campaign ended early"},
                responses={201: RuleSetVersion},
                description="The draft stays as it is.",
            ),
            Operation(
                "POST",
                f"{ONE}/withdraw",
                "withdrawRuleSet",
                wire.TAG,
                "Leave no version of the rule set in force",
                self.withdraw,
                roles=wire.MERCHANDISERS,
                parameters=(IF_MATCH,),
                body=Publication,
                body_example={"reason": "Not wanted any more"},
                responses={204: None},
            ),
            Operation(
                "GET",
                f"{ONE}/versions",
                "listRuleSetVersions",
                wire.TAG,
                "List what was published, newest first",
                self.list,
                roles=wire.READERS,
                parameters=PAGE_PARAMETERS,
                responses={200: Page[RuleSetVersion]},
                description="Without the rules: those are in each version.",
            ),
            Operation(
                "GET",
                f"{ONE}/versions/{{number}}",
                "getRuleSetVersion",
                wire.TAG,
                "Read a published version with its rules",
                self.get,
                roles=wire.READERS,
                parameters=(Parameter("number", VersionNumber, "path", "1, 2, ...", example=1),),
                responses={200: RuleSetVersion},
            ),
        )

    async def publish(self, request: web.Request) -> web.Response:
        by = caller(request)
        rule_set_id = path_id(request, "rule_set_id")
        expected = expected_versions(request)
        body = await read(request, DraftPublication)

        async def publish() -> web.Response:
            return _created(
                await self._merchandise.publish(
                    by.merchant, rule_set_id, expected, by.token_id, body.reason, force=body.force
                )
            )

        return await self._idempotency.once(request, publish)

    async def judge(self, request: web.Request) -> web.Response:
        return wire.answer(
            await self._merchandise.judge(caller(request).merchant, path_id(request, "rule_set_id"))
        )

    async def roll_back(self, request: web.Request) -> web.Response:
        by = caller(request)
        rule_set_id = path_id(request, "rule_set_id")
        expected = expected_versions(request)
        body = await read(request, RollBack)

        async def roll_back() -> web.Response:
            return _created(
                await self._merchandise.roll_back(
                    by.merchant, rule_set_id, body.number, expected, by.token_id, body.reason
                )
            )

        return await self._idempotency.once(request, roll_back)

    async def withdraw(self, request: web.Request) -> web.Response:
        by = caller(request)
        rule_set_id = path_id(request, "rule_set_id")
        expected = expected_versions(request)
        body = await read(request, Publication)
        await self._merchandise.withdraw(
            by.merchant, rule_set_id, expected, by.token_id, body.reason
        )
        return web.Response(status=204)

    async def list(self, request: web.Request) -> web.Response:
        before, limit = asked_page(request, int)
        found = await self._merchandise.versions(
            caller(request).merchant,
            path_id(request, "rule_set_id"),
            before=before,
            limit=limit + 1,
        )
        return wire.answer(wire.page_of(found, limit, lambda row: row.number, lambda row: row))

    async def get(self, request: web.Request) -> web.Response:
        text = request.match_info["number"]
        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise NotFound("number: there is no such version; they are numbered from 1")
        return wire.answer(
            await self._merchandise.version(
                caller(request).merchant, path_id(request, "rule_set_id"), int(text)
            )
        )


def _created(version: RuleSetVersion) -> web.Response:
    location = f"{PATH}/{version.rule_set_id}/versions/{version.number}"
    return wire.answer(version, 201, {"Location": location})
