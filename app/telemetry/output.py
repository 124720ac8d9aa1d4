"""Where log lines go: a file descriptor that may stall without stalling the server."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

FLUSH_SECONDS = 0.1


class Output:
    """Lines handed over to a thread, which writes them in batches.

    The event loop never waits for whoever reads the log. When the reader falls behind by more than
    `limit` lines, lines are dropped and counted (`dropped`); the next batch that gets through says
    how many. Satisfies structlog's logger interface by its level methods.
    """

    def __init__(self, descriptor: int = 1, limit: int = 50_000) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._limit = limit
        self._lines: deque[bytes | tuple[Callable[[Any], bytes], Any]] = deque()
        self._wake = threading.Event()
        self._stopped = False
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write in a thread from now on. Before it, and after `close`, each line is written at
        once. Call it after a fork, never before: threads are not inherited."""
        self._stopped = False
        self._wake.clear()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left; wait 2 seconds at most for a reader that stalls."""
        self._stopped = True
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout=2)
        if thread is None or not thread.is_alive():
            self.flush()

    def write(self, line: bytes) -> None:
        self._take(line)

    def write_made(self, make: Callable[[T], bytes], of: T) -> None:
        """The line `make(of)`, made where it is written: one after another that takes a quarter of
        what it takes in the midst of a request, which has left little of it in the caches."""
        self._take((make, of))

    def write_now(self, line: bytes) -> None:
        """`write`, and have the thread look at once: what is wrong may be the last that is said."""
        self.write(line)
        self._wake.set()

    msg = debug = info = log = write
    warning = error = exception = critical = fatal = write_now

    def _take(self, line: bytes | tuple[Callable[[Any], bytes], Any]) -> None:
        if len(self._lines) >= self._limit:
            self.dropped += 1
            return
        self._lines.append(line)
        if self._thread is None:
            self.flush()

    def flush(self) -> None:
        with self._writing:
            lines = [self._next() for _ in range(len(self._lines))]
            if not lines:
                return
            if self.dropped:
                lines.append(b'{"level":"warning","event":"log_dropped","lines":%d}' % self.dropped)
                self.dropped = 0
            batch = memoryview(b"\n".join(lines) + b"\n")
            # A reader that went away is no reason to stop serving.
            with contextlib.suppress(BrokenPipeError):
                while batch:
                    batch = batch[os.write(self._descriptor, batch) :]

    def _next(self) -> bytes:
        line = self._lines.popleft()
        if isinstance(line, bytes):
            return line
        make, of = line
        try:
            return make(of)
        except Exception as error:  # noqa: BLE001  # a defect: the lines behind it are written
            return b'{"level":"error","event":"line_failed","error":"%b"}' % (
                type(error).__name__.encode()
            )

    def _run(self) -> None:
        while not self._stopped:  # a batch that comes while it ends is written by `close`
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            self.flush()
