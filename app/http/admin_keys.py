"""`/admin/v1/keys` (public) and `/admin/v1/tokens` (secret): created, rotated, revoked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from aiohttp import hdrs, web

from app.domain.errors import InvalidInput
from app.domain.merchant import IssuedToken, KeyRecord, Role, TokenRecord
from app.http import admin_wire as wire
from app.http.caller import caller, read_json
from app.http.idempotency import IDEMPOTENCY_KEY, Idempotency
from app.http.operation import Operation
from app.services.credentials import CredentialStore

KEYS: Final = "/admin/v1/keys"
TOKENS: Final = "/admin/v1/tokens"  # a path

Label = Annotated[str, msgspec.Meta(max_length=200)]


class KeyList(msgspec.Struct):
    keys: Sequence[KeyRecord]


class TokenList(msgspec.Struct):
    tokens: Sequence[TokenRecord]


class NewKey(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    label: Label = ""
    allowed_origins: Annotated[tuple[str, ...], msgspec.Meta(max_length=100)] = ()
    """Web origins whose pages may use it, "https://shop.example"; none: any."""


class NewToken(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    role: Role
    label: Label = ""
    expires_at: Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)] | None = None
    """Unix seconds; null: never."""


class Rotation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    overlap_seconds: Annotated[float, msgspec.Meta(ge=0, le=7_776_000)] = 0
    """How long the old token stays valid."""


class AdminKeys:
    """Lists are short and come whole. Revoked keys and tokens stay in them."""

    def __init__(self, credentials: CredentialStore, idempotency: Idempotency) -> None:
        self._credentials = credentials
        self._idempotency = idempotency

    def operations(self) -> Sequence[Operation]:
        return (*self._key_operations(), *self._token_operations())

    def _key_operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                KEYS,
                "listKeys",
                wire.TAG,
                "List storefront keys, oldest first",
                self.keys,
                roles=wire.READERS,
                responses={200: KeyList},
            ),
            Operation(
                "POST",
                KEYS,
                "createKey",
                wire.TAG,
                "Create a storefront key",
                self.create_key,
                roles=wire.ADMINISTRATORS,
                parameters=(IDEMPOTENCY_KEY,),
                body=NewKey,
                body_required=False,
                body_example=NewKey(label="web", allowed_origins=("https://shop.example",)),
                responses={201: KeyRecord},
            ),
            Operation(
                "DELETE",
                f"{KEYS}/{{key}}",
                "revokeKey",
                wire.TAG,
                "Revoke a storefront key for good",
                self.revoke_key,
                roles=wire.ADMINISTRATORS,
                responses={200: KeyRecord},
                description="Within a second it names nothing.",
            ),
        )

    def _token_operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                TOKENS,
                "listTokens",
                wire.TAG,
                "List tokens, oldest first, without their secrets",
                self.tokens,
                roles=wire.ADMINISTRATORS,
                responses={200: TokenList},
            ),
            Operation(
                "POST",
                TOKENS,
                "createToken",
                wire.TAG,
                "Create a token; its secret is shown this once",
                self.create_token,
                roles=wire.ADMINISTRATORS,
                body=NewToken,
                body_example=NewToken(role=Role.INGEST, label="nightly import"),
                responses={201: IssuedToken},
                # An answer that is kept for a repeated call would keep the secret.
                description="Takes no Idempotency-Key: an answer with a secret is not kept.",
            ),
            Operation(
                "POST",
                f"{TOKENS}/{{token_id}}/rotate",
                "rotateToken",
                wire.TAG,
                "Create a token in the place of another one",
                self.rotate_token,
                roles=wire.ADMINISTRATORS,
                body=Rotation,
                body_required=False,
                body_example=Rotation(overlap_seconds=3600),
                responses={201: IssuedToken},
            ),
            Operation(
                "DELETE",
                f"{TOKENS}/{{token_id}}",
                "revokeToken",
                wire.TAG,
                "Revoke a token for good",
                self.revoke_token,
                roles=wire.ADMINISTRATORS,
                responses={200: TokenRecord},
                description="Within a second it opens nothing. The token that makes the call"
                " cannot revoke itself.",
            ),
        )

    async def keys(self, request: web.Request) -> web.Response:
        found = await self._credentials.keys(caller(request).merchant)
        return wire.answer(KeyList(found))

    async def create_key(self, request: web.Request) -> web.Response:
        by = caller(request)
        wanted = await read_json(request, NewKey) if await request.read() else NewKey()

        async def create() -> web.Response:
            made = await self._credentials.create_key(
                by.merchant,
                label=wanted.label,
                allowed_origins=wanted.allowed_origins,
                actor=by.token_id,
            )
            return wire.answer(made, 201, {hdrs.LOCATION: f"{KEYS}/{made.key}"})

        return await self._idempotency.once(request, create)

    async def revoke_key(self, request: web.Request) -> web.Response:
        by = caller(request)
        key = request.match_info["key"]
        return wire.answer(await self._credentials.revoke_key(by.merchant, key, actor=by.token_id))

    async def tokens(self, request: web.Request) -> web.Response:
        found = await self._credentials.tokens(caller(request).merchant)
        return wire.answer(TokenList(found))

    async def create_token(self, request: web.Request) -> web.Response:
        by = caller(request)
        wanted = await read_json(request, NewToken)
        issued = await self._credentials.create_token(
            by.merchant,
            wanted.role,
            label=wanted.label,
            expires_at=wanted.expires_at,
            actor=by.token_id,
        )
        return _shown_once(issued)

    async def rotate_token(self, request: web.Request) -> web.Response:
        by = caller(request)
        wanted = await read_json(request, Rotation) if await request.read() else Rotation()
        issued = await self._credentials.rotate_token(
            by.merchant,
            request.match_info["token_id"],
            overlap_seconds=wanted.overlap_seconds,
            actor=by.token_id,
        )
        return _shown_once(issued)

    async def revoke_token(self, request: web.Request) -> web.Response:
        by = caller(request)
        token_id = request.match_info["token_id"]
        if token_id == by.token_id:
            raise InvalidInput.field("token_id", "is the token of this call: use another one")
        return wire.answer(
            await self._credentials.revoke_token(by.merchant, token_id, actor=by.token_id)
        )


def _shown_once(issued: IssuedToken) -> web.Response:
    return wire.answer(
        issued,
        201,
        {hdrs.LOCATION: f"{TOKENS}/{issued.token.id}", hdrs.CACHE_CONTROL: "no-store"},
    )
