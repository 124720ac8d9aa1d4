"""Requests at a fixed rate, each timed from when it was meant to be sent: a stall is not hidden.

    python ops/bench/open_loop.py PORT FILE RATE SECONDS     # FILE as requests.lua reads it

Example: `python ops/bench/open_loop.py 8000 .vitrine/bench/paths/similar 500 10`. Prints one JSON
object: requests, errors, p50/p99/p999/max in ms. Runs with real-time priority where the account
may: what delays this process would count as the server's.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONNECTIONS = 48
PATIENCE = 20.0  # seconds without any answer


@dataclass(slots=True)
class Connection:
    socket: socket.socket
    intended: float = 0.0
    buffer: bytes = b""
    length: int = -1  # of the answer, once its head is there


class Ledger:
    """When each request was meant to be sent, and how long after that it was answered. Times are
    seconds of one clock.

    Args:
        rate: requests a second.
        total: how many in all.
        begin: when the first one is meant to be sent.
    """

    def __init__(self, rate: float, total: int, begin: float) -> None:
        self._rate = rate
        self._begin = begin
        self.total = total
        self.sent = 0
        self.times: list[float] = []

    @property
    def next_at(self) -> float | None:
        """When the next request is meant to be sent; None: all were."""
        return self._begin + self.sent / self._rate if self.sent < self.total else None

    def take(self, now: float) -> float | None:
        """The moment that one more request was meant for, if that has come: it counts from there,
        however late it is sent."""
        intended = self.next_at
        if intended is None or intended > now:
            return None
        self.sent += 1
        return intended

    def answered(self, intended: float, now: float) -> None:
        self.times.append(now - intended)

    @property
    def done(self) -> bool:
        return len(self.times) == self.total

    def figures(self) -> dict[str, float]:
        """Quantiles in ms: the smallest time that so many requests did not exceed."""
        ordered = sorted(self.times)

        def at(share: float) -> float:
            return round(ordered[max(math.ceil(len(ordered) * share) - 1, 0)] * 1000, 3)

        return {"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": at(1.0)}


def requests(path: Path, most: int) -> list[bytes]:
    found = []
    with path.open() as file:
        for line in file:
            method, target, *rest = line.rstrip("\n").split("\t")
            body = rest[0].encode() if rest and rest[0] else b""
            head = f"{method} {target} HTTP/1.1\r\nHost: bench\r\n"
            if body:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            found.append(head.encode() + b"\r\n" + body)
            if len(found) >= most:
                break
    return found


def drive(port: int, path: Path, rate: float, seconds: float) -> dict[str, Any]:
    todo = requests(path, int(rate * seconds) + 1)
    connections = {}
    free: list[Connection] = []
    for _ in range(CONNECTIONS):
        made = socket.create_connection(("127.0.0.1", port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(made)
        connections[made.fileno()] = connection
        free.append(connection)
    watched = list(connections)
    errors = 0
    ledger = Ledger(rate, int(rate * seconds), time.perf_counter() + 0.05)
    while not ledger.done:
        now = time.perf_counter()
        # Without a free connection what is due waits, and its time runs.
        while free and (intended := ledger.take(now)) is not None:
            connection = free.pop()
            connection.intended = intended
            connection.socket.sendall(todo[(ledger.sent - 1) % len(todo)])
        coming = ledger.next_at
        pause = PATIENCE if coming is None or not free else max(0.0, coming - now)
        readable, _, _ = select.select(watched, (), (), pause)
        if not readable and pause == PATIENCE:
            raise SystemExit(
                f"no answer for {pause} s: {len(ledger.times)} of {ledger.total} were answered"
            )
        for number in readable:
            connection = connections[number]
            data = connection.socket.recv(262_144)
            if not data:
                raise SystemExit("the server closed a connection")
            connection.buffer += data
            if connection.length < 0:
                head, separator, _ = connection.buffer.partition(b"\r\n\r\n")
                if not separator:
                    continue
                after = head.lower().partition(b"content-length:")[2]
                connection.length = len(head) + 4 + int(after.split(b"\r\n")[0])
                errors += not head.startswith(b"HTTP/1.1 2")
            if len(connection.buffer) >= connection.length:
                ledger.answered(connection.intended, time.perf_counter())
                connection.buffer, connection.length = b"", -1
                free.append(connection)
    return {"requests": ledger.total, "errors": errors, **ledger.figures()}


def main() -> None:
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    port, path, rate, seconds = sys.argv[1:]
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
    print(json.dumps(drive(int(port), Path(path), float(rate), float(seconds))))


if __name__ == "__main__":
    main()
