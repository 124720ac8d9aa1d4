"""The HTTP server of one process: an application on sockets that others made.

`Service` is the seam between a process and what it serves: `app.container` makes it, `app.cli`
runs it (see app/cli/server_process.py for when each part is called).
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from aiohttp import web

from app.http.admission import Admission
from app.http.connection import Connection
from app.http.direct import DIRECT
from app.http.health import Readiness
from app.telemetry.logs import get as get_log
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output

BACKLOG: Final = 4096
IDLE_SECONDS: Final = (
    75.0  # longer than load balancers keep a connection (60 s), so that they close first
)
LINGER_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 5.0  # how often connections are looked at for clients that make no progress

_log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on every request. An operation may have its own for the body."""

    body_bytes: int = 8 * 1024 * 1024
    line_bytes: int = 16 * 1024  # of the request line, the URL with its query included
    header_bytes: int = 16 * 1024  # of one header
    headers: int = 100
    connections: int = 10_000  # at the same time; one more is refused
    admission: Admission | None = None  # None: everybody is let in


@dataclass(slots=True)
class Place:
    """Where a service runs: one of several processes that share a port and their metrics."""

    output: Output  # where log lines go
    metrics: Metrics
    metrics_directory: Path | None = None  # shared by all workers; None: there is only this one
    slot: int | None = 0  # which of the workers; None: a spare, until it is given one


class Service(Protocol):
    """All that one process serves, made after the fork and within its event loop."""

    @property
    def application(self) -> web.Application: ...

    @property
    def readiness(self) -> Readiness: ...

    @property
    def limits(self) -> Limits: ...

    async def start(self) -> None:
        """Connect, load, warm up, and return once requests can be served well. Stores that are
        away are waited for; readiness says for what. It may be cancelled."""
        ...

    async def stop(self) -> None:
        """Flush and close. Called once, after the last request, even if `start` did not end."""
        ...


def listening_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening TCP socket. Port 0: a free one. `shared`: other processes' sockets may listen
    there too (SO_REUSEPORT), and the kernel spreads connections over them.

    Raises:
        OSError: the address is taken, or not this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


class Server:
    """Serves `application`. `start`, then `listen`; `stop` lets what was begun come to its end."""

    def __init__(self, application: web.Application, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._runner = web.AppRunner(application, handle_signals=False)
        self._direct = application.get(DIRECT)
        self._limits = limits
        self._looking: asyncio.Task[None] | None = None
        self._arguments = {
            "max_line_size": limits.line_bytes,
            "max_field_size": limits.header_bytes,
            "max_headers": limits.headers,
            "keepalive_timeout": IDLE_SECONDS,
            "access_log": None,
        }
        self._listeners: list[asyncio.Server] = []

    async def start(self) -> None:
        await self._runner.setup()
        if self._limits.admission is not None:
            self._limits.admission.start()
        self._looking = asyncio.create_task(self._look(), name="connections")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            server = self._runner.server
            found = [] if server is None else list(server.connections)
            ended = sum(one.look(loop.time()) for one in found if isinstance(one, Connection))
            if ended:
                _log.warning("slow_clients_ended", connections=ended)

    async def listen(self, listening: socket.socket) -> asyncio.Server:
        """Accept connections on a listening socket, which is this server's from now on, until what
        is returned is closed. Where another process has the socket too, connections that wait in
        it then are that one's."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(self.connection, sock=listening, backlog=BACKLOG)
        self._listeners.append(listener)
        return listener

    def connection(self) -> asyncio.Protocol:
        """What answers on one connection."""
        server = self._runner.server
        if server is None:
            raise RuntimeError("the server is not started")
        return Connection(
            server,
            loop=asyncio.get_running_loop(),
            admission=self._limits.admission,
            full=len(server.connections) >= self._limits.connections,
            direct=self._direct,
            **self._arguments,
        )

    @property
    def connections(self) -> int:
        return 0 if self._runner.server is None else len(self._runner.server.connections)

    def close(self) -> None:
        """Accept no more connections."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def stop(self, grace: float) -> None:
        """Accept no more, and wait `grace` seconds at most for requests that were begun.

        Connections without one are given a moment: their next request may be on its way, and is
        answered with `Connection: close` (see `Readiness.draining`) instead of a closed door.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + min(LINGER_SECONDS, grace)
        await asyncio.sleep(0)  # one more look at the listening socket: nobody waits in it in vain
        self.close()
        if self._looking is not None:
            self._looking.cancel()
        if self._limits.admission is not None:
            self._limits.admission.stop()
        while self.connections and loop.time() < until:  # noqa: ASYNC110  # aiohttp tells no event
            await asyncio.sleep(0.01)
        server = self._runner.server
        if server is not None:
            await asyncio.sleep(0)  # what has come until now is read
            for one in list(server.connections):
                if isinstance(one, Connection):
                    one.end_idle()
            server.pre_shutdown()
            await server.shutdown(max(0.0, grace - LINGER_SECONDS))
        await self._runner.cleanup()
