"""Durable events a second: one a call by the tracker's wire, and in batches by /v1/events.

    python ops/bench/events.py [--seconds 10] [--connections 64] [--only batched]

Embedded PostgreSQL with fsync on, embedded Redis, one server process with what tracking needs (as
`vitrine serve` has it: counted, led back to pods), and this process as the load: prepared requests
over keep-alive connections, one outstanding each. All share the machine; the CPU that each takes an
event is told. An event counts when its call is answered: it is committed then, and in the shopper's
history. At the end the log is counted and compared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from measure import record

from app.domain.merchant import Credential, Merchant, MerchantId, Role
from app.embedded.servers import EmbeddedServers
from app.http.application import build
from app.http.client_address import ClientAddress
from app.http.health import Readiness
from app.http.native_events import NativeEventsHandler
from app.http.server import Server, listening_socket
from app.http.tracking import Tracking
from app.postgres.database import connect, raw
from app.postgres.event_log import EventLog
from app.postgres.merchants import Merchants
from app.postgres.migration import Migrations
from app.redis.connection import RedisConnection
from app.redis.history import HistoryStore
from app.redis.placements import Placements
from app.services.attribute import Attribution
from app.services.track import Tracker
from app.telemetry.metrics import Metrics
from app.telemetry.observers import EventObserver, postgres_observer, redis_observer
from app.telemetry.output import Output

MERCHANT = Merchant(id=MerchantId("bench"), name="Bench")
KEY, SECRET = "bench-key", "bench-secret"


class Keys:
    def merchant_of_key(self, _key: str) -> Merchant:
        return MERCHANT

    def merchant(self, _merchant: MerchantId) -> Merchant:
        return MERCHANT

    def allowed_origins(self, _key: str) -> tuple[str, ...]:
        return ()

    def token(self, _secret: str) -> Credential:
        return Credential("t", MERCHANT.id, Role.INGEST, b"")


class Serving:
    """The pods and strategies that become labels."""

    def merchants(self) -> dict[MerchantId, Any]:
        configuration = SimpleNamespace(
            pods={"home_for_you": None}, strategies={"personalized": None}
        )
        return {MERCHANT.id: SimpleNamespace(configuration=configuration)}


def serve(database_url: str, redis_url: str, ready: Connection) -> None:
    uvloop.run(_serve(database_url, redis_url, ready))


async def _serve(database_url: str, redis_url: str, ready: Connection) -> None:
    metrics = Metrics()
    database = connect(database_url, pool=4, observe=postgres_observer(metrics))
    redis = RedisConnection(redis_url, observe=redis_observer(metrics, "background"))
    attribution = Attribution(Placements(redis), Serving(), metrics)
    attributing = asyncio.create_task(attribution.run())
    tracker = Tracker(
        EventLog(database),
        HistoryStore(redis.client, run=redis.run),
        observer=EventObserver(metrics, accepted=attribution.received),
    )
    handlers = (
        Tracking(Keys(), tracker, address=ClientAddress()),
        NativeEventsHandler(Keys(), tracker),
    )
    with Path("/dev/null").open("wb") as null:
        output = Output(descriptor=null.fileno())
        output.start()
        application = build(
            [operation for handler in handlers for operation in handler.operations()],
            authenticator=Keys(),
            origins=Keys(),
            readiness=Readiness(),
            metrics=metrics,
            output=output,
        )
        await tracker.start()
        server = Server(application)
        await server.start()
        listening = listening_socket("127.0.0.1", 0)
        port = listening.getsockname()[1]
        await server.listen(listening)
        ready.send(port)
        await asyncio.to_thread(ready.recv)
        await server.stop(0.0)
        await tracker.close()
        attributing.cancel()
        output.close()
        ready.send(metrics.unattributed.labels("full")._value.get())  # noqa: SLF001


def singles() -> Iterator[bytes]:
    """A click on a recommendation as the storefront client sends it; another shopper each time."""
    number = 0
    while True:
        number += 1
        common = {
            "c": "ciojs-client-2.70.0",
            "i": f"client-{number % 20_000}",
            "s": 1,
            "key": KEY,
            "origin_referrer": "shop.example/product",
            "_dt": int(time.time() * 1000),
        }
        body = {
            "item_id": str(number % 90_000),
            "item_name": "A product of the shop",
            "result_id": f"r-{number}",
            "pod_id": "home_for_you",
            "strategy_id": "personalized",
            "num_results_per_page": 10,
            "result_position_on_page": 3,
            "section": "Products",
            **common,
            "beacon": True,
        }
        query = "&".join(f"{name}={value}" for name, value in common.items())
        yield _request(f"/v2/behavioral_action/recommendation_result_click?{query}", body, {})


def batches() -> Iterator[bytes]:
    number = 0
    basic = {"Authorization": f"Basic {b64encode(f'{SECRET}:'.encode()).decode()}"}
    while True:
        now = time.time()
        events = [
            {
                "id": f"e-{number}-{n}",
                "type": "click",
                "time": now,
                "client_id": f"client-{(number * 1000 + n) % 20_000}",
                "item_id": str((number * 1000 + n) % 90_000),
                "result_id": f"r-{number}",
                "pod_id": "home_for_you",
                "strategy": "personalized",
            }
            for n in range(1000)
        ]
        number += 1
        yield _request("/v1/events", {"events": events}, basic)


def _request(path: str, body: object, headers: dict[str, str]) -> bytes:
    data = msgspec.json.encode(body)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: text/plain\r\n{head}"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


class Caller(asyncio.Protocol):
    """One connection with one request outstanding."""

    def __init__(self, requests: Iterator[bytes], until: float, times: list[float]) -> None:
        self._requests = requests
        self._until = until
        self._times = times
        self._buffer = b""
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(rest) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self._buffer[:500].decode()))
            self._transport.abort()
            return
        self._buffer = b""
        now = time.perf_counter()
        self._times.append(now - self._sent)
        if now < self._until:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(None)


async def load(
    port: int, make: Callable[[], Iterator[bytes]], connections: int, seconds: float
) -> tuple[list[float], float]:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    requests = make()
    started = time.perf_counter()
    protocols = []
    for _ in range(connections):
        _, protocol = await loop.create_connection(
            lambda: Caller(requests, started + seconds, times), "127.0.0.1", port
        )
        protocols.append(protocol)
    await asyncio.gather(*(protocol.done for protocol in protocols))
    return times, time.perf_counter() - started


def cpu() -> dict[str, float]:
    """Seconds of CPU so far, by who used it."""
    used = dict.fromkeys(("server", "postgres", "redis", "load"), 0.0)
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            name = process.name()
            times = process.cpu_times()
            own = times.user + times.system
            if process is here:
                used["load"] += own
                continue
            who = next(
                (known for known in ("postgres", "redis") if name.startswith(known)), "server"
            )
            used[who] += own + times.children_user + times.children_system
    return used


async def main(seconds: float, connections: int, only: str | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home, EmbeddedServers(Path(home)) as servers:
        await asyncio.to_thread(Migrations(servers.database_owner_url).up)
        database = connect(servers.database_url, pool=1)
        await Merchants(database).create(MERCHANT.id, "Bench", actor="bench")
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        server = context.Process(
            target=serve, args=(servers.database_url, servers.redis_url, theirs)
        )
        server.start()
        port = await asyncio.to_thread(ours.recv)
        figures: dict[str, float] = {}
        expected = 0
        for name, make, count, per_call in (
            ("warm-up", singles, connections, 1),
            ("single", singles, connections, 1),
            ("batched", batches, 4, 1000),
        ):
            if only not in (None, name) and name != "warm-up":
                continue
            before = cpu()
            times, took = await load(port, make, count, 2 if name == "warm-up" else seconds)
            used = {who: after - before[who] for who, after in cpu().items()}
            expected += len(times) * per_call
            if name == "warm-up":
                continue
            times.sort()
            events = len(times) * per_call
            figures[f"events_{name}_per_s"] = round(events / took)
            for who, spent in used.items():
                figures[f"{name}_{who}_us"] = round(spent / events * 1e6, 1)  # CPU an event
            figures[f"{name}_p50_ms"] = round(times[len(times) // 2] * 1000, 2)
            figures[f"{name}_p99_ms"] = round(times[int(len(times) * 0.99)] * 1000, 2)
        ours.send(None)
        figures["not_attributed"] = await asyncio.to_thread(ours.recv)
        server.join()
        async with database.merchant(MERCHANT.id) as connection:
            found = await (await raw(connection)).fetchval("SELECT count(*) FROM event")
        await database.close()
        if found < expected:
            raise SystemExit(f"{expected} events were acknowledged, {found} are in the log")
        figures["acknowledged"], figures["found"] = expected, found
        return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--record", action="store_true", help="Add the figures to bench.json.")
    parser.add_argument("--only", choices=("single", "batched"))
    arguments = parser.parse_args()
    found = uvloop.run(main(arguments.seconds, arguments.connections, arguments.only))
    print(json.dumps(found, indent=2))
    if arguments.record:
        names = ("events_batched_per_s", "events_single_per_s")
        record({name: found[name] for name in names if name in found}, events=found)
