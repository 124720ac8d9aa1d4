"""Idempotency-Key: a creating call that is sent again is answered as it was, and done once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import hdrs, web

from app.domain.errors import InvalidInput, VitrineError
from app.http.caller import caller
from app.http.operation import Parameter
from app.services.idempotency import IdempotencyKeys, RememberedAnswer

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"

IDEMPOTENCY_KEY: Final = Parameter(
    name=HEADER,
    where="header",
    description="Any text of your own, at most 200 characters, new for each call. A call that is "
    "sent again with its key within 24 hours is done once, and answered as before.",
    example="5b2a3c1e-7d4f-4a55-9a0f-0c6f6b1f2f1d",
)

_VALID = re.compile(r"[\x21-\x7e]{1,200}")
_KEPT_HEADERS: Final = (hdrs.CONTENT_TYPE, hdrs.ETAG, hdrs.LOCATION)


class Idempotency:
    """Wraps the creating calls of handlers."""

    def __init__(self, keys: IdempotencyKeys) -> None:
        self._keys = keys

    async def once(
        self, request: web.Request, perform: Callable[[], Awaitable[web.Response]]
    ) -> web.Response:
        """The answer of `perform`, or the one that was given to the same call before.

        Raises:
            InvalidInput: the key is not usable.
            Conflict: the key was used for another call, or such a call is on its way.
        """
        key = request.headers.get(HEADER)
        if key is None:
            return await perform()
        if _VALID.fullmatch(key) is None:
            raise InvalidInput.field(HEADER, "must be 1 to 200 visible ASCII characters")
        merchant = caller(request).merchant
        body = await request.read()
        call = f"{request.method} {request.path_qs} {request.headers.get(hdrs.IF_MATCH, '')}\n"
        digest = hashlib.sha256(call.encode() + body).digest()
        known = await self._keys.claim(merchant, key, digest)
        if known is not None:
            return web.Response(
                status=known.status, body=known.body, headers={**known.headers, REPLAYED: "true"}
            )
        try:
            answer = await perform()
        except VitrineError:
            await self._keys.release(merchant, key)  # nothing was changed
            raise
        headers = {str(n): answer.headers[n] for n in _KEPT_HEADERS if n in answer.headers}
        content = answer.body if isinstance(answer.body, bytes) else b""
        await self._keys.finish(merchant, key, RememberedAnswer(answer.status, content, headers))
        return answer
