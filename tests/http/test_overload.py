"""More than the server can take, and clients that mean no good: what they get, and that the others
are served."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from app.domain.errors import Unauthenticated
from app.domain.merchant import Credential
from app.http import connection
from app.http import server as http_server
from app.http.admission import Admission
from app.http.application import build
from app.http.health import HealthHandler, Readiness
from app.http.operation import Operation, Security
from app.http.server import Limits, Server, listening_socket
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output

PODS = "/recommendations/v1/pods"
ASK = b"GET /recommendations/v1/pods/p?key=a HTTP/1.1\r\nHost: x\r\n\r\n"
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


class Everybody:
    def token(self, secret: str) -> Credential:
        raise Unauthenticated("unknown")

    def allowed_origins(self, key: str) -> tuple[str, ...] | None:
        return ()


class Door:
    """A client that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        self.send(data)
        return await self.answer()

    async def ended(self) -> bytes:
        """What comes until the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""


class House:
    def __init__(self, admission: Admission, port: int, metrics: Metrics) -> None:
        self.admission, self.port, self.metrics = admission, port, metrics
        self.answered = 0
        self.doors: list[Door] = []

    async def door(self) -> Door:
        door = Door(*await asyncio.open_connection("127.0.0.1", self.port))
        self.doors.append(door)
        return door

    async def recommend(self, _request: web.Request) -> web.Response:
        self.answered += 1
        return web.Response(text="x" * 4000)

    async def track(self, request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))


Open = Callable[..., Any]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        async def open_house(**options: Any) -> House:
            limits = {name: options.pop(name) for name in ("connections",) if name in options}
            clocks = {"clock": time.monotonic, "spent": time.process_time}
            admission = Admission(**{**clocks, "target": 0.0, **options})
            listening = listening_socket("127.0.0.1", 0)
            metrics = Metrics()
            house = House(admission, listening.getsockname()[1], metrics)
            readiness = Readiness()
            bounds = Limits(admission=admission, **limits)
            log = stack.enter_context((tmp_path / "log").open("wb"))
            application = build(
                (
                    Operation(
                        "GET", f"{PODS}/{{pod_id}}", "ask", "storefront", "", house.recommend,
                        Security.KEY,
                    ),
                    Operation(
                        "POST", "/v2/track", "track", "tracking", "", house.track, Security.KEY
                    ),
                    Operation("GET", "/token", "token", "admin", "", house.recommend),
                    *HealthHandler(readiness).operations(),
                ),
                authenticator=Everybody(),
                origins=Everybody(),
                readiness=readiness,
                metrics=metrics,
                output=Output(log.fileno()),
                limits=bounds,
            )  # fmt: skip
            server = Server(application, bounds)
            await server.start()
            await server.listen(listening)

            async def close() -> None:
                for door in house.doors:
                    door.writer.transport.abort()
                await server.stop(0.2)

            stack.push_async_callback(close)
            return house

        yield open_house


async def test_beyond_capacity_storefronts_are_refused_cheaply_and_nobody_else(
    opened: Open,
) -> None:
    house = await opened()
    house.admission.share = 1.0
    door = await house.door()
    for _ in range(3):
        status, headers, body = await door.ask(ASK)
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body)["status"] == 503
        assert headers["access-control-allow-origin"] == "*"
    assert (await door.ask(HEALTH))[0] == 200
    status, headers, body = await door.ask(ASK)  # by the handler's own door this time
    assert (status, headers["retry-after"], json.loads(body)["title"]) == (503, "1", "Unavailable")
    assert house.answered == 0
    house.admission.share = 0.0
    assert (await door.ask(ASK))[0] == 200


async def test_some_are_let_in_each_time_the_loop_comes_round(opened: Open) -> None:
    spent = itertools.count(0.0, 0.01)
    house = await opened(spent=lambda: next(spent))
    house.admission.share = 0.75
    doors = [await house.door() for _ in range(4)]
    found = []
    for _ in range(10):
        house.admission.waited(0.01)  # each takes more than there is: one is let in alone
        found += [(await door.ask(ASK))[0] for door in doors]
    assert found == [200, 503, 503, 503] * 10


async def test_a_request_in_pieces_is_one_request(opened: Open) -> None:
    """What follows the first piece looks like a request of its own, and is a header's value."""
    house = await opened()
    house.admission.share = 1.0
    door = await house.door()
    door.send(b"POST /v2/track?key=a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX: \r\n ")
    await asyncio.sleep(0.05)
    status, _, _ = await door.ask(b"GET /recommendations/v1/pods/p HTTP/1.1\r\nY: 1\r\n\r\n")
    assert status in (400, 503)  # the parser's, or the one refusal of the whole POST
    assert house.admission._unparsed == 0


async def test_a_key_has_its_rate(opened: Open) -> None:
    house = await opened(key_rate=2.0, clock=lambda: 5.0)
    door = await house.door()
    found = [await door.ask(ASK) for _ in range(3)]
    assert [status for status, _, _ in found] == [200, 200, 429]
    assert found[2][1]["retry-after"] == "1"
    assert (await door.ask(ASK.replace(b"key=a", b"key=b")))[0] == 200


async def test_one_connection_too_many_is_refused(opened: Open) -> None:
    house = await opened(connections=2)
    doors = [await house.door() for _ in range(2)]
    for door in doors:
        assert (await door.ask(ASK))[0] == 200
    third = await house.door()
    assert (await third.ended()).startswith(b"HTTP/1.1 503 ")
    doors[0].writer.close()
    while house.admission.connections > 1:
        await asyncio.sleep(0.01)
    assert (await (await house.door()).ask(ASK))[0] == 200


async def test_many_idle_connections_do_no_harm(opened: Open) -> None:
    house = await opened()
    for _ in range(300):
        await house.door()
    assert (await (await house.door()).ask(ASK))[0] == 200


async def test_a_thousand_requests_in_one_write_keep_nobody_waiting(opened: Open) -> None:
    house = await opened()
    greedy = await house.door()
    greedy.send(ASK * 1000)
    polite = await house.door()
    assert (await polite.ask(ASK))[0] == 200
    assert house.answered < 1000  # they take turns with everybody
    assert [(await greedy.answer())[0] for _ in range(1000)] == [200] * 1000


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(http_server, "LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "begun",
    [
        b"GET /recommendations/v1/pods/p?key=a HTTP/1.1\r\nHost: x\r\n",
        b"POST /v2/track?key=a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx",
    ],
    ids=["head", "body"],
)
async def test_a_client_that_drips_is_ended(opened: Open, begun: bytes) -> None:
    house = await opened()
    door = await house.door()
    door.send(begun)

    async def drip() -> None:
        while True:
            await asyncio.sleep(0.03)
            door.send(b"X" if b"POST" in begun else b"X: 1\r\n")

    dripping = asyncio.ensure_future(drip())
    try:
        await door.ended()  # else it waits for ever
    finally:
        dripping.cancel()
    assert (await (await house.door()).ask(ASK))[0] == 200


@pytest.mark.usefixtures("_impatient")
async def test_a_client_that_takes_no_answers_is_ended(opened: Open) -> None:
    """It asks again and again, thousands of times, and reads nothing."""
    house = await opened()
    door = await house.door()
    door.reader._transport.pause_reading()  # type: ignore[attr-defined]
    door.send(ASK * 20_000)
    while house.admission.connections:
        await asyncio.sleep(0.02)
    assert house.answered < 20_000
    assert (await (await house.door()).ask(ASK))[0] == 200


@pytest.mark.usefixtures("_impatient")
async def test_a_slow_but_steady_body_is_taken(opened: Open) -> None:
    house = await opened()
    door = await house.door()
    door.send(b"POST /v2/track?key=a HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n")
    for _ in range(20):
        await asyncio.sleep(0.04)
        door.send(b"x" * 2000)
    status, _, body = await door.answer()
    assert (status, body) == (200, b"40000")


async def test_a_token_that_is_no_ascii_is_refused(opened: Open) -> None:
    house = await opened()
    door = await house.door()
    for token in (b"\xff\xfe", b"dG9rZW4", "tökén".encode(), b"====", b"/" * 2000):
        ask = b"GET /token HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %b\r\n\r\n" % token
        assert (await door.ask(ask))[0] == 401


async def test_a_client_that_goes_away_leaves_no_stack(
    opened: Open, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    house = await opened()
    door = await house.door()
    door.send(b"POST /v2/track?key=a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
    await asyncio.sleep(0.1)
    door.writer.transport.abort()
    while house.admission.connections:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    log = "".join(capfd.readouterr()) + (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert (await (await house.door()).ask(ASK))[0] == 200
