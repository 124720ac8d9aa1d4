"""Ends tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any, Final

PAUSE: Final = 0.2  # seconds until a task that did not heed is told again


async def stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks until they have ended; what they raise is not raised.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, with which redis-py sends, swallows
    a cancellation that comes as its own wait ends (CPython gh-86296), and a loop then goes on.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=PAUSE)
    await asyncio.gather(*tasks, return_exceptions=True)  # retrieves what they raised
