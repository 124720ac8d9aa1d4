"""`vitrine serve` that tells what held its event loop up: every stall, and where the code was.

python ops/bench/serve_watched.py STALLS.jsonl --port 8000

A line a stall of 5 ms or more: when it began (Unix seconds), the process, its length in ms, how
much of it the loop's thread was computing and how much the process' others (who may have had the
interpreter), how much it collected garbage (`gc`: the generation), and the stack in its midst. A
heartbeat each ms and a thread that looks for it: a tenth of a core, so figures of such a server are
none.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TextIO

BEAT, LONG = 0.001, 0.005  # seconds
DEPTH = 14


class Watch:
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._beat = time.perf_counter()
        self._thread = threading.get_ident()
        self._collecting = 0.0  # since when
        self._collected = (0.0, 0)  # seconds since it was looked at, the highest generation

    def start(self) -> None:
        self._pulse()
        gc.callbacks.append(self._note)
        sys.setswitchinterval(0.0005)
        threading.Thread(target=self._look, daemon=True).start()

    def _pulse(self) -> None:
        self._beat = time.perf_counter()
        asyncio.get_running_loop().call_later(BEAT, self._pulse)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.perf_counter()
            return
        seconds, generation = self._collected
        seconds += time.perf_counter() - self._collecting
        self._collected = (seconds, max(generation, info["generation"]))

    def _look(self) -> None:
        stack: list[str] = []
        since = own = all_ = 0.0
        clock = time.pthread_getcpuclockid(self._thread)
        while True:
            time.sleep(BEAT)
            beat, now = self._beat, time.perf_counter()
            if stack and beat != since:  # it is over
                computed = time.clock_gettime(clock) - own
                others = time.process_time() - all_ - computed
                line = {
                    "at": round(time.time() - (now - since), 3),
                    "pid": os.getpid(),
                    "ms": round((beat - since) * 1000, 1),
                    "cpu_ms": round(computed * 1000, 1),
                    "threads_ms": round(others * 1000, 1),
                    "gc_ms": round(self._collected[0] * 1000, 1),
                    "gc": self._collected[1],
                    "stack": stack,
                }
                self._out.write(json.dumps(line) + "\n")
                self._out.flush()
                stack = []
            if not stack and now - beat > LONG:
                # Python has no public way to another thread's stack.
                every = sys._current_frames()  # noqa: SLF001
                self._collected = (0.0, 0)
                since, own, all_ = beat, time.clock_gettime(clock), time.process_time()
                stack = frames(every.get(self._thread))


def frames(frame: FrameType | None) -> list[str]:
    found = []
    while frame is not None and len(found) < DEPTH:
        code = frame.f_code
        found.append(f"{code.co_qualname} {Path(code.co_filename).name}:{frame.f_lineno}")
        frame = frame.f_back
    return found


def main() -> None:
    path = Path(sys.argv.pop(1))
    from app.cli import main as vitrine
    from app.process import ServingProcess

    start = ServingProcess.start

    async def watched(service: ServingProcess) -> None:
        Watch(path.open("a")).start()
        await start(service)

    ServingProcess.start = watched  # type: ignore[method-assign]  # it does what it did, watched
    sys.argv.insert(1, "serve")
    vitrine()


if __name__ == "__main__":
    main()
