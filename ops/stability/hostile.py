"""What no client of good will would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ops.stability.load import Record
from ops.stability.scene import Result, Scene, restarted
from ops.stability.world import ROOT


@contextlib.asynccontextmanager
async def patient(scene: Scene) -> AsyncIterator[None]:
    """The service without admission, which would refuse some of the cases before they are parsed:
    so each of them reaches what it is to break."""
    await restarted(scene, queue_seconds=0)
    try:
        yield
    finally:
        await restarted(scene)


async def hostile_bytes(scene: Scene) -> Result:
    """Bytes that are no request, or nearly one."""
    async with patient(scene):
        return await _bytes(scene)


async def _bytes(scene: Scene) -> Result:
    dice, world = random.Random(7), scene.world
    cases = max(500, int(10_000 * scene.scale))
    whole = [
        world.shop().recommendation(),
        world.shop().event("fuzz"),
        b"GET /recommendations/v1/pods/home?key=" + world.key.encode() + b"&filters[a]=1-2&"
        b"pre_filter_expression=%7B%22not%22%3A%7B%7D%7D HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v2/behavioral_action/purchase?key=" + world.key.encode() + b" HTTP/1.1\r\nHost: x"
        b'\r\nContent-Length: 40\r\n\r\n{"items":[{"item_id":"p1"}],"revenue":1} ',
    ]
    counts: dict[str, int] = {}
    pids = {worker.pid for worker in world.service.workers()}

    async def case() -> None:
        data = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(1, 8)):
            at = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[at] = dice.randrange(256)
                case 1:
                    del data[at : at + dice.randrange(1, 20)]
                case 2:
                    data[at:at] = bytes(dice.randrange(256) for _ in range(dice.randrange(1, 20)))
                case _:
                    data[at:at] = dice.choice(
                        (b"%00", b"\r\n", b"[[[[", b"{" * 100, b"1e999", b"\xff\xfe", b"-1", b"'--")
                    )
            if not data:
                data = bytearray(b"\0")
        reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
        answer = b""
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(bytes(data))
            async with asyncio.timeout(0.4):  # what is not whole is not answered
                answer = await reader.read(65_536)
        writer.transport.abort()
        status = answer[9:12].decode("latin1") if answer.startswith(b"HTTP/1.") else "none"
        counts[status] = counts.get(status, 0) + 1

    for start in range(0, cases, 50):
        await asyncio.gather(*(case() for _ in range(min(50, cases - start))))
    bad = {status: count for status, count in counts.items() if status.startswith("5")}
    result = _result(
        "hostile_bytes", cases, sum(bad.values()), answers=dict(sorted(counts.items()))
    )
    result.require(not bad, f"answers of the server's own failure: {bad}")
    result.require(
        pids == {worker.pid for worker in world.service.workers()}, "a worker ended meanwhile"
    )
    return result


HOOKS = ROOT / "tests" / "http" / "conformance_hooks.py"
PARSERS = ROOT / "tests" / "unit" / "test_hostile_input.py"


async def hostile_calls(scene: Scene) -> Result:
    """Schemathesis, all of its phases, over the whole OpenAPI document, as an administrator of a
    merchant of its own."""
    async with patient(scene):
        return await _calls(scene)


async def _calls(scene: Scene) -> Result:
    world = scene.world
    pids = {worker.pid for worker in world.service.workers()}
    key, tokens = await world.merchant("hostile", tokens=40)
    told = {"key": key, "tokens": tokens, "known": {}}
    output, code = await _run(
        world.home,
        str(Path(sys.executable).with_name("schemathesis")),
        *("run", f"http://127.0.0.1:{world.service.port}/openapi.json"),
        *("--checks=not_a_server_error", "--seed=1", "--generation-database=none"),
        *("--phases=examples,coverage,fuzzing,stateful", "--continue-on-failure", "--no-color"),
        *("--suppress-health-check=all", "--no-shrink", "--request-timeout=60"),
        f"--max-examples={max(2, round(8 * scene.scale))}",
        f"--max-time={max(30, round(90 * scene.scale))}",
        environment={
            "SCHEMATHESIS_HOOKS": HOOKS.stem,
            "PYTHONPATH": str(HOOKS.parent),
            "VITRINE_CONFORMANCE": json.dumps(told),
        },
    )
    found = re.search(r"Test cases:\s*(\d+) generated", output)
    bad = len(re.findall(r"^- Server error", output, re.M))
    result = _result("hostile_calls", int(found[1]) if found else 0, failed=bad)
    result.require(found is not None, f"it did not run: {output[-2000:]}")
    # What it says of failures and errors, without how much it covered.
    told = "".join(re.findall(r"^=+ (?:FAILURES|ERRORS) =+\n.*?(?=^=)", output, re.M | re.S))
    result.require(code == 0 and not bad, (told or output)[:4000])
    result.require(
        pids == {worker.pid for worker in world.service.workers()}, "a worker ended meanwhile"
    )
    return result


async def hostile_parsers(scene: Scene) -> Result:
    """Hypothesis on the parsers of what strangers send."""
    examples = max(60, round(600 * scene.scale))
    output, code = await _run(
        ROOT,
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PARSERS)),
        environment={"VITRINE_TEST_EXAMPLES": str(examples)},
    )
    found = re.search(r"(\d+) passed", output)
    parsers = int(found[1]) if found else 0
    result = _result("hostile_parsers", parsers * examples, failed=0 if code == 0 else 1)
    result.require(code == 0 and parsers > 0, output[-3000:])
    return result


async def _run(folder: Path, *command: str, environment: dict[str, str]) -> tuple[str, int | None]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    return output, process.returncode


def _result(name: str, requests: int, failed: int, **more: Any) -> Result:
    return Result(name, {"requests": requests, "failed": failed, **more}, Record())
