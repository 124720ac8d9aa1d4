"""How the bench measures: servers pinned to a core, CPU time from /proc, load from wrk or from an
open-loop driver, rounds interleaved, medians."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
SERVER_CORE, LOAD_CORE = 0, 1
_ELSEWHERE = os.environ.get("BENCH_HOME")  # for a trial: apart from what is kept and reported
HOME = Path(_ELSEWHERE) if _ELSEWHERE else HERE.parents[1] / ".vitrine" / "bench"
REPORT = HOME / "bench.json" if _ELSEWHERE else HOME.with_suffix(".json")


def record(figures: Mapping[str, float], **also: Any) -> None:
    """Adds to what `make bench` writes."""
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {"figures": {}}
    report["figures"].update(figures)
    report.update(also)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")


def require_wrk() -> None:
    """wrk is there, by apt where it may be installed; else the bench cannot run."""
    if shutil.which("wrk") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], check=False)
    if shutil.which("wrk") is None:
        raise SystemExit("make bench needs wrk: install the package wrk of your distribution")


def stay_on(core: int) -> None:
    """This process and all that it starts run on one core, as far as the machine has several."""
    if (os.cpu_count() or 1) > core:
        os.sched_setaffinity(0, {core})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that processes have used."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def rss_bytes(pids: Iterable[int]) -> int:
    """Proportional set size: what is shared counts once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


class Server:
    """A server process on one core, ready when its port answers."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        *,
        core: int | None = SERVER_CORE,
        environment: Mapping[str, str] | None = None,
        wait: float = 300.0,
        ready: str | None = None,
    ) -> None:
        """
        Args:
            core: None: all of them.
            ready: a path that answers 200 once the server is ready; None: the port will do.
        """
        self.name = name
        self.port = port
        self._log = tempfile.NamedTemporaryFile(  # noqa: SIM115  # closed with the process
            prefix=f"bench-{name}-", suffix=".log"
        )
        self._process = subprocess.Popen(
            [*(() if core is None else ("taskset", "-c", str(core))), *command],
            env={**os.environ, **(environment or {})},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        begun = time.monotonic()
        deadline = begun + wait
        while True:
            try:
                if ready is None:
                    socket.create_connection(("127.0.0.1", port), 1.0).close()
                else:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5).close()
                self.started = time.monotonic() - begun  # seconds that it took
                return
            except OSError:  # urllib's errors are
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"{name} did not start:\n{self.log()}") from None
                time.sleep(0.1)

    def pids(self) -> list[int]:
        return tree(self._process.pid)

    def log(self) -> str:
        return Path(self._log.name).read_text()[-4000:]

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class Round:
    """One run of wrk against one server."""

    requests: int
    seconds: float
    bytes: int
    errors: int
    cpu_us: float  # CPU time of the server a request, µs
    p50_ms: float
    p99_ms: float
    p999_ms: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def closed_loop(
    server: Server,
    paths: Path,
    *,
    seconds: float = 5.0,
    connections: int = 32,
    core: int = LOAD_CORE,
    start: int = 0,
) -> Round:
    """wrk, as fast as the server answers, with the file's requests from line `start` on."""
    pids = server.pids()
    before = cpu_seconds(pids)
    done = subprocess.run(
        [
            "taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}",
            "--timeout", "10s", "-s", str(HERE / "requests.lua"), f"http://127.0.0.1:{server.port}",
        ],
        env={**os.environ, "BENCH_PATHS": str(paths), "BENCH_START": str(start)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    used = cpu_seconds(pids) - before
    line = next((one for one in done.stdout.splitlines() if one.startswith("BENCH ")), None)
    if line is None:
        raise RuntimeError(f"wrk failed against {server.name}:\n{done.stdout}{done.stderr}")
    requests, micros, size, errors, p50, p99, p999 = line.split()[1:]
    if not int(requests) and not int(errors) and seconds < 30:  # a busy machine: more time
        return closed_loop(
            server, paths, seconds=seconds * 3, connections=connections, core=core, start=start
        )
    if int(errors) or not int(requests):
        raise RuntimeError(f"{server.name}: {errors} of {requests} requests failed\n{server.log()}")
    return Round(
        int(requests), int(micros) / 1e6, int(size), int(errors), used / int(requests) * 1e6,
        float(p50) / 1000, float(p99) / 1000, float(p999) / 1000,
    )  # fmt: skip


def median_round(rounds: Sequence[Round]) -> Round:
    """The median of each figure."""
    return Round(
        *(
            statistics.median(getattr(one, field.name) for one in rounds)
            for field in dataclasses.fields(Round)
        )
    )
