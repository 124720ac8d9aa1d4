"""ETag and If-Match: a change is made only to the version that its author has seen."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from app.domain.errors import InvalidInput, PreconditionRequired
from app.http.operation import Parameter

IF_MATCH: Final = Parameter(
    name="If-Match",
    where="header",
    required=True,
    description='The ETag that was read, e.g. "3". `*`: whatever is there.',
    example='"3"',
)

_TAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*(?:,|$)')


def etag(version: int) -> str:
    """The strong entity tag of a version."""
    return f'"{version}"'


def expected_versions(request: web.Request) -> frozenset[int] | None:
    """The versions that If-Match allows; None: any (`*`).

    A tag that is none of ours matches nothing, as a weak one does: If-Match compares strongly.

    Raises:
        PreconditionRequired: there is no If-Match.
        InvalidInput: it does not parse.
    """
    header = request.headers.get("If-Match")
    if header is None:
        raise PreconditionRequired(
            "If-Match is missing: read the resource and send its ETag, so that no other change "
            "is overwritten"
        )
    header = header.strip()
    if header == "*":
        return None
    versions = set()
    position = 0
    while position < len(header):
        match = _TAG.match(header, position)
        if match is None:
            raise InvalidInput.field("If-Match", 'must be * or a list of ETags, e.g. "3"')
        weak = match.group().lstrip().startswith("W/")
        if match.group(1).isascii() and match.group(1).isdigit() and not weak:
            versions.add(int(match.group(1)))
        position = match.end()
    if not header:
        raise InvalidInput.field("If-Match", 'must be * or a list of ETags, e.g. "3"')
    return frozenset(versions)
