"""`explain=true` on a storefront request: the answer, and why it is as it is. Token only."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from app.domain.errors import Forbidden, InvalidInput
from app.domain.recommendation import RecommendationRequest
from app.http.admin_wire import READERS
from app.http.caller import Authenticator, authenticate
from app.http.operation import Parameter
from app.services.explain import Explain
from app.services.snapshot import ServingSnapshot

EXPLAIN: Final = "explain"
WHY_NOT: Final = "why_not"
PARAMETERS: Final = (
    Parameter(
        EXPLAIN,
        bool,
        description="true: also say why the list is as it is, under `explanation`. Takes a token "
        "of the roles reader, merchandiser or administrator",
    ),
    Parameter(
        WHY_NOT,
        str,
        description="With `explain=true`: say the first reason that this item is absent",
    ),
)

_encode = msgspec.json.Encoder().encode


class Explanations:
    def __init__(self, explain: Explain, authenticator: Authenticator) -> None:
        self._explain = explain
        self._authenticator = authenticator

    async def answer(
        self,
        request: web.Request,
        snapshot: ServingSnapshot,
        asked: RecommendationRequest,
        result_id: str,
    ) -> web.Response | None:
        """The answer; None where no explanation is asked for.

        Raises:
            InvalidInput: `explain` is neither true nor false, or `why_not` comes without it.
            Unauthenticated: there is no token, or it is not known.
            Forbidden: the token is another merchant's, or its role may not.
        """
        text = request.query.get(EXPLAIN, "false").lower()
        why_not = request.query.get(WHY_NOT)
        if text not in ("true", "false"):
            raise InvalidInput.field(EXPLAIN, "must be true or false")
        if text == "false":
            if why_not is not None:
                raise InvalidInput.field(WHY_NOT, "needs explain=true")
            return None
        by = authenticate(request.headers.get(hdrs.AUTHORIZATION), self._authenticator)
        if by.merchant != snapshot.merchant or by.role not in READERS:
            raise Forbidden(f"{EXPLAIN}: the token may not look into this index")
        body, explanation = await self._explain.explain(snapshot, asked, why_not=why_not)
        answer: dict[str, Any] = {**body, "result_id": result_id, "explanation": explanation}
        return web.Response(body=_encode(answer), content_type="application/json")
