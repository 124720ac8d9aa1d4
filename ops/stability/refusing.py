"""A server that refuses everything, to measure what one refusal costs.

    python -m ops.stability.refusing

Prints its port, and, when its standard input ends, the processor's seconds that it has used since a
first line came there.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from aiohttp import web

from app.http.admission import Admission
from app.http.server import Limits, Server, listening_socket


class _Full(Admission):
    def start(self) -> None:
        self.share = 1.0

    def refuses(self) -> bool:
        super().refuses()  # what it costs to ask
        return True


async def main() -> None:
    admission = _Full(clock=time.monotonic, spent=time.process_time)
    server = Server(web.Application(), Limits(admission=admission))
    await server.start()
    listening = listening_socket("127.0.0.1", 0)
    await server.listen(listening)
    print(listening.getsockname()[1], flush=True)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await lines.readline()
    before = time.process_time()
    await lines.read()
    print(time.process_time() - before, flush=True)
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
