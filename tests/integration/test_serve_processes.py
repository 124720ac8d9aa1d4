"""`vitrine serve` as real processes: replaced when killed, drained when stopped."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds after which something that must happen has failed to


class Running:
    def __init__(self, folder: Path, workers: int, *more: str) -> None:
        self.folder = folder
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.serving_process", str(folder), str(workers), *more],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def until(self, condition: Callable[[], object]) -> None:
        """Waits for what must happen; fails at once when the process has ended before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() not in (None, 0, -signal.SIGKILL):
                pytest.fail(f"it ended\n{self.log.read_text()}")
            if time.monotonic() > deadline:
                pytest.fail(f"it did not happen\n{self.log.read_text()}")
            time.sleep(0.01)

    def port(self) -> int:
        self.until((self.folder / "url").exists)
        self.until(lambda: (self.folder / "url").read_text())
        port = urlsplit((self.folder / "url").read_text()).port
        assert port is not None
        return port

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port(), timeout=PATIENCE)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line[-1:] == "}"]
        return [line for line in lines if line["event"] == name]

    def pids(self) -> set[int]:
        return {int(str(line["worker"])) for line in self.events("worker_started")}

    def spread(self, workers: int) -> set[int]:
        """The processes that answer, once so many have."""
        found: set[int] = set()

        def asked() -> bool:
            found.add(int(self.get("/pid")[1]))
            return len(found) >= workers

        self.until(asked)
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(workers: int, *more: str) -> Running:
        started.append(Running(tmp_path, workers, *more))
        return started[-1]

    yield start
    for running in started:
        pids = running.pids()
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(PATIENCE)
        running.until(lambda: not any(_alive(pid) for pid in pids))  # noqa: B023


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def hold(running: Running) -> tuple[threading.Thread, list[tuple[int, str]]]:
    """A request that is held back in a worker."""
    answers: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: answers.append(running.get("/hold")))
    thread.start()
    running.until(lambda: (running.folder / "held").exists())
    running.until(lambda: (running.folder / "held").read_text())
    return thread, answers


def test_two_workers_serve_and_a_killed_one_is_replaced(
    start: Callable[[int], Running],
) -> None:
    running = start(2)
    first = running.spread(2)
    assert first == running.pids()
    killed = min(first)
    os.kill(killed, signal.SIGKILL)
    running.until(lambda: len(running.events("worker_started")) == 3)
    again = running.spread(2)
    assert killed not in again
    assert len(again & first) == 1
    (ended,) = running.events("worker_ended")
    assert (ended["worker"], ended["code"]) == (killed, -signal.SIGKILL)
    assert running.stop() == 0


def test_others_serve_for_a_killed_worker_until_its_successor_is_warm(
    start: Callable[[int], Running], tmp_path: Path
) -> None:
    running = start(2)
    killed, other = sorted(running.spread(2))
    (tmp_path / "hold_start").touch()
    os.kill(killed, signal.SIGKILL)
    running.until(lambda: len(running.events("worker_started")) == 3)
    # Half of these connections come to the dead worker's socket; its successor is not warm.
    assert {running.get("/pid") for _ in range(40)} == {(200, str(other))}
    (tmp_path / "hold_start").unlink()
    again = running.spread(2)
    assert other in again
    assert killed not in again
    assert running.stop() == 0


def test_a_spare_takes_the_place_of_a_killed_worker_whatever_starting_takes(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    running = start(1, "spare")
    first = int(running.get("/pid")[1])
    running.until(lambda: len(running.events("worker_started")) == 2)
    (spare,) = running.pids() - {first}
    assert {running.get("/pid") for _ in range(10)} == {(200, str(first))}
    running.until(lambda: running.events("spare_ready"))
    (tmp_path / "hold_start").touch()  # what is started from now on is never ready
    os.kill(first, signal.SIGKILL)
    assert running.get("/pid") == (200, str(spare))
    assert [line["worker"] for line in running.events("spare_serves")] == [spare]
    assert "vitrine_workers_ready 1.0" in running.get("/metrics")[1]
    running.until(lambda: len(running.events("worker_started")) == 3)  # the next spare
    assert running.stop() == 0


def test_a_restart_renews_the_spare_too(start: Callable[..., Running]) -> None:
    running = start(1, "spare")
    running.until(lambda: running.events("spare_ready"))
    before = running.pids()
    running.process.send_signal(signal.SIGUSR1)
    running.until(lambda: len(running.events("spare_ready")) == 2)
    assert running.get("/pid")[1] not in map(str, before)
    running.until(lambda: not any(_alive(pid) for pid in before))
    assert running.events("worker_ended") == []
    assert running.stop() == 0


def test_a_lone_worker_says_that_it_is_starting(
    start: Callable[[int], Running], tmp_path: Path
) -> None:
    (tmp_path / "hold_start").touch()
    running = start(1)
    port: list[int] = []

    def listens() -> bool:
        connections = psutil.Process(running.process.pid).net_connections(kind="tcp")
        port[:] = [each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN]
        return bool(port)

    running.until(listens)
    (tmp_path / "url").write_text(f"http://127.0.0.1:{port[0]}")
    assert running.get("/pid")[0] == 503
    status, body = running.get("/health/ready")
    assert (status, json.loads(body)["missing"][0]["name"]) == (503, "warm-up")
    assert running.get("/health/live")[0] == 200
    (tmp_path / "hold_start").unlink()
    running.until(lambda: running.get("/pid")[0] == 200)
    assert running.stop() == 0


def test_metrics_are_of_all_workers_also_of_the_dead(start: Callable[[int], Running]) -> None:
    running = start(2)
    asked = 0

    def ask(workers: int) -> set[int]:
        nonlocal asked
        found: set[int] = set()
        while len(found) < workers:
            found.add(int(running.get("/pid")[1]))
            asked += 1
        return found

    def counted() -> float:
        status, text = running.get("/metrics")
        assert status == 200, text
        found = re.search(
            r'^vitrine_http_requests_total\{method="GET",route="/pid",status="200"\} (\S+)$',
            text,
            re.M,
        )
        return float(found[1]) if found else 0.0

    pids = ask(2)
    running.until(lambda: counted() == asked)  # told a moment later
    assert "vitrine_workers_ready 2.0" in running.get("/metrics")[1]
    os.kill(min(pids), signal.SIGKILL)
    running.until(lambda: len(running.events("worker_started")) == 3)
    assert counted() == asked
    ask(2)
    running.until(lambda: counted() == asked)
    assert "vitrine_workers_ready 2.0" in running.get("/metrics")[1]
    assert running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_request_that_was_begun_is_answered(
    start: Callable[[int], Running], number: signal.Signals
) -> None:
    running = start(1)
    thread, answers = hold(running)
    running.process.send_signal(number)
    running.until(lambda: running.events("draining"))
    assert running.process.poll() is None
    (running.folder / "let_go").touch()
    thread.join(PATIENCE)
    assert answers == [(200, (running.folder / "held").read_text())]
    assert running.process.wait(PATIENCE) == 0
    assert (running.folder / f"stopped-{answers[0][1]}").exists()


def test_workers_are_replaced_one_by_one_without_a_failed_request(
    start: Callable[[int], Running],
) -> None:
    running = start(2)
    before = running.spread(2)
    stop = threading.Event()
    failures: list[object] = []
    asked = [0]

    def ask() -> None:
        while not stop.is_set():
            try:
                status, _ = running.get("/pid")
            except OSError as error:
                failures.append(error)
            else:
                asked[0] += 1
                if status != 200:
                    failures.append(status)

    thread = threading.Thread(target=ask)
    thread.start()
    running.process.send_signal(signal.SIGUSR1)
    running.until(lambda: len(running.events("stopped")) == 2)
    after = running.spread(2)
    stop.set()
    thread.join(PATIENCE)
    assert not before & after
    assert failures == []
    assert asked[0] > 0
    assert running.events("worker_ended") == []
    assert running.stop() == 0


def test_a_worker_is_ready_only_when_it_is_warm(
    start: Callable[[int], Running], tmp_path: Path
) -> None:
    (tmp_path / "hold_start").touch()
    running = start(1)
    running.until(lambda: running.events("worker_started"))
    assert not (tmp_path / "url").exists()
    (tmp_path / "hold_start").unlink()
    assert running.get("/health/ready")[0] == 200
    assert running.stop() == 0


def test_a_server_that_cannot_start_says_so_and_ends(
    start: Callable[[int], Running], tmp_path: Path
) -> None:
    (tmp_path / "fail_start").touch()
    running = start(1)
    assert running.process.wait(PATIENCE) == 1
    assert "told to fail" in str(running.events("start_failed")[0]["exception"])
    assert running.events("gave_up")


def test_workers_do_not_outlive_a_killed_supervisor(start: Callable[[int], Running]) -> None:
    running = start(2)
    pids = running.spread(2)
    running.process.kill()
    running.process.wait(PATIENCE)
    running.until(lambda: not any(_alive(pid) for pid in pids))
    assert all((running.folder / f"stopped-{pid}").exists() for pid in pids)


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    code = (
        "import socket;"
        "from app.cli.serving import serve_forever; from app.settings import Settings;"
        "taken = socket.create_server(('127.0.0.1', 0));"
        "settings = Settings(port=taken.getsockname()[1]);"
        "raise SystemExit(serve_forever(settings, None))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 3
    assert "Address already in use" in ended.stdout
