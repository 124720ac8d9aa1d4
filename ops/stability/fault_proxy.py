"""A TCP proxy that goes wrong on command: between the service and its stores.

    python ops/stability/fault_proxy.py NAME=UNIX_SOCKET...

Prints {"NAME": port, ...} and then takes a JSON object a line from standard input:
{"name": ..., "fault": ..., "value": ...}. It ends with its standard input.

| fault | what happens |
|---|---|
| none | it passes everything on |
| latency | each piece waits `value` seconds, in both directions |
| stall | connections stay open, and nothing moves |
| refuse | connections are reset and no new one is taken: the store is dead |
| reset | connections are reset, and so is each new one with its first byte |
| cut | connections are closed once, in the middle of whatever they do; new ones work |
| bandwidth | `value` bytes a second, a connection |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by RST


class FaultProxy:
    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.port = 0
        self._fault, self._value = "none", 0.0
        self._moves = asyncio.Event()
        self._moves.set()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(
            self._connection, "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def set(self, fault: str, value: float = 0.0) -> None:
        if fault not in ("none", "latency", "stall", "refuse", "reset", "cut", "bandwidth"):
            raise ValueError(f"there is no fault {fault!r}")
        self._fault, self._value = fault, value
        if fault == "stall":
            self._moves.clear()
        else:
            self._moves.set()
        if fault == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
        if fault in ("refuse", "reset", "cut"):
            for writer in list(self._open):
                self._end(writer, reset=fault != "cut")
        if fault != "refuse" and self._server is None:
            await self.listen()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self.backend)
        except OSError:
            self._end(writer, reset=True)
            return
        self._open |= {writer, inner_writer}
        try:
            await asyncio.gather(self._pump(reader, inner_writer), self._pump(inner_reader, writer))
        finally:
            for one in (writer, inner_writer):
                self._open.discard(one)
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._moves.wait()
                if self._fault == "reset":
                    break
                if self._fault == "latency":
                    await asyncio.sleep(self._value)
                elif self._fault == "bandwidth":
                    await asyncio.sleep(len(data) / self._value)
                writer.write(data)
                await writer.drain()
        self._end(writer, reset=self._fault == "reset")

    @staticmethod
    def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
        inner = writer.get_extra_info("socket")
        if reset and inner is not None and inner.family == socket.AF_INET:
            with contextlib.suppress(OSError):
                inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()


async def main(backends: dict[str, str]) -> None:
    proxies = {name: FaultProxy(backend) for name, backend in backends.items()}
    for proxy in proxies.values():
        await proxy.listen()
    print(json.dumps({name: proxy.port for name, proxy in proxies.items()}), flush=True)
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command = json.loads(line)
        await proxies[command["name"]].set(command["fault"], command.get("value", 0.0))
        print("{}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(dict(argument.split("=", 1) for argument in sys.argv[1:])))
