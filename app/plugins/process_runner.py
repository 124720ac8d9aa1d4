"""Models that run in processes of their own: killed when they are late, and started again.

One child a model and server process, that answers one request at a time; those that wait for their
turn do so until their own deadline. The child maps the artefact by itself, so the server holds
nothing of the model. What it answers is read only up to the length that was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from app.domain.errors import VitrineError
from app.plugins import process_wire as wire
from app.services.running import Failure
from vitrine_sdk import Candidates, Context

log = structlog.get_logger(module=__name__)

FIRST_PAUSE: Final = 0.1  # seconds before a child that ended is started again; doubled each time
LONGEST_PAUSE: Final = 5.0
WAITING: Final = 32  # requests that may wait for their turn
_PASSED_ON: Final = ("PATH", "HOME", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_decode_loaded = msgspec.msgpack.Decoder(wire.Loaded).decode
_decode_told = msgspec.msgpack.Decoder(wire.Told).decode


class NotLoaded(Exception):
    """A model's process could not be made to serve. The message is for the operator."""


class Refusal(NamedTuple):
    failure: Failure
    detail: str | None = None


class ChildModel:
    """Stands for a model that lives in a process. The process ends when nobody refers to this."""

    __slots__ = ("__weakref__", "_process")

    def __init__(self, process: StrategyProcess) -> None:
        self._process = process
        weakref.finalize(self, process.let_go)

    @property
    def pid(self) -> int | None:
        """None: it is being started again."""
        return self._process.pid

    def recommend(self, context: Context, limit: int) -> Candidates:  # noqa: ARG002
        """Not here: see `ask`."""
        raise RuntimeError("this model runs in a process of its own")

    async def ask(self, context: Context, limit: int, deadline: float) -> Candidates | Refusal:
        """Candidates of the right form, not yet looked at, or why there are none."""
        return await self._process.ask(context, limit, deadline)


class StrategyProcesses:
    """Starts them, and ends those that are left when the server stops.

    Args:
        memory_mib: that each may take, beyond the interpreter and the artefact.
        patience: seconds that a run may take before its process is killed. The request's own
            deadline ends only the waiting, which may have begun long after the others'.
        start_seconds: that loading may take.
    """

    def __init__(
        self,
        *,
        memory_mib: int | None = 1024,
        patience: float = 0.1,
        start_seconds: float = 60.0,
    ) -> None:
        self._memory_mib = memory_mib
        self._patience = patience
        self._start_seconds = start_seconds
        self._running: weakref.WeakSet[StrategyProcess] = weakref.WeakSet()

    async def start(
        self,
        name: str,
        *,
        strategy: str,
        config: Mapping[str, Any],
        locate: Callable[[], Path],
        arrays: tuple[str, ...],
        items: int,
    ) -> tuple[ChildModel, wire.Loaded]:
        """
        Args:
            name: of the strategy configuration, for the log.
            locate: gives the artefact's directory; called in a thread, at each start.

        Raises:
            NotLoaded: the model cannot be loaded, or not in time.
            VitrineError: the artefact cannot be had.
        """
        job = wire.Job(
            strategy=strategy,
            config=dict(config),
            directory="",
            arrays=arrays,
            items=items,
            memory_mib=self._memory_mib,
        )
        process = StrategyProcess(name, job, locate, self._patience, self._start_seconds)
        self._running.add(process)
        loaded = await process.start()
        return ChildModel(process), loaded

    async def close(self) -> None:
        for process in list(self._running):
            await process.close()


class StrategyProcess:
    """One model's process, and its successors."""

    def __init__(
        self,
        name: str,
        job: wire.Job,
        locate: Callable[[], Path],
        patience: float,
        start_seconds: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._job = job
        self._locate = locate
        self._patience = patience
        self._start_seconds = start_seconds
        self._link: _Link | None = None
        self._busy = False
        self._turns: deque[asyncio.Future[None]] = deque()
        self._failures = 0  # ends in a row, without an answer between them
        self._restarting: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        return None if self._link is None else self._link.pid

    async def start(self) -> wire.Loaded:
        try:
            self._link, loaded = await self._spawn()
        except BaseException:
            self._closed = True
            raise
        return loaded

    def let_go(self) -> None:
        """From whatever thread: end the process."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the child sees its end
            self._loop.call_soon_threadsafe(self._end)

    async def close(self) -> None:
        link = self._link
        self._end()
        if self._restarting is not None:
            await asyncio.gather(self._restarting, return_exceptions=True)
        if link is not None:
            await link.gone()

    async def ask(self, context: Context, limit: int, deadline: float) -> Candidates | Refusal:
        refusal = await self._turn(deadline) if self._busy else None
        if refusal is not None:
            return refusal
        link = self._link
        if link is None:
            self._release()
            return Refusal(Failure.DOWN)
        self._busy = True
        answer: asyncio.Future[Candidates | Refusal] = self._loop.create_future()
        link.ask(wire.asked(context, limit), limit, answer)
        link.killer = self._loop.call_at(
            max(deadline, self._loop.time() + self._patience), self._overdue, link
        )
        try:
            async with asyncio.timeout_at(deadline):
                return await answer
        except TimeoutError:
            return Refusal(Failure.LATE)

    async def _turn(self, deadline: float) -> Refusal | None:
        """Waits until the process is this request's."""
        if len(self._turns) >= WAITING:
            return Refusal(Failure.BUSY)
        turn: asyncio.Future[None] = self._loop.create_future()
        self._turns.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                self._release()  # it came in the very same moment
            if isinstance(error, TimeoutError):
                return Refusal(Failure.BUSY)
            raise
        return None

    def _release(self) -> None:
        """The next that waits has its turn; `_busy` goes over to it."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False

    def answered(self, link: _Link) -> None:
        """Called by the link when it has settled an answer."""
        self._failures = 0
        if link is self._link:
            self._release()

    def ended(self, link: _Link) -> None:
        """Called by the link once, when the connection is gone."""
        if link is not self._link:
            return
        self._link = None
        self._release()
        if not self._closed:
            log.warning("strategy_process_ended", configuration=self._name, reason=link.reason)
            self._restarting = asyncio.ensure_future(self._restart())

    def _overdue(self, link: _Link) -> None:
        link.kill(Refusal(Failure.LATE, "killed"))

    def _end(self) -> None:
        self._closed = True
        if self._restarting is not None:
            self._restarting.cancel()
        link, self._link = self._link, None
        if link is not None:
            link.kill(Refusal(Failure.DOWN))
        self._release()

    async def _restart(self) -> None:
        while not self._closed:
            await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._failures))
            self._failures = min(self._failures + 1, 16)
            try:
                link, _ = await self._spawn()
            except (NotLoaded, VitrineError) as error:
                log.error(
                    "strategy_process_not_started", configuration=self._name, reason=str(error)
                )
                continue
            if link.lost:
                continue
            self._link = link
            log.info("strategy_process_started", configuration=self._name, pid=link.pid)
            return

    async def _spawn(self) -> tuple[_Link, wire.Loaded]:
        directory = await asyncio.to_thread(self._locate)
        job = msgspec.structs.replace(self._job, directory=str(directory))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "app.plugins.process_child", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # what it starts itself ends with it
                    env=_environment(),
                )
            except OSError as error:
                ours.close()
                raise NotLoaded(f"no process can be started: {error.strerror}") from None
        link = _Link(self, process)
        try:
            await self._loop.create_unix_connection(lambda: link, sock=ours)
            loaded = self._loop.create_future()
            link.load(wire.frame(job), loaded)
            async with asyncio.timeout(self._start_seconds):
                answer: wire.Loaded = await loaded
        except TimeoutError:
            link.kill(Refusal(Failure.DOWN))
            raise NotLoaded(f"loading took longer than {self._start_seconds:g} s") from None
        except BaseException:
            link.kill(Refusal(Failure.DOWN))
            raise
        if answer.error is not None:
            link.kill(Refusal(Failure.DOWN))
            raise NotLoaded(answer.error)
        return link, answer


class _Link(asyncio.Protocol):
    """The connection to one child process."""

    def __init__(self, owner: StrategyProcess, process: asyncio.subprocess.Process) -> None:
        self._owner = owner
        self._process = process
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._longest = 0  # bytes of the body that may come
        self._answer: asyncio.Future[Candidates | Refusal] | None = None
        self._loaded: asyncio.Future[wire.Loaded] | None = None
        self.killer: asyncio.TimerHandle | None = None
        self.reason: str | None = None  # why it was killed
        self.lost = False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def gone(self) -> None:
        """Returns when the process has ended."""
        await self._process.wait()

    def load(self, frame: bytes, loaded: asyncio.Future[wire.Loaded]) -> None:
        self._loaded = loaded
        self._write(frame)

    def ask(self, frame: bytes, limit: int, answer: asyncio.Future[Candidates | Refusal]) -> None:
        self._answer = answer
        self._longest = limit * wire.ROW_BYTES
        self._write(frame)

    def kill(self, refusal: Refusal) -> None:
        """The child and all that it started, at once."""
        self.reason = self.reason or refusal.detail or refusal.failure.value
        self._settle(refusal)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # that of a stream

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.lost = True
        self.kill(Refusal(Failure.RAISED, "its process ended"))
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(NotLoaded("its process ended while it loaded"))
        self._owner.ended(self)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if len(buffer) < wire.LENGTHS.size:
            return
        header, body = wire.LENGTHS.unpack_from(buffer)
        if header > wire.MAX_HEADER or body > self._longest:
            self._broken("more than was asked for")
            return
        start = wire.LENGTHS.size + header
        if len(buffer) < start + body:
            return
        if len(buffer) > start + body:
            self._broken("it speaks unasked")
            return
        head, rest = bytes(buffer[wire.LENGTHS.size : start]), bytes(buffer[start:])
        buffer.clear()
        try:
            self._heard(head, rest)
        except msgspec.MsgspecError:
            self._broken("what it says cannot be read")

    def _heard(self, header: bytes, body: bytes) -> None:
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            said = _decode_loaded(header)
            if not loaded.done():
                loaded.set_result(said)
            return
        if self._answer is None:
            self._broken("it speaks unasked")
            return
        told = _decode_told(header)
        if told.failure == "memory":
            self.kill(Refusal(Failure.RAISED, told.detail))
        elif told.failure:
            self._settle(Refusal(Failure(told.failure), told.detail))
            self._owner.answered(self)
        else:
            candidates = wire.heard(told.count, body)
            if candidates is None:
                self._broken("its arrays have other lengths than it says")
                return
            self._settle(candidates)
            self._owner.answered(self)

    def _broken(self, what: str) -> None:
        self.kill(Refusal(Failure.INVALID, what))

    def _settle(self, outcome: Candidates | Refusal) -> None:
        if self.killer is not None:
            self.killer.cancel()
            self.killer = None
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():  # else who asked has gone on
            answer.set_result(outcome)

    def _write(self, frame: bytes) -> None:
        # One that is closing is lost in a moment, and then settled; to write to it raises.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)


def _environment() -> dict[str, str]:
    """What a strategy's process is told of ours: no address, no secret."""
    known = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(("PYTHON", "LC_", "LANG"))
    }
    return {**dict.fromkeys(_ONE_THREAD, "1"), **known}
