"""The stability suite, tested: its proxy does what it is told, its load tells late from early, and
its verdicts fall where they must."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ops.stability import report
from ops.stability.fault_proxy import FaultProxy
from ops.stability.load import CUT, Load, Record, Sample, Shop, facts, percentile, recovery, slow
from ops.stability.scene import Result, no_failure


def sample(
    at: float, status: int = 200, seconds: float = 0.01, *, degraded: bool = False
) -> Sample:
    return Sample(at, seconds, status, "recommend", degraded)


def result(*samples: Sample) -> Result:
    record = Record(list(samples))
    return Result("one", facts(record, {"fault": 2.0, "mended": 4.0}), record)


def test_one_failure_or_refusal_fails_a_scenario() -> None:
    fine = result(sample(1), sample(3, degraded=True))
    no_failure(fine)
    assert fine.verdict == "passed"
    for status in (0, 500, 404):
        failed = result(sample(1), sample(3, status))
        no_failure(failed)
        assert failed.verdict == "failed"
    refused = result(sample(1), sample(3, 503))
    no_failure(refused, refused=True)
    assert refused.verdict == "passed"
    no_failure(refused)
    assert refused.verdict == "failed"
    nothing = result()
    no_failure(nothing)
    assert nothing.verdict == "failed"


def test_recovery_ends_with_the_last_half_second_of_many_bad_answers() -> None:
    fine = [sample(4 + n / 50) for n in range(200)]
    bad = [sample(4.1, degraded=True), sample(4.7, 0), *(sample(5.2, 0) for _ in range(5))]
    record = Record([sample(3, 0), *fine, *bad])
    assert recovery(record, 4.0) == 1.5
    assert recovery(record, 5.5) == 0.0
    noisy = Record([*(sample(1, degraded=True) for _ in range(10)), *record.samples])
    assert recovery(noisy, 4.0, begin=2.0) == 0.0  # it was no better before


def test_times_are_told_before_during_and_after() -> None:
    found = facts(
        Record([sample(1, seconds=0.1), sample(3, seconds=0.3), sample(5, seconds=0.2)]),
        {"fault": 2.0, "mended": 4.0},
    )
    names = ("p99_before_ms", "p99_during_ms", "p99_after_ms")
    assert [found[name] for name in names] == [100.0, 300.0, 200.0]
    assert percentile([], 0.99) is None


def test_the_report_holds_what_is_asked_for(tmp_path: Path) -> None:
    one = result(sample(1), sample(3, 0))
    no_failure(one)
    page = report.write(tmp_path, [one], {"scale": 1})
    [told] = json.loads((tmp_path / "stability.json").read_text())["scenarios"]
    wanted = ("name", "requests", "failed", "degraded", "acknowledged", "found", "twice")
    assert {*wanted, "recovery_s", "verdict"} <= told.keys()
    assert (told["requests"], told["failed"], told["verdict"]) == (2, 1, "failed")
    assert page.read_text().count("<svg") == 1


async def test_a_stall_of_the_server_is_not_hidden() -> None:
    """It answers nothing for a while: what was meant to be sent meanwhile is late, all of it."""
    gate = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await gate.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    load = Load(Shop(server.sockets[0].getsockname()[1], "k", "t", 1), 100.0, 0.0)
    load.start()
    await asyncio.sleep(0.3)
    gate.set()
    await asyncio.sleep(0.1)
    record = await load.stop()
    server.close()
    assert all(s.status == 200 for s in record.samples)
    early = [s for s in record.samples if s.at < 0.1]
    assert min(s.seconds for s in early) > 0.1


async def test_what_the_generator_was_late_with_is_told_apart() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    shop = Shop(port, "k", "t", 1, serving=lambda: dict.fromkeys(range(1 << 16), 7))
    load = Load(shop, 100.0, 0.0)
    load.start()
    await asyncio.sleep(0.1)
    time.sleep(0.7)  # the generator itself stands still
    await asyncio.sleep(0.2)
    record = await load.stop()
    server.close()
    found = slow(record)
    assert found, "they were late"
    assert all(one["generator_ms"] > one["ms"] / 2 and one["worker"] == 7 for one in found)
    assert max(late for _, late in record.lags) > 0.5
    assert facts(record, {})["generator_stood_still_ms"] > 500


def test_slow_requests_are_told_with_their_worker() -> None:
    samples = [sample(1), sample(2, seconds=0.6), sample(3, 0), sample(4, 503)]
    samples[1].port = 80
    found = slow(Record(samples, workers={80: 4711}))
    assert [(one["at"], one["status"], one["worker"]) for one in found] == [
        (3, 0, None),
        (2, 200, 4711),
    ]


async def test_a_request_that_is_cut_is_told_so_and_not_sent_again() -> None:
    received = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        for number in itertools.count():
            await reader.readuntil(b"\r\n\r\n")
            received += 1
            if number:
                writer.close()  # the second of a connection, as a process that is killed
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    load = Load(Shop(server.sockets[0].getsockname()[1], "k", "t", 1), 50.0, 0.0, timeout=10)
    load.start()
    await asyncio.sleep(0.5)
    record = await load.stop()
    server.close()
    assert len(record.samples) == received
    cut = [s for s in record.samples if s.why == CUT]
    assert {s.status for s in cut} == {0}
    assert 0 < len(cut) <= received / 2


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[FaultProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_unix_server(echo, tmp_path / "s")
    made = FaultProxy(str(tmp_path / "s"))
    await made.listen()
    yield made
    await made.set("refuse")
    server.close()


async def test_the_proxy_fails_as_it_is_told(proxy: FaultProxy) -> None:
    async def said(timeout: float = 5.0) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            writer.write(b"hello")
            async with asyncio.timeout(timeout):
                return await reader.read(5)
        finally:
            writer.transport.abort()

    assert await said() == b"hello"
    await proxy.set("stall")
    with pytest.raises(TimeoutError):
        await said(0.1)
    await proxy.set("refuse")
    with pytest.raises(OSError):
        await said()
    await proxy.set("reset")
    with contextlib.suppress(ConnectionError):
        assert await said() == b""
    for fault, value in (("latency", 0.01), ("bandwidth", 10_000.0), ("none", 0.0)):
        await proxy.set(fault, value)
        assert await said() == b"hello"
    reader, _ = await asyncio.open_connection("127.0.0.1", proxy.port)
    await asyncio.sleep(0.05)
    await proxy.set("cut")
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    assert await said() == b"hello"
    with pytest.raises(ValueError, match="no fault"):
        await proxy.set("fire")
