"""Server processes side by side on one port, and the process that watches over them.

The supervisor makes one listening socket a worker (SO_REUSEPORT) **before** it forks, and keeps
them open: connections that wait in the socket of a worker that was killed are served by the other
workers, which are told of it, until its successor is warm; none is refused. It starts no thread and
no event loop, so that forking it is safe; workers share the memory of everything that was imported
before.

A spare is a worker that has loaded everything and has no slot. It takes the one of a worker that
died, at once, whatever loading takes; the next spare is started then. It costs a worker's memory
and no socket. (A snapshot of the catalogue in files would quicken its part of a start only, and be
one more copy to keep true; models, rules and connections would still have to be made.)
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Final

from app.cli.server_process import TAKE, Inherited, Stopping
from app.http.server import listening_socket
from app.telemetry import shared_metrics
from app.telemetry.logs import get as get_log

LONGEST_PAUSE: Final = 5.0  # seconds before a worker that keeps failing is tried again
SPARE: Final = 5.0  # seconds beyond grace and delay after which a stopping worker is killed
START_FAILURES: Final = 5  # of one worker in a row, none ready: then the supervisor gives up
_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SIGNALS: Final = (*_STOP, signal.SIGUSR1, signal.SIGCHLD)

_log = get_log(__name__)


class Exit(IntEnum):
    """Exit codes of `vitrine serve`."""

    STOPPED = 0  # in order, by SIGTERM or Ctrl-C
    FAILED = 1  # workers could not start; the log says why
    SETTINGS = 2  # wrong settings or arguments
    ADDRESS = 3  # the address is taken, or not this machine's


Body = Callable[["Worker"], int]


@dataclass(slots=True)
class Worker:
    """One worker process; in itself, what it inherits."""

    slot: int | None  # its place on the port: which listening socket; None: a spare
    files: int  # its place among the metrics' files
    inherited: Inherited
    metrics_directory: Path
    status: int  # the supervisor reads here when the worker is ready
    control: int  # and writes here which slots have no worker that is ready
    pid: int = 0
    ready: bool = False
    stopping: float | None = None  # monotonic time at which it is killed


@dataclass(slots=True)
class _Slot:
    listening: socket.socket
    worker: Worker | None = None
    successor: Worker | None = None  # in a rolling restart, until it is ready
    failures: int = 0  # starts in a row that ended before the worker was ready
    start_at: float = 0.0  # monotonic


@dataclass(slots=True)
class Supervisor:
    """Runs `workers` processes of `body`, replaces those that end, and stops them in order.

    SIGTERM, SIGINT, SIGHUP: stop; a second SIGINT kills. SIGUSR1: replace one worker after the
    other, each only when its successor is ready.
    """

    body: Body  # runs in the worker; what it returns is its exit code
    workers: int
    host: str
    port: int  # 0: a free one
    stopping: Stopping = field(default_factory=Stopping)
    on_ready: Callable[[str], None] = lambda _url: None  # once, when all workers are ready first
    spare: bool = False  # whether one is kept

    _slots: list[_Slot] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _pipe: tuple[int, int] = (-1, -1)  # open as long as the supervisor lives
    _directory: Path = Path()
    _announced: bool = False
    _asked: bool = False  # to stop
    _killing: bool = False  # asked again, by somebody who waits at a terminal
    _rolling: list[int] = field(default_factory=list)  # slots that are still to be replaced
    _renewed: bool = True  # the spare is not of before the last rolling restart
    _gave_up: bool = False
    _deserted: tuple[int, ...] | None = None  # slots without a ready worker, as workers were told
    _spare: Worker | None = None
    _spare_failures: int = 0
    _spare_at: float = 0.0  # monotonic

    def run(self) -> int:
        """Serve until told to stop. Returns an `Exit`."""
        try:
            self._listen()
        except OSError as error:
            _log.error("cannot_listen", host=self.host, port=self.port, reason=error.strerror)
            return Exit.ADDRESS
        with contextlib.ExitStack() as cleanup:
            self._pipe = os.pipe()
            cleanup.callback(os.close, self._pipe[0])
            cleanup.callback(os.close, self._pipe[1])
            directory = tempfile.TemporaryDirectory(prefix="vitrine-metrics-")
            self._directory = Path(cleanup.enter_context(directory))
            cleanup.enter_context(self._signals())
            gc.freeze()  # pages that the collector does not touch stay shared with the workers
            self._loop()
        for slot in self._slots:
            slot.listening.close()
        return Exit.FAILED if self._gave_up else Exit.STOPPED

    @property
    def url(self) -> str:
        host, port = self._slots[0].listening.getsockname()[:2]
        if host in ("0.0.0.0", "::"):  # noqa: S104  # every address: one that can be called
            host = "127.0.0.1"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _listen(self) -> None:
        port = self.port
        try:
            for _ in range(self.workers):
                listening = listening_socket(self.host, port, shared=True)
                port = listening.getsockname()[1]
                self._slots.append(_Slot(listening))
        except OSError:
            for slot in self._slots:
                slot.listening.close()
            raise

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        reading, writing = socket.socketpair()
        for end in (reading, writing):
            end.setblocking(False)

        def received(number: int, _frame: FrameType | None) -> None:
            if number in _STOP:
                self._killing = self._asked and number == signal.SIGINT
                self._asked = True
            elif number == signal.SIGUSR1:
                self._rolling = list(range(len(self._slots)))
                self._renewed = False

        before = {number: signal.signal(number, received) for number in _SIGNALS}
        descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._selector.register(reading, selectors.EVENT_READ)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            reading.close()
            writing.close()

    def _loop(self) -> None:
        while True:
            self._reap()
            now = time.monotonic()
            if self._asked or self._gave_up:
                if not self._stop(now):
                    return
            else:
                self._fill(now)
                self._roll(now)
            for key, _ in self._selector.select(self._pause(now)):
                self._read(key)

    def _pause(self, now: float) -> float:
        """Seconds until something is due without a signal or a byte."""
        due = [slot.start_at for slot in self._slots if slot.worker is None]
        due += [worker.stopping for worker in self._all() if worker.stopping is not None]
        if self.spare and self._spare is None and self._spare_at > now:
            due.append(self._spare_at)
        return max(0.01, min(due) - now) if due else 60.0

    def _all(self) -> list[Worker]:
        placed = [worker for slot in self._slots for worker in (slot.worker, slot.successor)]
        return [worker for worker in (*placed, self._spare) if worker is not None]

    def _fill(self, now: float) -> None:
        for number, slot in enumerate(self._slots):
            if slot.worker is not None:
                continue
            spare = self._spare
            if spare is not None and spare.stopping is None:
                self._spare, slot.worker, spare.slot = None, spare, number
                _log.info("spare_serves", slot=number, worker=spare.pid)
                _write(spare.control, TAKE + b"%d\n" % number)
                self._tell_all()
            elif now >= slot.start_at:
                slot.worker = self._start(number)
        if not self.spare:
            return
        if not self._renewed and self._spare is not None:
            if self._spare.stopping is None:
                self._terminate(self._spare, now)
            return
        self._renewed = True
        # Not beside a start that somebody waits for.
        calm = not self._rolling and all(s.worker and s.worker.ready for s in self._slots)
        if calm and self._spare is None and now >= self._spare_at:
            self._spare = self._start(None)

    def _roll(self, now: float) -> None:
        """One step of a rolling restart: successor, then the old one's end, then the next slot."""
        while self._rolling:
            slot = self._slots[self._rolling[0]]
            if slot.worker is None:
                self._rolling.pop(0)  # it is being replaced anyway
            elif slot.worker.stopping is not None:
                return
            elif slot.successor is None:
                slot.successor = self._start(self._rolling[0])
                return
            elif not slot.successor.ready:
                return
            else:
                self._terminate(slot.worker, now)
                return

    def _start(self, number: int | None) -> Worker:
        """A process for a slot, or a spare."""
        taken = {worker.files for worker in self._all()}
        files = next(free for free in itertools.count() if free not in taken)
        status, telling = os.pipe()
        hearing, control = os.pipe()
        inherited = Inherited(
            [each.listening for each in self._slots],
            self._pipe[0],
            hearing,
            lambda: _write(telling, b"r"),
        )
        worker = Worker(number, files, inherited, self._directory, status, control)
        # A signal between the fork and the child's own handlers would be lost in the child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        worker.pid = os.fork()
        if worker.pid == 0:
            self._become(worker, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(telling)
        os.close(hearing)
        os.set_blocking(status, False)
        os.set_blocking(control, False)
        self._selector.register(status, selectors.EVENT_READ, worker)
        if self._deserted is not None:
            self._tell(worker, self._deserted)
        _log.info("worker_started", slot=number, worker=worker.pid)
        return worker

    def _become(self, worker: Worker, mask: set[signal.Signals | int]) -> None:
        """In the child: never returns."""
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                theirs = number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # the parent's
                signal.signal(number, signal.SIG_IGN if theirs else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._selector.close()
            os.close(self._pipe[1])
            for other in (worker, *self._all()):
                os.close(other.status)
                os.close(other.control)
            code = self.body(worker)
        except BaseException as error:  # noqa: BLE001  # nothing may unwind into the parent's frames
            _log.error("worker_failed", slot=worker.slot, exc_info=error)
        finally:
            os._exit(code)  # the parent's exit handlers are not the child's

    def _tell_all(self) -> None:
        """Workers that are ready serve in the place of those that are not."""
        deserted = tuple(
            number
            for number, slot in enumerate(self._slots)
            if not any(w is not None and w.ready for w in (slot.worker, slot.successor))
        )
        if deserted != self._deserted:
            self._deserted = deserted
            for worker in self._all():
                self._tell(worker, deserted)

    def _tell(self, worker: Worker, deserted: tuple[int, ...]) -> None:
        _write(worker.control, " ".join(map(str, deserted)).encode() + b"\n")

    def _read(self, key: selectors.SelectorKey) -> None:
        worker = key.data
        if worker is None:  # a signal: its handler has done the rest
            with contextlib.suppress(BlockingIOError):
                key.fileobj.recv(4096)  # type: ignore[union-attr]  # the socket of `_signals`
            return
        if not os.read(worker.status, 16):
            self._selector.unregister(worker.status)  # it ends; SIGCHLD tells how
            return
        worker.ready = True
        if worker.slot is None:
            self._spare_failures = 0
            _log.info("spare_ready", worker=worker.pid)
            return
        self._slots[worker.slot].failures = 0
        self._tell_all()
        if not self._announced and all(s.worker and s.worker.ready for s in self._slots):
            self._announced = True
            _log.info("ready", url=self.url, workers=self.workers)
            self.on_ready(self.url)

    def _reap(self) -> None:
        for worker in self._all():
            try:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = worker.pid, 0  # somebody else has waited for it
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(worker.status)
        os.close(worker.status)
        os.close(worker.control)
        shared_metrics.forget(self._directory, worker.files)
        expected = worker.stopping is not None
        if not expected:
            _log.error("worker_ended", slot=worker.slot, worker=worker.pid, code=code)
        if worker.slot is None:
            self._spare = None
            if not (worker.ready or expected):
                self._spare_failures += 1
                self._spare_at = _later(self._spare_failures)
            return
        slot = self._slots[worker.slot]
        if slot.successor is worker:
            slot.successor = None
            if self._rolling and not expected:
                self._rolling.clear()
                _log.error("restart_abandoned", slot=worker.slot)
            return
        slot.worker, slot.successor = slot.successor, None
        self._tell_all()
        if slot.worker is not None:
            self._rolling = [number for number in self._rolling if number != worker.slot]
        if worker.ready or expected:
            return
        slot.failures += 1
        slot.start_at = _later(slot.failures)
        if slot.failures >= START_FAILURES and not any(w.ready for w in self._all()):
            _log.error("gave_up", failures=slot.failures)
            self._gave_up = True

    def _stop(self, now: float) -> bool:
        """One step of stopping; False when all have ended."""
        for slot in self._slots:
            slot.listening.close()  # the workers' own are the last, and close when they are done
        workers = self._all()
        for worker in workers:
            if worker.stopping is None:
                self._terminate(worker, now)
            elif now >= worker.stopping or self._killing:
                self._signal(worker, signal.SIGKILL)
                worker.stopping = now + SPARE
        return bool(workers)

    def _terminate(self, worker: Worker, now: float) -> None:
        worker.stopping = now + self.stopping.delay + self.stopping.grace + SPARE
        self._signal(worker, signal.SIGTERM)

    def _signal(self, worker: Worker, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, number)


def _later(failures: int) -> float:
    """When what failed to start so often in a row is tried again."""
    return time.monotonic() + min(LONGEST_PAUSE, 0.05 * 2.0**failures)


def _write(descriptor: int, line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, BlockingIOError):  # it ends; SIGCHLD tells how
        os.write(descriptor, line)
