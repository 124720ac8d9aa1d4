"""One model's process, killed when it is late, and its successors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from app.domain.errors import VitrineError
from app.plugins import process_wire as wire
from app.plugins.process_link import Link, NotLoaded, Refusal
from app.services.running import Failure
from vitrine_sdk import Candidates, Context

log = structlog.get_logger(module=__name__)

FIRST_PAUSE: Final = 0.1  # seconds before a child that ended is started again; doubled each time
LONGEST_PAUSE: Final = 5.0
WAITING: Final = 32  # requests that may wait for their turn
_PASSED_ON: Final = ("PATH", "HOME", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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
        self._link: Link | None = None
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

    def answered(self, link: Link) -> None:
        self._failures = 0
        if link is self._link:
            self._release()

    def ended(self, link: Link) -> None:
        if link is not self._link:
            return
        self._link = None
        self._release()
        if not self._closed:
            log.warning("strategy_process_ended", configuration=self._name, reason=link.reason)
            self._restarting = asyncio.ensure_future(self._restart())

    def _overdue(self, link: Link) -> None:
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

    async def _spawn(self) -> tuple[Link, wire.Loaded]:
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
        link = Link(self, process)
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


def _environment() -> dict[str, str]:
    """What a strategy's process is told of ours: no address, no secret."""
    known = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(("PYTHON", "LC_", "LANG"))
    }
    return {**dict.fromkeys(_ONE_THREAD, "1"), **known}
