"""`vitrine worker` shows at /metrics what became of jobs and how many wait."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.jobs.queue import JobQueue

VITRINE = Path(sys.executable).with_name("vitrine")
PATIENCE = 60.0


@pytest.fixture
def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def worker(database_url: str, redis_url: str, tmp_path: Path, port: int) -> Iterator[None]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VITRINE_")},
        "VITRINE_DATABASE_URL": database_url,
        "VITRINE_REDIS_URL": redis_url,
        "VITRINE_HOME": str(tmp_path),
        "VITRINE_WORKER_METRICS": str(port),
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([VITRINE, "worker"], env=environment, stdout=log, stderr=log)
    yield
    process.terminate()
    assert process.wait(PATIENCE) == 0, (tmp_path / "log").read_text()


async def seen(port: int, line: str) -> None:
    """Waits until /metrics has this line."""
    until = time.monotonic() + PATIENCE
    text = ""
    async with aiohttp.ClientSession() as http:
        while line not in text.splitlines():
            assert time.monotonic() < until, text
            await asyncio.sleep(0.1)
            try:
                async with http.get(f"http://127.0.0.1:{port}/metrics") as response:
                    text = await response.text()
            except aiohttp.ClientError as error:
                text = str(error)


async def test_jobs_are_counted(worker: None, database_url: str, merchant: Any, port: int) -> None:
    queue = JobQueue(database_url)
    await queue.open()
    # Of a task that is not there: nothing is left to do.
    await queue.enqueue("training", {"merchant": merchant.id, "task_id": 1})
    await seen(port, 'vitrine_jobs_total{outcome="done",task="training"} 1.0')
    await seen(port, 'vitrine_job_duration_seconds_count{task="training"} 1.0')
    await queue.close()


async def test_what_waits_is_measured(database_url: str, merchant: Any) -> None:
    queue = JobQueue(database_url)
    await queue.open()
    assert await queue.depth() == (0, 0.0)
    for number in range(3):
        await queue.enqueue("training", {"merchant": merchant.id, "task_id": number})
    jobs, oldest = await queue.depth()
    assert jobs == 3
    assert oldest > 0
    await queue.close()
