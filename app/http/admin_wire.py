"""What the admin API's handlers share: who may, pages, answers with an ETag."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from app.domain.configuration import Versioned
from app.domain.errors import InvalidInput
from app.domain.merchant import Role
from app.http import cursor
from app.http.etag import etag

Row = TypeVar("Row")
T = TypeVar("T")

TAG: Final = "admin"
READERS: Final = frozenset({Role.READER, Role.MERCHANDISER, Role.ADMINISTRATOR})
MERCHANDISERS: Final = frozenset({Role.MERCHANDISER, Role.ADMINISTRATOR})
ADMINISTRATORS: Final = frozenset({Role.ADMINISTRATOR})

_encode = msgspec.json.Encoder().encode


def page_of(
    found: Sequence[Row], limit: int, key: Callable[[Row], str | int], value: Callable[[Row], T]
) -> cursor.Page[T]:
    """The page out of `limit` + 1 rows that were asked for: one more tells that it goes on."""
    more = len(found) > limit
    rows = found[:limit]
    return cursor.Page([value(row) for row in rows], cursor.encode(key(rows[-1])) if more else None)


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=_encode(body), status=status, content_type="application/json", headers=headers
    )


def answer_version(
    found: Versioned[Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A resource with its ETag, which its next change must name."""
    return answer(found.value, status, {"ETag": etag(found.version), **(headers or {})})


def created(found: Versioned[Any], location: str) -> web.Response:
    return answer_version(found, 201, {"Location": location})


def same_id(in_path: str, in_body: str) -> None:
    """
    Raises:
        InvalidInput: a body names another resource than the path.
    """
    if in_path != in_body:
        raise InvalidInput.field("/id", f"must be {in_path!r}, as in the path")
