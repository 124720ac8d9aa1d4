"""The body of one server process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from app.http.server import Place, Server, Service
from app.telemetry.logs import get as get_log

PATIENCE: Final = 2.0
"""Seconds that new connections wait, in the listening socket, for a process that is warming up
where no other one serves. After them they are answered, with 503 where need be."""

TAKE: Final = b"take "
"""How a line begins that gives a spare its slot."""

WORKER: Final = "vitrine-worker"
SPARE: Final = "vitrine-spare"

TURN: Final = 0.0005
"""Seconds that a thread which loads a model or writes logs may go on while requests wait."""

COLLECTING: Final = (700, 5, 2_000)
"""Thresholds of the garbage collector. A full collection goes through all that came since the start
(prepared lists, items under way): 20 to 60 ms, some 30 times in an import of 100,000 items by the
usual (700, 10, 10), of nothing that was garbage. The young are collected as before, in less than a
millisecond."""

COLLECTED_EVERY: Final = 600.0  # seconds, all of it: what is garbage and old is not kept for days

_log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Stopping:
    """How a process stops."""

    grace: float = 20.0  # seconds that requests which were begun may take
    delay: float = 0.0  # seconds of full service, while readiness tells load balancers to go


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a process has from its parent."""

    sockets: Sequence[socket.socket]  # one a slot
    parent: int  # reading end of a pipe that ends when the parent does
    control: int  # reading end of the pipe by which `Doors` is told of the others and of its slot
    tell_ready: Callable[[], None]  # to be called once the service has started


class Doors:
    """On which of the sockets this process accepts connections: once it is warm its own, and those
    of processes that cannot serve now (killed, or still warming up), so that nobody waits while
    anyone can serve. A spare opens none until it is given a slot.

    Args:
        opened: called once, when this process is warm and has a slot.
    """

    def __init__(
        self,
        server: Server,
        sockets: Sequence[socket.socket],
        place: Place,
        opened: Callable[[], None],
    ) -> None:
        self._server = server
        self._sockets = sockets
        self._place = place
        self._opened = opened
        self._told = False  # `opened` was called
        self._open: dict[int, asyncio.Server] = {}
        self._deserted: frozenset[int] = frozenset()
        self._others_serve = False
        self._warm = self._impatient = False
        self._changed = asyncio.Event()
        self._rest = b""

    def warm(self) -> None:
        self._warm = True
        self._changed.set()

    def impatient(self) -> None:
        self._impatient = True
        self._changed.set()

    def hear(self, control: int) -> None:
        """The parent tells, a line each time: the slots of which no process is ready; or `TAKE` and
        the slot that is this process' from now on."""
        *lines, self._rest = (self._rest + os.read(control, 4096)).split(b"\n")
        for line in lines:
            if line.startswith(TAKE):
                self._place.slot = int(line.removeprefix(TAKE))
                name_process(spare=False)
            else:
                self._deserted = frozenset(int(slot) for slot in line.split())
                self._others_serve = len(self._deserted) < len(self._sockets)
        self._changed.set()

    async def run(self) -> None:
        """Opens and closes, until it is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            own = self._place.slot
            if own is None:
                continue
            if self._warm:
                wanted = {own, *self._deserted}
            else:
                wanted = {own} if self._impatient and not self._others_serve else set()
            for slot in self._open.keys() - wanted:
                self._open.pop(slot).close()
            for slot in wanted - self._open.keys():
                self._open[slot] = await self._server.listen(self._sockets[slot].dup())
            if self._warm and not self._told:
                self._told = True
                self._opened()


def name_process(*, spare: bool) -> None:
    """What `ps` and `top` show beside the command, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(SPARE if spare else WORKER)


def run(
    build: Callable[[Place], Service],
    place: Place,
    inherited: Inherited,
    stopping: Stopping,
) -> int:
    """Serve until SIGTERM, or until the parent has gone.

    Returns the process' exit code: 0, or 1 where the service could not start.
    """
    return uvloop.run(_serve(build, place, inherited, stopping))


async def _serve(
    build: Callable[[Place], Service],
    place: Place,
    inherited: Inherited,
    stopping: Stopping,
) -> int:
    name_process(spare=place.slot is None)
    sys.setswitchinterval(TURN)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C: the parent decides
    loop.add_reader(inherited.parent, stop.set)
    folding = asyncio.ensure_future(place.metrics.keep_folding())
    collecting = asyncio.ensure_future(_keep_collecting())

    service = build(place)
    service.readiness.warm = False
    server = Server(service.application, service.limits)
    await server.start()

    def opened() -> None:
        place.metrics.ready.set(1)
        _log.info("serving", slot=place.slot)

    doors = Doors(server, inherited.sockets, place, opened)
    opening = asyncio.ensure_future(doors.run())
    loop.add_reader(inherited.control, doors.hear, inherited.control)
    loop.call_later(PATIENCE, doors.impatient)
    asked = asyncio.ensure_future(stop.wait())
    starting = asyncio.ensure_future(service.start())
    await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)

    failed = starting.done() and starting.exception() is not None
    if failed:
        _log.error("start_failed", slot=place.slot, exc_info=starting.exception())
    elif starting.done():
        gc.collect()
        gc.freeze()  # what lives as long as the process is not looked through again
        gc.set_threshold(*COLLECTING)
        service.readiness.warm = True
        doors.warm()
        inherited.tell_ready()
        await asked
    loop.remove_reader(inherited.parent)
    loop.remove_reader(inherited.control)
    service.readiness.draining = True
    place.metrics.ready.set(0)
    _log.info("draining", slot=place.slot, connections=server.connections)
    if not failed:
        await asyncio.sleep(stopping.delay)
    for task in (asked, starting, opening):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):  # it is logged above
        await starting
    for listening in inherited.sockets:
        listening.close()
    await server.stop(stopping.grace)
    await service.stop()
    folding.cancel()
    collecting.cancel()
    place.metrics.fold()
    _log.info("stopped", slot=place.slot)
    return 1 if failed else 0


async def _keep_collecting() -> None:
    while True:
        await asyncio.sleep(COLLECTED_EVERY)
        gc.collect()
