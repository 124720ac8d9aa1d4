"""Keyset cursors: a page begins behind a key, so that what is added meanwhile shifts nothing.

A cursor is opaque to clients: the last row's key, as JSON in base64url.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from aiohttp import web

from app.domain.errors import InvalidInput
from app.http.operation import Parameter

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200
MAX_CURSOR: Final = 1_000

PAGE_PARAMETERS: Final = (
    Parameter("cursor", str, description="Where the page begins: `next_cursor` of the page before"),
    Parameter(
        "limit",
        Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)],
        description=f"Rows a page, {DEFAULT_LIMIT} where it is not said",
        example=20,
    ),
)

T = TypeVar("T")
KeyT = TypeVar("KeyT", int, str)


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Rows, and how to go on."""

    items: list[T]
    next_cursor: str | None = None  # none: this was the last page


def encode(key: int | str) -> str:
    """The cursor of a page that begins behind the row with this key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def decode(cursor: str, kind: type[KeyT]) -> KeyT:
    """
    Raises:
        InvalidInput: it is no cursor of such a list.
    """
    try:
        if len(cursor) > MAX_CURSOR:
            raise ValueError
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key = msgspec.json.decode(text, type=kind)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise InvalidInput.field(
            "cursor", "is not one of this list's: take `next_cursor` of the page before"
        ) from None
    if isinstance(key, int) and not -(2**63) <= key < 2**63:
        raise InvalidInput.field("cursor", "is not one of this list's")
    if isinstance(key, str) and "\0" in key:
        raise InvalidInput.field("cursor", "is not one of this list's")
    return key


def asked_page(request: web.Request, kind: type[KeyT]) -> tuple[KeyT | None, int]:
    """The key behind which the page begins (None: the first page), and its length.

    Raises:
        InvalidInput: naming the parameter.
    """
    cursor = request.query.get("cursor")
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT):
        raise InvalidInput.field("limit", f"must be a whole number from 1 to {MAX_LIMIT}")
    return None if cursor is None else decode(cursor, kind), int(text)
