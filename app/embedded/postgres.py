"""An embedded PostgreSQL: initialised once, started, adopted when its starter was killed."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from app.embedded import process
from app.embedded.binaries import (
    EmbeddedError,
    PostgresBinaries,
    choose_postgres,
    copy_wheel,
    reachable,
)

SUPERUSER: Final = "postgres"
OWNER_ROLE: Final = "vitrine_owner"
APP_ROLE: Final = "vitrine_app"
DATABASE: Final = "vitrine"

_SOCKET: Final = ".s.PGSQL.5432"
_SYSTEM_DIRECTORY: Final = Path("/var/lib/vitrine")
_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "jit": "off",
    # Parallel plans want shared memory, of which a container has 64 MiB by default.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_FAST_AND_LOSE: Final[Mapping[str, str]] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class EmbeddedPostgres:
    """A PostgreSQL with its data in `home`/postgres, reached over a Unix socket.

    Whoever may enter as which role is decided by the operating system (peer authentication): the
    caller's account, and nobody else's, is let in as each of the three roles. No password exists.

    PostgreSQL refuses to run as root. Then it runs as the account `postgres`, else `nobody`; where
    that account cannot reach `home` (a checkout below /root), the data lie in /var/lib/vitrine, and
    `home`/postgres is a link to it: with the link removed, the data are begun anew.

    Args:
        home: the directory for data, log and socket; made if missing.
        durable: False turns off fsync, for tests.
        binaries: which installation; None: chosen.
    """

    def __init__(
        self, home: Path, *, durable: bool = True, binaries: PostgresBinaries | None = None
    ) -> None:
        self._home = home.absolute()
        self._durable = durable
        self._binaries = binaries
        self._log = self._home / "postgres.log"
        self._lock = process.OwnerLock(self._home / "postgres.lock")
        self._account: pwd.struct_passwd | None = None  # None: we are that account
        self._link = self._home / "postgres"
        self._sockets: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def owned(self) -> bool:
        """Whether this object stops the server; False: another process of ours runs it."""
        return self._lock.held

    def url(self, role: str = APP_ROLE, database: str = DATABASE) -> str:
        """A libpq URL, understood by psycopg and asyncpg alike."""
        if self._sockets is None:
            raise RuntimeError("not started")
        return f"postgresql://{role}@/{database}?host={quote(str(self._sockets), safe='')}"

    def start(self) -> None:
        """Starts the server, adopts an orphaned one, or attaches to one that another process owns.

        Raises:
            EmbeddedError: it cannot run here; the message tells why.
        """
        process.prepare(self._home)
        self._account = _account(self._home)
        user, _ = self._run_as()
        accounts = frozenset() if user is None else frozenset({user})
        self._sockets = process.socket_directory(self._home, "pg", _SOCKET, accounts)
        deadline = time.monotonic() + 60
        while not self._lock.acquire():
            # Another process owns it: wait until it has started, or has ended.
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"another process holds {self._home}/postgres.lock, and its"
                    f" server does not answer:\n{process.log_tail(self._log)}"
                )
            time.sleep(0.05)
        try:
            data = self._data_directory()
            if not self._adopt(data):
                self._launch(data)
            self._create_roles()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server if this object owns it; else does nothing."""
        if not self._lock.held:
            return
        try:
            found = _postmaster(self._link)
            if found is None and self._child is not None and self._child.poll() is None:
                found = psutil.Process(self._child.pid)  # it has not come so far as its pid file
            if found is not None:
                process.stop(found, signal.SIGINT, 30)  # "fast": ends sessions, checkpoints
            if self._child is not None:
                self._child.wait()
        finally:
            self._child = None
            self._lock.release()

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _data_directory(self) -> Path:
        account, link = self._account, self._link
        if account is None:
            if link.exists() and link.stat().st_uid != os.geteuid():
                raise EmbeddedError(f"{link} is another user's: {process.ELSEWHERE}")
            return link
        groups = frozenset({account.pw_gid})
        if reachable(self._home, account.pw_uid, groups):
            return link
        digest = hashlib.sha256(os.fsencode(self._home.resolve())).hexdigest()[:12]
        place = _SYSTEM_DIRECTORY / digest
        data = place / "postgres"
        if link.resolve() != data or not place.exists():
            _remove_abandoned()
            _remove_place(place)
            place.mkdir(parents=True, mode=0o755)
            (place / "home").write_text(str(link))
            if link.is_dir() and not link.is_symlink():
                shutil.move(link, data)  # `home` was open to the account, and is no longer
            link.unlink(missing_ok=True)
            link.symlink_to(data)
        if self._sockets is not None and self._sockets.is_relative_to(self._home.resolve()):
            self._sockets = place / "run"
            self._sockets.mkdir(exist_ok=True, mode=0o700)
        return data

    def _installation(self, data: Path) -> PostgresBinaries:
        found = self._binaries or choose_postgres(data)
        account = self._account
        if account is None:
            return found
        if reachable(found.postgres, account.pw_uid, frozenset({account.pw_gid})):
            return found
        if found.wheel is None:
            raise EmbeddedError(f"the account {account.pw_name} cannot reach {found.directory}")
        _SYSTEM_DIRECTORY.mkdir(exist_ok=True, mode=0o755)
        status = found.postgres.stat()
        name = f"postgresql-{found.major}-{status.st_size}-{int(status.st_mtime)}"
        return copy_wheel(found, _SYSTEM_DIRECTORY / name)

    def _adopt(self, data: Path) -> bool:
        """Takes over the server that a killed process left; False: there is none."""
        orphan = _postmaster(data)
        if orphan is None:
            return False
        deadline = time.monotonic() + 60
        while orphan.is_running() and time.monotonic() < deadline:
            if _status(data) == "ready" and self._answers():
                return True
            time.sleep(0.02)  # it starts, or it ends
        return False

    def _launch(self, data: Path) -> None:
        installation = self._installation(data)
        user, group = self._run_as()
        self._claim(self._sockets)
        # A killed postmaster leaves backends that hold the shared memory; they end by themselves.
        process.end_processes(process.processes_in(data, ["postgres"]), 5)
        if not (data / "PG_VERSION").exists():
            self._initialise(installation, data)
        # Nobody runs: these are a dead one's. PostgreSQL itself would believe in them where the
        # number is in use again, or nobody reaps the dead one (a container without an init).
        (data / "postmaster.pid").unlink(missing_ok=True)
        if self._sockets is not None:
            (self._sockets / f"{_SOCKET}.lock").unlink(missing_ok=True)
        self._write_access(data)
        settings = dict(_SETTINGS) | ({} if self._durable else dict(_FAST_AND_LOSE))
        settings["unix_socket_directories"] = str(self._sockets)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        child = self._child = process.spawn(
            [str(installation.postgres), "-D", str(data), *options],
            log=self._log,
            cwd=data,
            user=user,
            group=group,
        )

        def failed() -> str | None:
            if child.poll() is None:
                return None
            return f"PostgreSQL did not start:\n{process.log_tail(self._log)}"

        process.wait_until(lambda: _status(data) == "ready", failed=failed, seconds=60)

    def _initialise(self, installation: PostgresBinaries, data: Path) -> None:
        """Makes the data directory, whole or not at all: a kill in between leaves `.new`."""
        fresh = data.with_name(data.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        if data.is_symlink():
            data.unlink()
        shutil.rmtree(data, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._claim(fresh)
        user, group = self._run_as()
        command = [
            str(installation.initdb), "-D", str(fresh), "-U", SUPERUSER,
            "--auth=reject", "--encoding=UTF8", "--locale=C",
        ]  # fmt: skip
        if not self._durable:
            command.append("--no-sync")
        run = subprocess.run(
            command, cwd="/", user=user, group=group,
            extra_groups=None if user is None else [],
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if run.returncode != 0:
            raise EmbeddedError(f"initdb failed: {run.stderr.strip()}")
        fresh.rename(data)

    def _write_access(self, data: Path) -> None:
        """Lets in the caller's account alone, and root, who could come in anyway."""
        accounts = {pwd.getpwuid(os.geteuid()).pw_name, "root"}
        if self._account is not None:
            accounts.add(self._account.pw_name)
        lines = [
            f'vitrine "{account}" {role}\n'
            for account in sorted(accounts)
            for role in (SUPERUSER, OWNER_ROLE, APP_ROLE)
        ]
        (data / "pg_ident.conf").write_text("".join(lines))
        (data / "pg_hba.conf").write_text("local all all peer map=vitrine\n")
        for name in ("pg_ident.conf", "pg_hba.conf"):
            self._claim(data / name)

    def _create_roles(self) -> None:
        with psycopg.connect(self.url(SUPERUSER, "postgres"), autocommit=True) as connection:
            roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
            for role in (OWNER_ROLE, APP_ROLE):
                if role not in roles:
                    connection.execute(
                        sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS").format(
                            sql.Identifier(role)
                        )
                    )
            found = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [DATABASE]
            ).fetchone()
            if found is None:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(
                        sql.Identifier(DATABASE), sql.Identifier(OWNER_ROLE)
                    )
                )

    def _answers(self) -> bool:
        if self._link.is_symlink():
            self._sockets = self._link.resolve().parent / "run"
        try:
            with psycopg.connect(self.url(SUPERUSER, "postgres"), connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False

    def _run_as(self) -> tuple[int | None, int | None]:
        if self._account is None:
            return None, None
        return self._account.pw_uid, self._account.pw_gid

    def _claim(self, path: Path | None) -> None:
        if self._account is not None and path is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)


def _remove_abandoned() -> None:
    """Removes data below /var/lib whose `home` is gone, and with it the only link to them."""
    for place in _SYSTEM_DIRECTORY.glob("*/home"):
        link = Path(place.read_text())
        if not (link.is_symlink() and link.readlink() == place.parent / "postgres"):
            _remove_place(place.parent)


def _remove_place(place: Path) -> None:
    process.end_processes(process.processes_in(place / "postgres", ["postgres"]), 0)
    shutil.rmtree(place, ignore_errors=True)


def _postmaster(data: Path) -> psutil.Process | None:
    """The postmaster of `data`, its pid file checked: a number may be another process' by now."""
    try:
        found = psutil.Process(int((data / "postmaster.pid").read_text().split("\n", 1)[0]))
        ours = found.name().startswith("postgres") and found.cwd() == str(data.resolve())
        return found if ours and found.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, psutil.Error):
        return None


def _status(data: Path) -> str | None:
    """Line 8 of postmaster.pid: starting, ready, stopping."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return None
    return lines[7].strip() if len(lines) > 7 else None


def _account(home: Path) -> pwd.struct_passwd | None:
    """The account that PostgreSQL runs as, where we are root: it refuses to be root."""
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise EmbeddedError(
                f"user id {os.geteuid()} has no entry in /etc/passwd, and PostgreSQL needs one"
            ) from None
        return None
    if (owner := process.other_owner(home)) is not None:
        return owner
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedError(
        "PostgreSQL does not run as root, and there is no account `postgres` or `nobody`: make one,"
        " or run as an ordinary user"
    )
