"""The body of one server process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import uvloop

from app.http.server import Place, Server, Service
from app.telemetry.logs import get as get_log

PATIENCE: Final = 2.0
"""Seconds that new connections wait, in the listening socket, for a process that is warming up.
After them they are answered, with 503 where need be."""

_log = get_log("server")


@dataclass(frozen=True, slots=True)
class Stopping:
    """How a process stops."""

    grace: float = 20.0  # seconds that requests which were begun may take
    delay: float = 0.0  # seconds of full service, while readiness tells load balancers to go


def run(
    build: Callable[[Place], Service],
    place: Place,
    listening: socket.socket,
    stopping: Stopping,
    *,
    parent: int,
    ready: Callable[[], None],
) -> int:
    """Serve on `listening` until SIGTERM, or until the parent has gone: `parent` is the reading end
    of a pipe that it holds open. `ready` is called once the service has started.

    Returns the process' exit code: 0, or 1 where the service could not start.
    """
    return uvloop.run(_serve(build, place, listening, stopping, parent, ready))


async def _serve(
    build: Callable[[Place], Service],
    place: Place,
    listening: socket.socket,
    stopping: Stopping,
    parent: int,
    ready: Callable[[], None],
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C: the parent decides
    loop.add_reader(parent, stop.set)

    service = build(place)
    service.readiness.warm = False
    server = Server(service.application, service.limits)
    await server.start()
    asked = asyncio.ensure_future(stop.wait())
    starting = asyncio.ensure_future(service.start())
    await asyncio.wait((starting, asked), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    await server.listen(listening)
    await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)

    failed = starting.done() and starting.exception() is not None
    if failed:
        _log.error("start_failed", slot=place.slot, exc_info=starting.exception())
    elif starting.done():
        gc.collect()
        gc.freeze()  # what lives as long as the process is not looked through again
        service.readiness.warm = True
        place.metrics.ready.set(1)
        ready()
        _log.info("serving", slot=place.slot)
        await asked
    loop.remove_reader(parent)
    service.readiness.draining = True
    place.metrics.ready.set(0)
    _log.info("draining", slot=place.slot, connections=server.connections)
    if not failed:
        await asyncio.sleep(stopping.delay)
    asked.cancel()
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):  # it is logged above
        await starting
    await server.stop(stopping.grace)
    await service.stop()
    _log.info("stopped", slot=place.slot)
    return 1 if failed else 0
