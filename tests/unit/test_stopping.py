"""A task that swallows its cancellation is ended all the same."""

from __future__ import annotations

import asyncio

from app.services.stopping import stop


async def test_a_task_that_swallows_a_cancellation_is_told_again() -> None:
    heard = 0

    async def stubborn() -> None:
        nonlocal heard
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                heard += 1
                if heard == 3:
                    raise

    async def failing() -> None:
        raise ValueError

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    await stop(*tasks)
    assert heard == 3
    assert tasks[0].cancelled()
    assert tasks[1].done()
    await stop()
