"""Admin calls a token: bounded, told, and free again with time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from app.domain.errors import TooMany
from app.domain.merchant import Credential, MerchantId, Role
from app.http.application import build
from app.http.caller import CALLER, Caller
from app.http.health import Readiness
from app.http.middleware import TOLD
from app.http.operation import Operation
from app.http.rate_limit import RateLimit
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output


async def handle(request: web.Request) -> web.Response:
    return web.Response(text="done")


async def test_a_token_that_calls_too_often_waits() -> None:
    now = 100.0
    limit = RateLimit(3, 30.0, clock=lambda: now)
    operation = Operation("GET", "/", "get", "admin", "", handle)
    (limited,) = limit.limited([operation])

    async def call(token: str) -> tuple[int, dict[str, str]]:
        request = make_mocked_request("GET", "/")
        request[CALLER] = Caller(MerchantId("m"), Role.READER, token)
        try:
            return (await limited.handler(request)).status, request[TOLD]
        except TooMany as error:
            return error.retry_after, request[TOLD]

    for left in (2, 1, 0):
        status, told = await call("t1")
        assert (status, told["RateLimit-Limit"]) == (200, "3")
        assert told["RateLimit-Remaining"] == str(left)
    waits, told = await call("t1")
    assert (waits, told["RateLimit-Remaining"]) == (10, "0")
    assert (await call("t2"))[0] == 200, "each token for itself"
    now += 9.9
    assert (await call("t1"))[0] == 1
    now += 0.2
    assert (await call("t1"))[0] == 200
    now += 1_000
    assert (await call("t1"))[1]["RateLimit-Remaining"] == "2", "never more than the bound"


async def test_a_token_that_calls_too_often_is_told_when_to_come_back(
    aiohttp_client: Any, tmp_path: Path
) -> None:
    class Everybody:
        def token(self, secret: str) -> Credential:
            return Credential("t", MerchantId("m"), Role.READER, b"")

        def allowed_origins(self, key: str) -> None:
            return None

    operations = RateLimit(2, 30.0, clock=lambda: 0.0).limited(
        [Operation("GET", "/called", "get", "admin", "", handle)]
    )
    with (tmp_path / "log").open("wb") as log:
        client = await aiohttp_client(
            build(
                operations,
                authenticator=Everybody(),
                origins=Everybody(),
                readiness=Readiness(),
                metrics=Metrics(),
                output=Output(log.fileno()),
            )
        )
        answers = [
            await client.get("/called", headers={"Authorization": "Bearer t"}) for _ in range(3)
        ]
    told = [(a.status, a.headers["RateLimit-Remaining"]) for a in answers]
    assert told == [(200, "1"), (200, "0"), (429, "0")]
    assert answers[2].headers["Retry-After"] == "15"
    assert answers[2].content_type == "application/problem+json"
