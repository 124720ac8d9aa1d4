"""Admin calls a token: bounded, told, and free again with time."""

from __future__ import annotations

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from app.domain.merchant import MerchantId, Role
from app.http.caller import CALLER, Caller
from app.http.operation import Operation
from app.http.rate_limit import RateLimit


async def handle(request: web.Request) -> web.Response:
    return web.Response(text="done")


async def test_a_token_that_calls_too_often_waits() -> None:
    now = 100.0
    limit = RateLimit(3, 30.0, clock=lambda: now)
    operation = Operation("GET", "/", "get", "admin", "", handle)
    (limited,) = limit.limited([operation])

    async def call(token: str) -> web.StreamResponse:
        request = make_mocked_request("GET", "/")
        request[CALLER] = Caller(MerchantId("m"), Role.READER, token)
        return await limited.handler(request)

    for left in (2, 1, 0):
        response = await call("t1")
        assert response.status == 200
        assert response.headers["RateLimit-Limit"] == "3"
        assert response.headers["RateLimit-Remaining"] == str(left)
    refused = await call("t1")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "10")
    assert refused.headers["RateLimit-Remaining"] == "0"
    assert (await call("t2")).status == 200, "each token for itself"
    now += 9.9
    assert (await call("t1")).status == 429
    now += 0.2
    assert (await call("t1")).status == 200
    now += 1_000
    assert (await call("t1")).headers["RateLimit-Remaining"] == "2", "never more than the bound"
