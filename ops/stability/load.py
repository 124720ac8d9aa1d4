"""Open-loop load: requests go out when they are meant to, whether earlier ones were answered or
not, and each is timed from when it was meant to go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

TIMEOUT = 0.5  # seconds that a shop's page waits for recommendations
EVENT_TIMEOUT = 10.0
EVENTS = 0.15  # of the requests
LAG = 0.05  # seconds that the generator stands still, that are worth telling
MOST = 2_000  # requests under way at once; one more has failed: shops are not so many
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by RST, so that no port is kept
_ids = itertools.count()


CUT = "cut"


class Cut(ConnectionError):
    """The connection ended after the request was sent, before its answer."""


@dataclass(slots=True)
class Sample:
    at: float  # when it was meant to be sent, seconds since the load began
    seconds: float
    status: int  # 0: no answer
    kind: str  # recommend, event
    degraded: bool = False
    why: str = ""  # of no answer; CUT: its connection ended
    late: float = 0.0  # of `seconds`: until the generator sent it
    port: int = 0  # of its connection, on this side; 0: it had none


@dataclass
class Record:
    """What came of a load."""

    samples: list[Sample] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)  # ids of events
    lags: list[tuple[float, float]] = field(default_factory=list)
    """When the generator itself stood still, and for how long: seconds, LAG or more."""
    workers: dict[int, int] = field(default_factory=dict)  # pid by `Sample.port`
    began: float = 0.0  # Unix seconds

    def of(self, kind: str, start: float = 0.0, end: float = float("inf")) -> list[Sample]:
        return [s for s in self.samples if s.kind == kind and start <= s.at < end]


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.waiting: asyncio.Future[tuple[int, bytes, bytes]] | None = None
        self.closes = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a stream

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, rest = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if len(rest) < length:
            return
        self.closes = b"connection: close" in lower
        self.buffer = b""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result((int(head[9:12]), head, rest))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.transport = None
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(Cut())

    @property
    def port(self) -> int:
        if self.transport is None:
            return 0
        return int(self.transport.get_extra_info("sockname")[1])

    def abort(self) -> None:
        if self.transport is not None:
            with contextlib.suppress(OSError):
                own = self.transport.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


@dataclass(slots=True)
class Trip:
    """What is known of a request whatever came of it."""

    sent: float = 0.0  # of time.perf_counter; 0: it was not
    port: int = 0


class Client:
    """Keeps connections open and reuses the one that was free last. It tries nothing again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: deque[_Connection] = deque()

    async def ask(
        self, request: bytes, timeout: float, trip: Trip | None = None
    ) -> tuple[int, bytes, bytes]:
        trip = Trip() if trip is None else trip
        loop = asyncio.get_running_loop()
        connection: _Connection | None = None
        while self._free and connection is None:
            candidate = self._free.pop()
            if candidate.transport is not None and not candidate.transport.is_closing():
                connection = candidate
        async with asyncio.timeout(timeout):
            if connection is None:
                connection = await self._connect()
            connection.waiting = loop.create_future()
            assert connection.transport is not None
            trip.port = connection.port
            connection.transport.write(request)
            trip.sent = time.perf_counter()
            try:
                answer = await connection.waiting
            except asyncio.CancelledError:
                connection.abort()
                raise
        if connection.closes and connection.transport is not None:
            connection.transport.close()
        elif connection.transport is not None and answer[0] == HTTPStatus.SERVICE_UNAVAILABLE:
            self._free.appendleft(connection)  # who was told to come later does not come next
        elif connection.transport is not None:
            self._free.append(connection)
        return answer

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(_Connection, "127.0.0.1", self.port)
        return made

    def close(self) -> None:
        for connection in self._free:
            connection.abort()
        self._free.clear()


@dataclass
class Shop:
    """What is asked for."""

    port: int
    key: str
    token: str  # base64 of `token:`
    items: int
    pods: tuple[str, ...] = ("home", "pdp", "for_you")
    terms: tuple[str, ...] = ()  # where a strategy does what a term says
    share: float = 0.5  # of the requests, that have one
    serving: Callable[[], Mapping[int, int]] = dict  # the worker's pid by the client's port

    def recommendation(self) -> bytes:
        pod = random.choice(self.pods)
        query = f"key={self.key}&i=c{random.randrange(500)}&s=1&num_results=8"
        if pod == "pdp":
            query += f"&item_id=p{random.randrange(self.items)}"
        if self.terms and random.random() < self.share:
            query += f"&term={random.choice(self.terms)}"
        return f"GET /recommendations/v1/pods/{pod}?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    def event(self, id_: str) -> bytes:
        event = {"type": "view", "id": id_, "item_id": f"ev-{id_}", "client_id": f"c{id_}"}
        body = json.dumps([event]).encode()
        return (
            b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Basic %b\r\nContent-Length: %d\r\n\r\n%b"
            % (self.token.encode(), len(body), body)
        )


class Load:
    """A rate of requests, a share of which are events. `start`, `stop`, `record`."""

    def __init__(
        self, shop: Shop, rate: float, events: float = EVENTS, *, timeout: float = TIMEOUT
    ) -> None:
        self._timeout = timeout
        self.record = Record()
        self.began = 0.0
        self._shop, self._rate, self._events = shop, rate, events
        self._client, self._event_client = Client(shop.port), Client(shop.port)
        self._running: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def now(self) -> float:
        return time.perf_counter() - self.began

    def start(self) -> None:
        self.began, self.record.began = time.perf_counter(), time.time()
        work = (self._run(), self._watch_itself(), self._ask_who_serves())
        self._tasks = [asyncio.create_task(one) for one in work]

    async def stop(self) -> Record:
        for task in self._tasks:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=EVENT_TIMEOUT + 1)
        self._client.close()
        self._event_client.close()
        return self.record

    async def _run(self) -> None:
        for number in itertools.count():
            due = number / self._rate
            if (wait := due - self.now) > 0:
                await asyncio.sleep(wait)
            event = random.random() < self._events
            if len(self._running) >= MOST:
                kind = "event" if event else "recommend"
                self._add(Sample(due, 0.0, 0, kind, why="too many"), Trip())
                continue
            task = asyncio.create_task(self._event(due) if event else self._recommend(due))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _watch_itself(self) -> None:
        """What this process was late with, the service was not."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG / 10)
            late = time.perf_counter() - before - LAG / 10
            if late >= LAG:
                self.record.lags.append((before - self.began, late))

    async def _ask_who_serves(self) -> None:
        while True:
            self.record.workers |= await asyncio.to_thread(self._shop.serving)
            await asyncio.sleep(2)

    async def _recommend(self, due: float) -> None:
        trip = Trip()
        try:
            status, head, body = await self._client.ask(
                self._shop.recommendation(), self._timeout, trip
            )
        except (OSError, TimeoutError) as error:
            self._add(Sample(due, self.now - due, 0, "recommend", why=_why(error)), trip)
            return
        empty = status == 200 and b'"results":[]' in body
        sample = Sample(due, self.now - due, 0 if empty else status, "recommend")
        sample.degraded = b"vitrine-degraded" in head.lower()
        sample.why = "empty" if empty else ""
        self._add(sample, trip)

    async def _event(self, due: float) -> None:
        id_ = f"{int(self.began)}-{next(_ids)}"
        trip = Trip()
        try:
            request = self._shop.event(id_)
            status, _, body = await self._event_client.ask(request, EVENT_TIMEOUT, trip)
        except (OSError, TimeoutError) as error:
            self._add(Sample(due, self.now - due, 0, "event", why=_why(error)), trip)
            return
        if status == 200 and (b'"accepted":1' in body or b'"duplicate":1' in body):
            self.record.acknowledged.add(id_)
        self._add(Sample(due, self.now - due, status, "event"), trip)

    def _add(self, sample: Sample, trip: Trip) -> None:
        sample.late = max(0.0, trip.sent - self.began - sample.at) if trip.sent else sample.seconds
        sample.port = trip.port
        self.record.samples.append(sample)


def _why(error: Exception) -> str:
    return CUT if isinstance(error, Cut) else type(error).__name__


async def capacity(shop: Shop, seconds: float, connections: int = 32, events: float = 0.0) -> float:
    """Requests a second that are answered to so many connections, each asking again at once.

    Args:
        events: share of the requests that are events, as in `Load`.
    """
    client = Client(shop.port)
    answered = 0
    until = time.perf_counter() + seconds

    async def ask() -> None:
        nonlocal answered
        while time.perf_counter() < until:
            event = random.random() < events
            request = shop.event(f"c{next(_ids)}") if event else shop.recommendation()
            try:
                status, _, _ = await client.ask(request, 5.0)
            except (OSError, TimeoutError):
                continue
            answered += status == 200

    await asyncio.gather(*(ask() for _ in range(connections)))
    client.close()
    return answered / seconds


def percentile(samples: list[Sample], share: float) -> float | None:
    times = sorted(s.seconds for s in samples)
    return round(times[min(int(len(times) * share), len(times) - 1)] * 1000, 1) if times else None


def facts(record: Record, marks: dict[str, float]) -> dict[str, Any]:
    """Counts and times of a load, before, during and after a fault."""
    asked = record.of("recommend")
    begin, end = marks.get("fault", 0.0), marks.get("mended", float("inf"))
    answered = [s for s in asked if s.status == 200]
    return {
        "requests": len(asked),
        "failed": sum(s.status != 200 and s.status != 503 for s in asked),
        "refused": sum(s.status == 503 for s in asked),
        "degraded": sum(s.degraded for s in asked),
        "events": len(record.of("event")),
        "events_refused": sum(s.status != 200 for s in record.of("event")),
        "acknowledged": len(record.acknowledged),
        "events_why": sorted(
            {s.why or str(s.status) for s in record.of("event") if s.status != 200}
        ),
        "why": sorted({s.why or str(s.status) for s in asked if s.status not in (200, 503)}),
        "generator_stood_still_ms": round(max((late for _, late in record.lags), default=0) * 1000),
        "p99_before_ms": percentile([s for s in answered if s.at < begin], 0.99),
        "p99_during_ms": percentile([s for s in answered if begin <= s.at < end], 0.99),
        "p99_after_ms": percentile([s for s in answered if s.at >= end], 0.99),
    }


def slow(record: Record, bound: float = TIMEOUT, most: int = 50) -> list[dict[str, Any]]:
    """The requests that failed or took longer than `bound` seconds: when, what, how long it took
    and how much of that the generator was late with, and who had it. Of `most`, first those that
    failed."""

    def failed(sample: Sample) -> bool:
        return sample.status not in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE)

    found = [s for s in record.samples if s.seconds > bound or failed(s)]
    found.sort(key=lambda s: (not failed(s), s.at))
    return [
        {
            "at": round(s.at, 3),
            "kind": s.kind,
            "ms": round(s.seconds * 1000),
            "generator_ms": round(s.late * 1000),
            "status": s.status,
            "why": s.why,
            "worker": record.workers.get(s.port),
        }
        for s in found[:most]
    ]


def recovery(record: Record, mended: float, begin: float = 0.0) -> float:
    """Seconds after `mended` until the last half second in which more answers were degraded or
    failed than one in ten, or than twice the share of before the fault."""

    def bad(samples: list[Sample]) -> float:
        return sum(s.degraded or s.status != 200 for s in samples) / max(1, len(samples))

    usual = max(0.1, 2 * bad(record.of("recommend", 0.0, begin)))
    windows: dict[int, list[Sample]] = {}
    for sample in record.of("recommend", mended):
        windows.setdefault(int((sample.at - mended) / 0.5), []).append(sample)
    last = max((number for number, found in windows.items() if bad(found) > usual), default=-1)
    return (last + 1) * 0.5
