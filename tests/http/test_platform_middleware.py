"""What surrounds every operation."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, encode_basic_auth, hdrs, web

from app.domain import errors
from app.domain.merchant import Credential, MerchantId, Role
from app.http.application import build
from app.http.caller import caller, read_json
from app.http.health import Readiness
from app.http.middleware import canonical
from app.http.operation import Operation, Security
from app.http.server import Limits, Server, listening_socket
from app.telemetry import logs
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output


class Tokens:
    """Two tokens, a reader's and an administrator's."""

    def token(self, secret: str) -> Credential:
        role = {"r-secret": Role.READER, "a-secret": Role.ADMINISTRATOR}.get(secret)
        if role is None:
            raise errors.Unauthenticated("the token is not known")
        return Credential(f"t-{role}", MerchantId("demo"), role, b"")

    def allowed_origins(self, key: str) -> tuple[str, ...] | None:
        return {"open": (), "closed": ("https://shop.example",)}.get(key)


class Thing(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    count: int = 1
    parts: list[Thing] = []


@dataclass
class Served:
    client: ClientSession
    port: int
    metrics: Metrics
    readiness: Readiness
    log: Callable[[], list[dict[str, Any]]]
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, method: str, route: str, status: int) -> float:
        return (
            self.metrics.registry.get_sample_value(
                "vitrine_http_requests_total",
                {"method": method, "route": route, "status": str(status)},
            )
            or 0.0
        )


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    output = logs.configure("info", Output(writing))
    pieces = b""

    def log() -> list[dict[str, Any]]:
        nonlocal pieces
        while True:
            try:
                piece = os.read(reading, 1 << 20)
            except BlockingIOError:
                break
            pieces += piece
        return [json.loads(line) for line in pieces.splitlines()]

    async def thing(request: web.Request) -> web.Response:
        body = await read_json(request, Thing)
        return web.json_response({"id": body.id, "by": caller(request).token_id})

    async def fail(_request: web.Request) -> web.Response:
        raise RuntimeError("postgresql://vitrine_app:hunter2@db/vitrine is away")

    async def domain(request: web.Request) -> web.Response:
        raise {
            "NotFound": errors.NotFound("no such pod"),
            "Conflict": errors.Conflict("exists already"),
            "Unavailable": errors.Unavailable("the store is away", retry_after=7),
            "PreconditionFailed": errors.PreconditionFailed("stale"),
            "PreconditionRequired": errors.PreconditionRequired("send If-Match"),
        }[request.match_info["name"]]

    async def pod(request: web.Request) -> web.Response:
        line = canonical(request)
        line.merchant, line.pod, line.strategy = "demo", request.match_info["pod_id"], "similar"
        return web.Response(body=b"{}")

    async def wait(_request: web.Request) -> web.Response:
        served.entered.set()
        await served.release.wait()
        return web.Response(body=b"done")

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half of it")
        raise RuntimeError("in the middle")

    writers = frozenset({Role.ADMINISTRATOR})
    operations = (
        Operation("POST", "/things", "makeThing", "admin", "", thing, roles=writers, body=Thing),
        Operation("PUT", "/small", "small", "admin", "", thing, body=Thing, max_body_bytes=100),
        Operation("GET", "/fail", "fail", "admin", "", fail, Security.NONE),
        Operation("GET", "/domain/{name}", "domain", "admin", "", domain, Security.NONE),
        Operation("GET", "/pods/{pod_id}", "pod", "storefront", "", pod, Security.KEY),
        Operation("POST", "/pods/{pod_id}", "track", "tracking", "", pod, Security.KEY),
        Operation("GET", "/wait", "wait", "admin", "", wait, Security.NONE),
        Operation("GET", "/half", "half", "admin", "", half, Security.NONE),
    )
    metrics = Metrics()
    readiness = Readiness()
    limits = Limits(body_bytes=10_000, line_bytes=4_000, header_bytes=2_000, headers=50)
    tokens = Tokens()
    application = build(
        operations,
        authenticator=tokens,
        origins=tokens,
        readiness=readiness,
        metrics=metrics,
        output=output,
        limits=limits,
    )
    server = Server(application, limits)
    await server.start()
    listening = listening_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    await server.listen(listening)
    async with ClientSession(f"http://127.0.0.1:{port}") as client:
        served = Served(client, port, metrics, readiness, log)
        yield served
    await server.stop(1)
    output.close()
    logs.configure("info")
    os.close(reading)
    os.close(writing)


ADMINISTRATOR = {"Authorization": "Bearer a-secret"}


async def test_a_request_id_that_is_valid_is_kept_and_any_other_is_replaced(served: Served) -> None:
    kept = await served.client.get("/pods/home", headers={"X-Request-Id": "shop-7.a:B_c"})
    assert kept.headers["X-Request-Id"] == "shop-7.a:B_c"
    for bad in ("", "with space", "a;b", "x" * 129, '"}'):
        made = (await served.client.get("/pods/home", headers={"X-Request-Id": bad})).headers
        assert made["X-Request-Id"] not in ("", bad)
    ids = {(await served.client.get("/pods/home")).headers["X-Request-Id"] for _ in range(50)}
    assert len(ids) == 50


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Digest a-secret"}, 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": encode_basic_auth("r-secret", "")}, 403),
        ({"Authorization": encode_basic_auth("a-secret", "")}, 200),
        ({"Authorization": "bearer a-secret"}, 200),
    ],
)
async def test_a_token_is_asked_for_by_role(
    served: Served, headers: dict[str, str], status: int
) -> None:
    answer = await served.client.post("/things", json={"id": "a"}, headers=headers)
    body = await answer.json()
    assert answer.status == status, body
    if status == 200:
        assert body == {"id": "a", "by": "t-administrator"}
        return
    assert answer.content_type == "application/problem+json"
    assert (body["status"], body["message"]) == (status, body["detail"])
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert "secret" not in body["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ('{"id": 1}', "/id"),
        ("{}", "/id"),
        ('{"id": "a", "extra": 1}', "/extra"),
        ('{"id": "a", "parts": [{"id": "b"}, {"id": "c", "count": "x"}]}', "/parts/1/count"),
        ('{"id": "a", "parts": [{}]}', "/parts/0/id"),
        ("{", ""),
        ("", ""),
        ("[]", ""),
        (b'{"id": "\xff"}', ""),
        ('{"id": "a", "parts": ' + "[" * 500 + "]" * 500 + "}", ""),
    ],
)
async def test_a_wrong_body_is_named_by_its_pointer(
    served: Served, body: str | bytes, pointer: str
) -> None:
    answer = await served.client.post("/things", data=body, headers=ADMINISTRATOR)
    problem = await answer.json()
    assert answer.status in (400, 413)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_brackets_in_strings_are_no_depth(served: Served) -> None:
    text = json.dumps({"id": '\\"[{' * 300})
    answer = await served.client.post("/things", data=text, headers=ADMINISTRATOR)
    assert answer.status == 200


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("NotFound", 404),
        ("Conflict", 409),
        ("PreconditionFailed", 412),
        ("PreconditionRequired", 428),
        ("Unavailable", 503),
    ],
)
async def test_domain_errors_become_problems(served: Served, name: str, status: int) -> None:
    answer = await served.client.get(f"/domain/{name}")
    body = await answer.json()
    assert (answer.status, body["status"]) == (status, status)
    assert body["request_id"] == answer.headers["X-Request-Id"]
    assert answer.headers.get("Retry-After") == ("7" if status == 503 else None)


async def test_a_defect_tells_the_log_and_nobody_else(served: Served) -> None:
    answer = await served.client.get("/fail")
    text = await answer.text()
    assert answer.status == 500
    assert "hunter2" not in text
    assert "RuntimeError" not in text
    failed = next(line for line in served.log() if line["event"] == "request_failed")
    assert failed["request_id"] == answer.headers["X-Request-Id"]
    assert "RuntimeError" in failed["exception"]
    assert "hunter2" not in failed["exception"]
    assert served.count("GET", "/fail", 500) == 1


async def test_an_answer_that_breaks_off_is_cut_not_ended(served: Served) -> None:
    answer = await served.client.get("/half")
    with pytest.raises(Exception, match=r"payload|disconnected|closed"):
        await answer.read()


async def test_one_canonical_line_a_request_by_route(served: Served) -> None:
    hostile = 'home%0A"level":"info"'
    await served.client.get(f"/pods/{hostile}")
    await served.client.get("/nowhere/at/all?secret=1")
    lines = [line for line in served.log() if line["event"] == "request"]
    assert [line["route"] for line in lines] == ["/pods/{pod_id}", "(unmatched)"]
    first = lines[0]
    assert first["pod"] == 'home\n"level":"info"'
    assert (first["merchant"], first["strategy"], first["status"]) == ("demo", "similar", 200)
    assert first["ms"] > 0
    assert "secret" not in json.dumps(lines[1])
    assert served.count("GET", "/pods/{pod_id}", 200) == 1
    assert served.count("*", "(unmatched)", 404) == 1


async def test_unknown_addresses_and_methods_are_problems(served: Served) -> None:
    missing = await served.client.get("/nowhere")
    assert (missing.status, missing.content_type) == (404, "application/problem+json")
    wrong = await served.client.delete("/things")
    assert (wrong.status, wrong.content_type) == (405, "application/problem+json")
    assert wrong.headers["Allow"] == "POST"
    head = await served.client.head("/pods/home")
    assert head.status == 200


async def test_bodies_are_limited_by_operation(served: Served) -> None:
    def chunks(size: int) -> AsyncIterator[bytes]:
        async def generate() -> AsyncIterator[bytes]:
            for _ in range(size // 10):
                yield b"x" * 10

        return generate()

    put, post = served.client.put, served.client.post
    fits = await put("/small", json={"id": "a"}, headers=ADMINISTRATOR)
    assert fits.status == 200
    for data in (b"x" * 101, chunks(200)):
        answer = await put("/small", data=data, headers=ADMINISTRATOR)
        assert (answer.status, answer.content_type) == (413, "application/problem+json")
    assert (await post("/things", data=b"x" * 101, headers=ADMINISTRATOR)).status == 400
    for data in (b"x" * 10_001, chunks(20_000)):
        assert (await post("/things", data=data, headers=ADMINISTRATOR)).status == 413


async def test_a_decompression_bomb_is_refused(served: Served) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    answer = await served.client.post(
        "/things", data=bomb, headers={**ADMINISTRATOR, "Content-Encoding": "gzip"}
    )
    assert answer.status == 413
    broken = await served.client.post(
        "/things", data=b"no gzip", headers={**ADMINISTRATOR, "Content-Encoding": "gzip"}
    )
    assert broken.status == 400


@pytest.mark.parametrize(
    "target",
    [
        "GET /pods/home?x=" + "y" * 5000 + " HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /pods/home HTTP/1.1\r\nHost: a\r\nX-Long: " + "y" * 3000 + "\r\n\r\n",
        "GET /pods/home HTTP/1.1\r\nHost: a\r\n" + "X-Many: 1\r\n" * 60 + "\r\n",
        "\x00\x01 nonsense\r\n\r\n",
    ],
)
async def test_oversized_and_hostile_requests_are_refused(served: Served, target: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(target.encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400")), answer[:80]
    assert b"problem+json" in answer
    assert b"yyy" not in answer
    assert b"Python" not in answer
    assert (await served.client.get("/pods/home")).status == 200


async def test_browsers_may_call_storefront_addresses_from_allowed_origins(served: Served) -> None:
    shop, other = "https://shop.example", "https://other.example"
    client = served.client

    async def ask(key: str, origin: str, method: str = "GET") -> tuple[int, str | None]:
        answer = await client.request(
            method, f"/pods/home?key={key}", headers={hdrs.ORIGIN: origin}
        )
        return answer.status, answer.headers.get(hdrs.ACCESS_CONTROL_ALLOW_ORIGIN)

    assert await ask("open", other) == (200, other)
    assert await ask("closed", shop) == (200, shop)
    assert (await ask("closed", other))[0] == 403
    assert await ask("open", other, "OPTIONS") == (204, other)
    assert (await ask("closed", other, "OPTIONS"))[0] == 403
    asked = await client.options("/pods/home?key=open", headers={hdrs.ORIGIN: shop})
    assert asked.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] == "GET, POST"
    assert (await client.options("/things", headers={hdrs.ORIGIN: shop})).status == 405
    token = await client.post(
        "/things", json={"id": "a"}, headers={**ADMINISTRATOR, hdrs.ORIGIN: shop}
    )
    assert hdrs.ACCESS_CONTROL_ALLOW_ORIGIN not in token.headers


async def test_a_draining_server_answers_and_closes(served: Served) -> None:
    asking = asyncio.ensure_future(served.client.get("/wait"))
    await served.entered.wait()
    served.readiness.draining = True
    served.release.set()
    answer = await asking
    assert await answer.text() == "done"
    assert answer.headers["Connection"] == "close"
