"""The short way from the parser to the answer: as aiohttp's own, whatever comes, in what pieces and
order, and however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from app.domain.errors import Unavailable
from app.domain.event import Event
from app.http.admission import Admission
from app.http.application import build
from app.http.client_address import ClientAddress
from app.http.connection import SLOW_SECONDS
from app.http.server import Limits, Server, listening_socket
from app.http.storefront import Storefront, result_ids
from app.http.tracking import Tracking
from app.services.showing import Showing
from app.services.track import ACCEPTED, Receipt, Tracker
from app.telemetry import logs
from app.telemetry.output import Output
from tests.recommending_shop import KEY, RecommendingShop, after_latest, in_order
from tests.recommending_shop import after_seeds as after

ID = "X-Request-Id: r-1"


class Caller:
    """A client that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def ask(self, *request: bytes) -> tuple[int, dict[str, str], bytes]:
        for part in request:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0.01)
        return await self.answer()


class House:
    """One shop, served with the short way and without."""

    def __init__(
        self, shop: RecommendingShop, log: Path, server: Server, port: int, events: list[Event]
    ) -> None:
        self.shop, self.log, self.server, self.port = shop, log, server, port
        self.events = events
        self.callers: list[Caller] = []

    async def caller(self) -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port))
        self.callers.append(caller)
        return caller

    @property
    def long_way(self) -> int:
        """Requests that took it."""
        return self.server._runner.server.requests_count

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def shop() -> RecommendingShop:
    shop = RecommendingShop(30, budget=0.3)
    shop.strategy("popular", in_order(30))
    shop.strategy("similar", after(30))
    shop.strategy("personal", after_latest(30))
    shop.pod("home", "popular", num_results=3)
    shop.pod("pdp", "similar", "popular", num_results=3)
    shop.pod("for_you", "personal", "popular", num_results=3)
    return shop


class Tracked:
    """Events that were kept."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def track(self, events: Sequence[Event]) -> Sequence[Receipt]:
        await asyncio.sleep(0.01)
        self.events += events
        if any(event.payload.get("lost") for event in events):
            raise Unavailable("the event log is away")
        return [ACCEPTED for _ in events]


@asynccontextmanager
async def opened(
    folder: Path, *, short: bool = True, idle: float = 75.0, **options: Any
) -> AsyncIterator[House]:
    folder.mkdir(exist_ok=True)
    of = shop()
    await of.serving.refresh()
    admission = Admission(
        **{"clock": time.monotonic, "spent": time.process_time, "target": 0.0, **options}
    )
    limits = Limits(admission=admission)
    path = folder / "log"
    with path.open("wb") as log:
        tracked = Tracked()
        storefront = Storefront(of.serving, of.service, result_ids())
        tracking = Tracking(
            of.serving,
            cast(Tracker, tracked),
            address=ClientAddress("127.0.0.0/8"),
            clock=lambda: 1_800_000_000.0,
        )
        application = build(
            (*storefront.operations(), *tracking.operations()),
            authenticator=of.serving,
            origins=of.serving,
            readiness=of.readiness,
            metrics=of.metrics,
            output=Output(log.fileno()),
            limits=limits,
        )
        server = Server(application, limits)
        server._arguments["keepalive_timeout"] = idle
        if not short:
            server._direct = None
        await server.start()
        listening = listening_socket("127.0.0.1", 0)
        port = listening.getsockname()[1]
        await server.listen(listening)
        house = House(of, path, server, port, tracked.events)
        try:
            yield house
        finally:
            for caller in house.callers:
                caller.writer.transport.abort()
            await server.stop(0.0)


def get(pod: str, query: str = f"key={KEY}&i=c-1&s=1", *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} /recommendations/v1/pods/{pod}?{query} HTTP/1.1", "Host: x", ID, *headers]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


SHORT = [
    get("home"),
    get("home"),
    get("home"),  # kept from the second on
    get("pdp", f"key={KEY}&item_id=i3&num_results=2&c=1.0&_dt=5"),
    get("for_you", f"key={KEY}&ui=u-1"),
    get("home", f"key={KEY}", "Origin: https://shop.example", "Accept: */*"),
    get("home", f"k=1&key={KEY.replace('-', '%2D')}", "Origin: https://shop.example"),
    get("none"),
    get("home", ""),
    get("home", "key=wrong", "Origin: https://shop.example"),
    get("home", f"key={KEY}&num_results=many"),
    get("home", f"key={KEY}&filters%5Bcolor%5D=red&filters[color]=%C3%A9"),
    get("home", f"key={KEY}", "Content-Length: 0"),
]
LONG = [
    get("h%6Fme"),
    get("home", f"key={KEY}", "Expect: nothing"),
    get("home", f"key={KEY}", "Content-Encoding: gzip"),
    get("home/"),
    get("home", method="POST"),
    get("home", f"key={KEY}", "Connection: close"),
]


def act(action: str, query: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST /v2/behavioral_action/{action}?{query} HTTP/1.1", "Host: x", ID, *headers]
    if not any("Transfer-Encoding" in header for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1") + body


WHO = f"key={KEY}&i=c-1&s=1&_dt=1799999999000"
CLICK = b'{"item_id":"i1","result_id":"r","pod_id":"home","i":"c-2","beacon":true}'
ACTED = [
    act("recommendation_result_click", WHO, CLICK, "Content-Type: text/plain"),
    act("recommendation_result_click", WHO, CLICK, "Origin: https://shop.example", "DNT: 1"),
    act("recommendation_result_click", f"{WHO}&consent=true", CLICK, "DNT: 1"),
    act("item_detail_load", f"{WHO}&item_id=i%201", b""),
    act("item_detail_load", f"{WHO}&item_id=i1", b"", "X-Forwarded-For: 10.0.0.1"),
    act("search_submit", WHO, b'{"search_term":"\xc3\xa9t\xc3\xa9"}'),
    act("search_submit", WHO, b"2\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    act("nonsense", WHO, b"{}"),
    act("item_detail_load", WHO, b'{"item_id":7'),
    act("item_detail_load", WHO, b'{"x":' + b"[" * 70),
    act("item_detail_load", "i=1", b""),
    act("item_detail_load", "key=wrong&i=1", b""),
    act("item_detail_load", "&".join(["a=b"] * 300), b""),
    act("item_detail_load", f"{WHO}&item_id=i2&lost=1", b""),
]


async def test_both_ways_keep_the_same_events_and_answer_alike(tmp_path: Path) -> None:
    async with (
        opened(tmp_path / "short") as short,
        opened(tmp_path / "long", short=False) as long,
    ):
        callers = await short.caller(), await long.caller()
        for request in ACTED:
            answers = [await caller.ask(request) for caller in callers]
            assert comparable(answers[0]) == comparable(answers[1]), request
        assert (short.long_way, long.long_way) == (0, len(ACTED))
        assert short.events == long.events
        assert len(short.events) > 4
        too_large = act("item_detail_load", WHO, b" " * (256 * 1024 + 1))
        answers = [await caller.ask(too_large) for caller in callers]
        assert answers[0][0] == answers[1][0] == 413
        untimed = [
            [{**line, "ms": 0, "time": ""} for line in house.lines()] for house in (short, long)
        ]
        assert untimed[0] == untimed[1]


async def test_a_body_that_comes_in_pieces_is_read_to_its_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        caller = await house.caller()
        request = ACTED[0]
        assert (await caller.ask(request[:-40], request[-40:-9], request[-9:]))[0] == 200
        assert (await caller.ask(request))[0] == 200
        assert house.events[0] == house.events[1]
        assert house.long_way == 1


def comparable(answer: tuple[int, dict[str, str], bytes]) -> Any:
    status, headers, body = answer
    assert headers.pop("date").endswith("GMT")
    return status, headers, re.sub(rb'"result_id":"\w{32}"', b'"result_id":""', body)


async def test_both_ways_answer_alike(tmp_path: Path) -> None:
    async with (
        opened(tmp_path / "short") as short,
        opened(tmp_path / "long", short=False) as long,
    ):
        callers = await short.caller(), await long.caller()
        for request in SHORT:
            answers = [await caller.ask(request) for caller in callers]
            assert comparable(answers[0]) == comparable(answers[1]), request
        assert (short.long_way, long.long_way) == (0, len(SHORT))
        assert short.shop.service.prepared_lists.hits >= 2
        for number, request in enumerate(LONG, 1):
            callers = await short.caller(), await long.caller()
            answers = [await caller.ask(request) for caller in callers]
            assert comparable(answers[0]) == comparable(answers[1]), request
            assert short.long_way == number, request
        # What is told of them is the same, too.
        untimed = [
            [{**line, "ms": 0, "time": ""} for line in house.lines()] for house in (short, long)
        ]
        assert untimed[0] == untimed[1]
        assert len(untimed[0]) == len(SHORT) + len(LONG) - 1  # aiohttp's own refusal: 417
        for status in ("200", "400", "401", "404"):
            labels = {"method": "GET", "route": "/recommendations/v1/pods/{pod_id}"}
            counts = [
                house.shop.metrics.registry.get_sample_value(
                    "vitrine_http_requests_total", {**labels, "status": status}
                )
                for house in (short, long)
            ]
            assert counts[0] == counts[1] > 0


async def test_a_defect_is_answered_counted_and_logged(tmp_path: Path) -> None:
    logs.configure("error", Output(os.open(tmp_path / "errors", os.O_CREAT | os.O_WRONLY)))
    async with opened(tmp_path) as house:

        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a defect")

        caller = await house.caller()
        for count, name in enumerate(("prepared", "begin", "finish"), 5):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(house.shop.service, name, fail)
                # Its items have to be asked for, where it comes so far: then there is a rest of it.
                patch.setattr(Showing, "at_once", lambda *_: None)
                query = f"key={KEY}&num_results={count}"
                status, headers, body = await caller.ask(get("home", query))
            assert (status, headers["x-request-id"], b"a defect" in body) == (500, "r-1", False)
        assert (await caller.ask(get("home")))[0] == 200
        failures = house.shop.metrics.registry.get_sample_value(
            "vitrine_http_unexpected_errors_total", {"route": "/recommendations/v1/pods/{pod_id}"}
        )
        assert (failures, house.long_way) == (3, 0)
    logs.configure("info")
    assert (tmp_path / "errors").read_text().count("request_failed") == 3


async def test_a_request_that_comes_in_pieces_and_several_in_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        caller = await house.caller()
        one = get("home")
        assert (await caller.ask(one[:9], one[9:60], one[60:]))[0] == 200
        assert house.long_way == 0
        caller.writer.write(get("pdp", f"key={KEY}&item_id=i3") + get("none") + one)
        found = [await caller.answer() for _ in range(3)]
        assert [status for status, _, _ in found] == [200, 404, 200]
        assert json.loads(found[2][2])["response"]["pod"]["id"] == "home"


async def test_what_comes_while_an_answer_is_on_its_way_waits_for_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        house.shop.history.stalled = True  # until its budget is spent
        caller = await house.caller()
        caller.writer.write(get("for_you", f"key={KEY}&ui=u-1"))
        await until(lambda: house.shop.history.reads == 1)
        second = get("home")
        caller.writer.write(second[:30])
        await asyncio.sleep(0.01)
        caller.writer.write(second[30:] + get("pdp", f"key={KEY}&item_id=i3"))
        found = [json.loads((await caller.answer())[2])["response"] for _ in range(3)]
        assert [one["pod"]["id"] for one in found] == ["for_you", "home", "pdp"]
        assert found[0]["degraded"] == ["history"]


async def test_a_flood_behind_an_answer_is_not_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        house.shop.history.stalled = True
        caller = await house.caller()
        caller.writer.write(get("for_you", f"key={KEY}&ui=u-1"))
        await until(lambda: house.shop.history.reads == 1)
        many = 1_500
        caller.writer.write(get("none") * many)
        (protocol,) = house.server._runner.server.connections
        await until(lambda: protocol._held_back)
        assert sum(map(len, protocol._held)) < 1024 * 1024
        statuses = [(await caller.answer())[0] for _ in range(many + 1)]
        assert statuses == [200] + [404] * many


async def test_who_goes_while_an_answer_is_on_its_way_disturbs_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        house.shop.history.stalled = True
        caller = await house.caller()
        caller.writer.write(get("for_you", f"key={KEY}&ui=u-1"))
        await until(lambda: house.shop.history.reads == 1)
        caller.writer.transport.abort()
        await until(lambda: len(house.lines()) == 1)
        await until(lambda: house.server.connections == 0)
        assert (await (await house.caller()).ask(get("home")))[0] == 200


async def test_an_answer_on_its_way_is_given_before_the_server_stops(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        house.shop.history.stalled = True
        callers = [await house.caller() for _ in range(2)]
        for caller in callers:
            caller.writer.write(get("for_you", f"key={KEY}&ui=u-1"))
        await until(lambda: house.shop.history.reads == 2)
        house.shop.readiness.draining = True
        stopping = asyncio.create_task(house.server.stop(5.0))
        for caller in callers:
            assert (await caller.answer())[0] == 200
        await stopping
        for caller in callers:
            assert await caller.reader.read() == b""


async def test_who_comes_while_the_server_drains_is_told_to_go(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        caller = await house.caller()
        assert (await caller.ask(get("home")))[0] == 200
        house.shop.readiness.draining = True
        status, headers, _ = await caller.ask(get("home"))
        assert (status, headers["connection"]) == (200, "close")


async def test_connections_are_kept_while_used_and_closed_when_idle(tmp_path: Path) -> None:
    async with opened(tmp_path, idle=0.5) as house:
        caller = await house.caller()
        began = time.monotonic()
        while time.monotonic() - began < 1.2:
            assert (await caller.ask(get("home")))[0] == 200
            await asyncio.sleep(0.1)
        (protocol,) = house.server._runner.server.connections
        now = asyncio.get_running_loop().time()
        assert not protocol.look(now)
        assert not protocol.look(now + SLOW_SECONDS + 1), "it waits for nothing from its client"
        assert await asyncio.wait_for(caller.reader.read(), 20) == b""


async def test_refusals_of_overload_and_of_a_keys_rate(tmp_path: Path) -> None:
    async with opened(tmp_path, key_rate=3) as house:
        caller = await house.caller()
        found = [await caller.ask(get("home")) for _ in range(5)]
        assert [status for status, _, _ in found].count(429) >= 1
        assert found[-1][1]["retry-after"] == "1"
        assert house.long_way == 0
        house.server._limits.admission.key_rate = 0
        house.server._limits.admission.share = 0.5
        house.server._limits.admission._most = 4  # no measurement is made that sets it anew
        statuses = [(await caller.ask(get("home")))[0] for _ in range(10)]
        assert statuses == [200] * 4 + [503] * 6
        assert house.long_way == 1  # the first: what came before it was not looked at


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["/a/{b}/{c}", "/a/b", "/a/{b:.*}"])
def test_only_a_last_name_can_be_direct(path: str, tmp_path: Path) -> None:
    from dataclasses import replace

    of = shop()
    storefront = Storefront(of.serving, of.service, result_ids())
    operations = [replace(one, path=path) for one in storefront.operations()]
    with pytest.raises(ValueError, match="last part"), (tmp_path / "log").open("wb") as log:
        build(
            operations,
            authenticator=of.serving,
            origins=of.serving,
            readiness=of.readiness,
            metrics=of.metrics,
            output=Output(log.fileno()),
        )
