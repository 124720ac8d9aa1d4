"""What starting any server takes: one owner at a time, orphans found, an orderly stop."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psutil

from app.embedded.binaries import EmbeddedError

ELSEWHERE: Final = "remove it, run as its owner, or name another place by VITRINE_HOME"
SOCKET_PATH_LIMIT: Final = 103  # bytes: 104 with the closing zero on BSD and macOS, 108 on Linux
_LOG_LIMIT: Final = 8 * 1024 * 1024


def prepare(home: Path, *parts: str) -> None:
    """Makes `home`, and directories in it.

    Raises:
        EmbeddedError: it may not be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        for part in parts:
            (home / part).mkdir(exist_ok=True)
    except OSError as error:
        raise EmbeddedError(f"cannot write {home} ({error.strerror}): {ELSEWHERE}") from error


def other_owner(home: Path) -> pwd.struct_passwd | None:
    """Where we are root and `home` is an ordinary user's: that user. Its servers then run as that
    user, who can go on with them later."""
    owner = home.stat().st_uid
    if os.geteuid() != 0 or owner == 0:
        return None
    try:
        return pwd.getpwuid(owner)
    except KeyError:
        return None


class OwnerLock:
    """Held by the process that started (or adopted) the server, and let go by the kernel when
    that process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._pid: int | None = None

    def acquire(self) -> bool:
        """
        Raises:
            EmbeddedError: the lock is another user's.
        """
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            raise EmbeddedError(f"{self._path.parent} is another user's: {ELSEWHERE}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file, self._pid = file, os.getpid()
        return True

    @property
    def held(self) -> bool:
        """False in a forked child: what its parent owns, it does not stop."""
        return self._file is not None and self._pid == os.getpid()

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def socket_directory(
    home: Path, name: str, socket: str, accounts: frozenset[int] = frozenset()
) -> Path:
    """Where the server's socket goes: below `home`, or, where that path would be too long for a
    Unix socket, in a short directory of the caller's own whose name follows from `home`.

    Raises:
        EmbeddedError: that short directory is neither the caller's nor one of `accounts`'.
    """
    directory = home.resolve() / "run" / name
    if len(os.fsencode(directory / socket)) <= SOCKET_PATH_LIMIT:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return directory
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    base = Path(tempfile.gettempdir())
    if len(os.fsencode(base)) > 40:
        base = Path("/tmp")  # its owner is checked below
    directory = base / f"vitrine-{os.geteuid()}-{digest}-{name}"
    directory.mkdir(exist_ok=True, mode=0o700)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {os.geteuid(), *accounts}:
        raise EmbeddedError(f"{directory} belongs to another user: remove it")
    return directory


def processes_in(directory: Path, names: Sequence[str]) -> list[psutil.Process]:
    """Running servers whose working directory is `directory`, whatever their pid files say."""
    found = []
    wanted = str(directory.resolve())
    for process in psutil.process_iter(["name", "status"]):
        name, status = process.info["name"], process.info["status"]
        if status == psutil.STATUS_ZOMBIE or not str(name).startswith(tuple(names)):
            continue
        try:
            if process.cwd() == wanted:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def end_processes(processes: Sequence[psutil.Process], patience: float) -> None:
    """Waits for processes that are about to end, then ends them."""
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=patience)


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    user: int | None = None,
    group: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a server in a session of its own: Ctrl-C in the terminal reaches only its owner,
    which then stops it in order."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )


def wait_until(
    ready: Callable[[], bool], *, failed: Callable[[], str | None], seconds: float
) -> None:
    """Waits until `ready`.

    Raises:
        EmbeddedError: with what `failed` tells, or when the time is over.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if (reason := failed()) is not None:
            raise EmbeddedError(reason)
        if time.monotonic() > deadline:
            raise EmbeddedError(f"not ready after {seconds:.0f} seconds")
        time.sleep(0.02)


def stop(process: psutil.Process, gentle: signal.Signals, patience: float) -> None:
    """Stops a server: asked first, killed when it does not."""
    try:
        process.send_signal(gentle)
        process.wait(patience)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(patience)
    except psutil.NoSuchProcess:
        pass


def log_tail(log: Path, lines: int = 8) -> str:
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
