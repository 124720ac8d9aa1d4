"""Who calls with a token, and what a request's body says."""

from __future__ import annotations

import base64
import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
import numpy as np
from aiohttp import web

from app.domain import errors
from app.domain.merchant import Credential, MerchantId, Role

T = TypeVar("T")

MAX_DEPTH: Final = 64
"""Levels of nesting that a JSON body may have."""

_MEND: Final = "send the token as HTTP Basic user name (empty password) or as Bearer"
_AT = re.compile(r"^(?P<detail>.*?) - at `(?P<path>[^`]*)`(?: in `(?P<inside>.*)`)?$")
_FIELD = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<name>.*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a token. `caller(request)` gives it, wherever an operation asks for one."""

    merchant: MerchantId
    role: Role
    token_id: str


CALLER: Final = web.RequestKey("caller", Caller)


class Authenticator(Protocol):
    def token(self, secret: str) -> Credential:
        """The credential with this secret, from what the process holds; no I/O.

        Raises:
            errors.Unauthenticated: unknown, expired or revoked.
        """
        ...


def authenticate(authorization: str | None, authenticator: Authenticator) -> Caller:
    """The caller that an `Authorization` header names.

    Raises:
        errors.Unauthenticated: no token, or none that is valid.
    """
    if not authorization:
        raise errors.Unauthenticated(f"there is no token: {_MEND}")
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        secret = value
    elif scheme.lower() == "basic":
        try:
            secret = base64.b64decode(value, validate=True).decode().partition(":")[0]
        except ValueError:  # no base64, no ASCII, no UTF-8
            raise errors.Unauthenticated(f"the token cannot be read: {_MEND}") from None
    else:
        raise errors.Unauthenticated(f"this scheme is not known: {_MEND}")
    credential = authenticator.token(secret)
    return Caller(credential.merchant, credential.role, credential.id)


def caller(request: web.Request) -> Caller:
    """Who calls an operation that asks for a token."""
    return request[CALLER]


async def read_json(request: web.Request, kind: type[T]) -> T:
    """The body as a `kind` (anything that msgspec decodes).

    Raises:
        errors.InvalidInput: naming the wrong part by its JSON pointer.
        errors.TooLarge: deeper than any sensible body.
    """
    return decode_json(await request.read(), kind)


def decode_json(body: bytes, kind: type[T]) -> T:
    """`read_json` of bytes that are there already."""
    if not body:
        raise errors.InvalidInput.field("", "the body is empty: send JSON")
    if _too_deep(body):
        raise errors.TooLarge.field("", f"the body is nested more than {MAX_DEPTH} levels deep")
    try:
        return cast(T, _decoder(cast(Hashable, kind)).decode(body))
    except msgspec.ValidationError as error:
        pointer, detail = locate(str(error))
        raise errors.InvalidInput.field(pointer, detail) from None
    except msgspec.DecodeError as error:
        raise errors.InvalidInput.field("", f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise errors.TooLarge.field("", "the body is nested too deep") from None
    except UnicodeDecodeError:
        raise errors.InvalidInput.field("", "the body is not valid UTF-8") from None


def locate(message: str) -> tuple[str, str]:
    """JSON pointer and detail of one of msgspec's validation messages.

    >>> locate("Expected `int`, got `str` - at `$.items[3].id`")
    ('/items/3/id', 'expected `int`, got `str`')
    >>> locate("Object missing required field `id` - at `$.items[3]`")
    ('/items/3/id', 'is required')
    """
    found = _AT.match(message)
    detail, path = (found["detail"], found["inside"] or found["path"]) if found else (message, "$")
    steps = [name or index for name, index in _STEP.findall(path)]
    field = _FIELD.match(detail)
    if field:
        steps.append(field["name"])
        detail = "is required" if "missing" in detail else "there is no such field"
    else:
        detail = detail[:1].lower() + detail[1:]
    pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)
    return pointer, detail


@lru_cache(maxsize=512)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _too_deep(body: bytes) -> bool:
    """Whether the JSON is nested deeper than `MAX_DEPTH`, counted at memory speed.

    What is decoded here is encoded and decoded again elsewhere, with less stack left: it must not
    be near the limit of recursion.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    plain = body.replace(b"\\\\", b"").replace(
        b'\\"', b""
    )  # now each quote ends or starts a string
    characters = np.frombuffer(plain, np.uint8)
    outside = (np.cumsum(characters == ord('"'), dtype=np.int32) & 1) == 0
    folded = characters | 0x20  # "[" becomes "{", "]" becomes "}"
    opened = (folded == ord("{")) & outside
    closed = (folded == ord("}")) & outside
    depth = np.cumsum(opened.astype(np.int8) - closed.astype(np.int8), dtype=np.int32)
    return bool(depth.max(initial=0) > MAX_DEPTH)
