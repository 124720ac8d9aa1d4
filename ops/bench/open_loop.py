"""Requests at a fixed rate, each timed from when it was meant to be sent: a stall is not hidden.

    python ops/bench/open_loop.py PORT FILE RATE SECONDS     # FILE as requests.lua reads it

Prints one JSON object: requests, errors, p50/p99/p999/max in ms. Runs with real-time priority where
the account may: what delays this process would count as the server's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONNECTIONS = 48


@dataclass(slots=True)
class Connection:
    socket: socket.socket
    intended: float = 0.0
    buffer: bytes = b""
    length: int = -1  # of the answer, once its head is there


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
    waiting: deque[float] = deque()  # intended times that found no free connection
    times: list[float] = []
    errors = sent = 0
    begin = time.perf_counter() + 0.05
    total = int(rate * seconds)
    due = 0
    while len(times) < total:
        now = time.perf_counter()
        while due < total and begin + due / rate <= now:
            waiting.append(begin + due / rate)
            due += 1
        while waiting and free:
            connection = free.pop()
            connection.intended = waiting.popleft()
            connection.socket.sendall(todo[sent % len(todo)])
            sent += 1
        pause = 5.0 if due >= total or not free else max(0.0, begin + due / rate - now)
        readable, _, _ = select.select(watched, (), (), pause)
        if not readable and pause == 5.0:
            raise SystemExit(f"no answer for {pause} s: {len(times)} of {total} were answered")
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
                times.append(time.perf_counter() - connection.intended)
                connection.buffer, connection.length = b"", -1
                free.append(connection)
    times.sort()

    def at(share: float) -> float:
        return round(times[min(int(len(times) * share), len(times) - 1)] * 1000, 3)

    return {
        "requests": total,
        "errors": errors,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "p999_ms": at(0.999),
        "max_ms": at(1.0),
    }


def main() -> None:
    port, path, rate, seconds = sys.argv[1:]
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
    print(json.dumps(drive(int(port), Path(path), float(rate), float(seconds))))


if __name__ == "__main__":
    main()
