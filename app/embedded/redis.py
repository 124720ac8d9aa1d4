"""An embedded Redis, started from a binary and owned."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil

from app.embedded import process
from app.embedded.binaries import EmbeddedError, redis_binary

_SOCKET: Final = "redis.sock"
_NAMES: Final = ("redis-server", "valkey-server")


class EmbeddedRedis:
    """A Redis with its data in `home`/redis, reached over a Unix socket.

    Args:
        home: the directory for data, log and socket; made if missing.
        durable: whether it keeps its data over a restart (append-only file, one fsync a second).
        binary: which program; None: chosen.
    """

    def __init__(self, home: Path, *, durable: bool = True, binary: Path | None = None) -> None:
        self._home = home.absolute()
        self._durable = durable
        self._binary = binary
        self._data = self._home / "redis"
        self._log = self._home / "redis.log"
        self._lock = process.OwnerLock(self._home / "redis.lock")
        self._socket: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def owned(self) -> bool:
        """Whether this object stops the server; False: another process of ours runs it."""
        return self._lock.held

    @property
    def url(self) -> str:
        """unix:///path, as redis-py reads it."""
        if self._socket is None:
            raise RuntimeError("not started")
        return f"unix://{quote(str(self._socket))}?db=0"

    def start(self) -> None:
        """Starts the server, adopts an orphaned one, or attaches to one that another process owns.

        Raises:
            EmbeddedError: it cannot run here; the message tells why.
        """
        process.prepare(self._home, "redis")
        self._socket = process.socket_directory(self._home, "redis", _SOCKET) / _SOCKET
        deadline = time.monotonic() + 60
        while not self._lock.acquire():
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"another process holds {self._home}/redis.lock, and its"
                    f" server does not answer:\n{process.log_tail(self._log)}"
                )
            time.sleep(0.05)
        try:
            if not (self._running() and self._answers()):
                self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server if this object owns it; else does nothing."""
        if not self._lock.held:
            return
        try:
            for running in self._running():
                process.stop(running, signal.SIGTERM, 30)
            if self._child is not None:
                self._child.wait()
        finally:
            self._child = None
            self._lock.release()

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self) -> None:
        process.end_processes(self._running(), 0)
        command = [
            str(self._binary or redis_binary()),
            "--port", "0",
            "--unixsocket", str(self._socket),
            "--unixsocketperm", "600",
            "--dir", str(self._data),
            "--daemonize", "no",
            "--save", "",
            "--appendonly", "yes" if self._durable else "no",
            "--appendfsync", "everysec",
            "--databases", "1",
        ]  # fmt: skip
        owner = process.other_owner(self._home)
        if owner is not None and self._socket is not None:
            for path in (self._data, self._socket.parent):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        child = self._child = process.spawn(
            command,
            log=self._log,
            cwd=self._data,
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
        )

        def failed() -> str | None:
            if child.poll() is None:
                return None
            return f"Redis did not start:\n{process.log_tail(self._log)}"

        process.wait_until(self._answers, failed=failed, seconds=60)

    def _running(self) -> list[psutil.Process]:
        return process.processes_in(self._data, _NAMES)

    def _answers(self) -> bool:
        """Whether it answers a PING; while it loads its data, it does not."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            try:
                client.connect(str(self._socket))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
            except OSError:
                return False
