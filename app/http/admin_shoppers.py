"""`/admin/v1/shoppers/{shopper_id}`: what is kept of one shopper, told and forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from aiohttp import web

from app.domain.errors import InvalidInput
from app.domain.merchant import MerchantId
from app.http import admin_wire as wire
from app.http.caller import caller
from app.http.operation import Operation, Parameter
from app.services.privacy import Forgotten, Person, Privacy

_ONE: Final = "/admin/v1/shoppers/{shopper_id}"
_ID: Final = Parameter(
    "shopper_id",
    str,
    "path",
    "`u:` and a user id (`ui`), or `c:` and a client id (`i`)",
    example="u:4711",
)
MAX_LENGTH: Final = 1_000  # of an id


class AdminShoppers:
    def __init__(self, privacy: Privacy) -> None:
        self._privacy = privacy

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                _ONE,
                "exportShopper",
                wire.TAG,
                "All that is kept of a shopper, as JSON lines",
                self.export,
                roles=wire.ADMINISTRATORS,
                parameters=(_ID,),
                responses={200: None},
                response_media_type="application/x-ndjson",
                description="One object a line, by `kind`: `event`, `served` (from the sample of"
                " answers), `history`. A user's include what was done anonymously on the clients"
                " that are known to be theirs.",
            ),
            Operation(
                "DELETE",
                _ONE,
                "forgetShopper",
                wire.TAG,
                "Forget a shopper",
                self.forget,
                roles=wire.ADMINISTRATORS,
                parameters=(_ID,),
                responses={200: Forgotten},
                description="Deletes their events, samples and history everywhere, also events that"
                " wait in a spool. The next training knows nothing of them. It may be repeated.",
            ),
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        merchant = caller(request).merchant
        person = await self._person(merchant, request)
        rows = self._privacy.export(merchant, person)
        first = await anext(rows, None)  # what is away is said before the answer begins
        response = web.StreamResponse(
            headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        if first is not None:
            await response.write(msgspec.json.encode(first, enc_hook=str) + b"\n")
        async for row in rows:
            await response.write(msgspec.json.encode(row, enc_hook=str) + b"\n")
        await response.write_eof()
        return response

    async def forget(self, request: web.Request) -> web.Response:
        by = caller(request)
        person = await self._person(by.merchant, request)
        return wire.answer(await self._privacy.forget(by.merchant, person, actor=by.token_id))

    async def _person(self, merchant: MerchantId, request: web.Request) -> Person:
        kind, _, name = request.match_info["shopper_id"].partition(":")
        if kind not in ("u", "c") or not 0 < len(name) <= MAX_LENGTH or "\0" in name:
            raise InvalidInput.field("shopper_id", "must be u:<user id> or c:<client id>")
        if kind == "u":
            return await self._privacy.person(merchant, user_id=name)
        return await self._privacy.person(merchant, client_id=name)
