"""Errors to answers: one table, RFC 9457 `application/problem+json`.

Each problem also carries `message`, which is what Constructor's clients read.
"""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from app.domain import errors

MEDIA_TYPE: Final = "application/problem+json"


class WrongField(msgspec.Struct, frozen=True):
    """One wrong part of the request."""

    pointer: str  # JSON pointer into the body, or the parameter's name
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457. `message` repeats `detail` for clients that look there."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    message: str
    errors: tuple[WrongField, ...] = ()
    request_id: str | None = None


STATUS: Final[tuple[tuple[type[errors.VitrineError], int, str], ...]] = (
    # The first match counts: subclasses before their bases.
    (errors.TooLarge, 413, "Too large"),
    (errors.InvalidInput, 400, "Invalid input"),
    (errors.Unauthenticated, 401, "Not authenticated"),
    (errors.Forbidden, 403, "Not allowed"),
    (errors.NotFound, 404, "Not found"),
    (errors.Conflict, 409, "Conflict"),
    (errors.PreconditionFailed, 412, "Precondition failed"),
    (errors.PreconditionRequired, 428, "Precondition required"),
    (errors.TooMany, 429, "Too many requests"),
    (errors.Unavailable, 503, "Unavailable"),
)

_encode = msgspec.json.Encoder().encode


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    wrong: tuple[WrongField, ...] = (),
    request_id: str | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    return web.Response(
        status=status,
        body=_encode(
            Problem(
                title=title,
                status=status,
                detail=detail,
                message=detail,
                errors=wrong,
                request_id=request_id,
            )
        ),
        content_type=MEDIA_TYPE,
        headers=headers,
    )


def from_error(error: errors.VitrineError, request_id: str | None = None) -> web.Response:
    """The answer that the table gives for a domain error."""
    status, title = next(
        ((status, title) for kind, status, title in STATUS if isinstance(error, kind)),
        (500, "Internal error"),
    )
    headers: dict[str, str] = {}
    if isinstance(error, (errors.Unavailable, errors.TooMany)):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = 'Basic realm="vitrine", Bearer realm="vitrine"'
    wrong = (
        tuple(WrongField(e.field, e.message) for e in error.errors)
        if isinstance(error, errors.InvalidInput)
        else ()
    )
    return problem(
        status, title, error.message, wrong=wrong, request_id=request_id, headers=headers
    )
