"""The floor: aiohttp on uvloop that sends the same 4 KB for every request."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

BODY = b'{"response":"' + b"x" * 4080 + b'"}'


async def fixed(_request: web.Request) -> web.Response:
    return web.Response(body=BODY, content_type="application/json")


async def main(port: int) -> None:
    application = web.Application()
    application.router.add_get("/{path:.*}", fixed)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
