"""Artefacts: a fit's arrays and their manifest, in a directory or an object store (fsspec).

Layout, below the store's root::

    <merchant>/<configuration>/<number>/manifest.json
                                        <array>.npy          one an array, no pickle
                                        items.utf8.npy       the items' ids, joined
                                        items.offsets.npy    int64, n + 1

A model version is written under a temporary name, fsynced and renamed, so that it is there whole
or not at all; in an object store, which cannot rename, the manifest is written last and is what
makes it be there. Arrays are opened memory-mapped and read-only: a machine's processes share one
copy of them in the page cache.

Checksums are verified once a machine, not once a process: the process that verified leaves a note
in the cache of each file's size, time and inode, and those after it compare only these. A file
that changed since is hashed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec
import msgspec

from app.domain.errors import Conflict, Unavailable
from app.domain.model import Manifest
from app.plugins.artefact_files import (
    ITEMS_OFFSETS,
    ITEMS_UTF8,
    MANIFEST,
    ArtefactError,
    array_names,
    fsync,
    open_arrays,
    read_manifest,
    sha256_of,
)
from app.plugins.packed_strings import unpack_strings
from app.telemetry.traces import spanned
from vitrine_sdk import Arrays

_ABANDONED_SECONDS: Final = 24 * 3600  # after which an unfinished write is nobody's any more
_FETCHED_KEPT: Final = 3  # local copies of a configuration's versions in a remote store


@dataclass(frozen=True, slots=True, eq=False)
class Artefact:
    manifest: Manifest
    arrays: Arrays  # memory-mapped, read-only
    item_ids: Sequence[str]  # the id at each position


class ArtefactStore:
    """Writes, opens and clears away artefacts.

    Args:
        url: a directory, or any fsspec URL ("s3://bucket/path").
        cache: a directory of this machine: for what is fetched from a remote store, and for the
            notes of what was verified.
        options: for fsspec's file system (endpoint, credentials).
    """

    def __init__(self, url: str, cache: Path, options: Mapping[str, Any] | None = None) -> None:
        self._fs, root = fsspec.core.url_to_fs(url, **(options or {}))
        self._local = "file" in (
            (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        )
        self._root = root
        # Two stores that share a machine must not share a cache.
        self._cache = cache / hashlib.sha256(f"{url}".encode()).hexdigest()[:16]

    @staticmethod
    def location(merchant: str, configuration_id: str, number: int) -> str:
        """Where a model version lies, below the store's root."""
        return f"{quote(merchant)}/{quote(configuration_id)}/{number}"

    # Writing

    def staging(self) -> Path:
        """A new empty directory to write a model version into, on the store's own disk where that
        is local, so that it can be renamed into place.

        Raises:
            Unavailable: the store cannot be written.
        """
        base = Path(self._root) if self._local else self._cache
        directory = base / ".staging" / uuid.uuid4().hex
        try:
            directory.mkdir(parents=True)
        except OSError as error:
            raise _away("written") from error
        return directory

    def put(self, staged: Path, location: str) -> None:
        """Bring a staged artefact to its place, whole or not at all. `staged` is gone afterwards.

        Raises:
            Conflict: there is an artefact already.
            Unavailable: the store cannot be written.
        """
        try:
            with spanned("artefacts put"):
                if self._local:
                    self._rename(staged, Path(self._root) / location)
                else:
                    self._upload(staged, location)
        except OSError as error:
            raise _away("written") from error

    @staticmethod
    def _rename(staged: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise Conflict(f"artefact {target.name} exists already")
        try:
            staged.rename(target)
        except OSError:
            if target.exists():  # another process was quicker
                raise Conflict(f"artefact {target.name} exists already") from None
            raise
        fsync(target.parent)

    def _upload(self, staged: Path, location: str) -> None:
        target = self._remote(location)
        if self._fs.exists(f"{target}/{MANIFEST}"):
            raise Conflict(f"artefact {location} exists already")
        for path in sorted(staged.iterdir(), key=lambda path: path.name == MANIFEST):
            self._fs.put_file(os.fspath(path), f"{target}/{path.name}")
        shutil.rmtree(staged)

    # Reading

    def open(self, location: str, sha256: str) -> Artefact:
        """The artefact at `location`, verified. Blocks on disk and network: call it in a thread.

        Args:
            sha256: of its manifest, hex, as the model version's row has it.

        Raises:
            ArtefactError: it is missing, altered, or of a layout that this version cannot read.
            Unavailable: a remote store cannot be reached.
        """
        directory, manifest = self.verified(location, sha256)
        loaded = open_arrays(directory, array_names(manifest), location)
        utf8, offsets = loaded.pop(ITEMS_UTF8), loaded.pop(ITEMS_OFFSETS)
        ids = unpack_strings(utf8, offsets)
        if len(ids) != manifest.items:
            raise ArtefactError(f"artefact {location}: {len(ids)} ids for {manifest.items} items")
        return Artefact(manifest, loaded, ids)

    def verified(self, location: str, sha256: str) -> tuple[Path, Manifest]:
        """A directory of this machine with the artefact's files, and the manifest; raises as `open`
        does."""
        directory = Path(self._root) / location if self._local else self._fetch(location, sha256)
        try:
            text = (directory / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise ArtefactError(f"artefact {location} is missing") from None
        if hashlib.sha256(text).hexdigest() != sha256:
            raise ArtefactError(f"artefact {location}: its manifest is not the one published")
        manifest = read_manifest(text, location)
        self._verify(directory, location, sha256, manifest)
        return directory, manifest

    def _fetch(self, location: str, sha256: str) -> Path:
        """The local copy of a remote artefact, fetched once a machine."""
        # Below its manifest's checksum: a place that was written anew is another artefact.
        directory = self._cache / "fetched" / location / sha256
        if directory.is_dir():
            return directory
        with self._lock(location):
            if directory.is_dir():  # another process fetched it meanwhile
                return directory
            directory.parent.mkdir(parents=True, exist_ok=True)
            partial = directory.with_name(f".{uuid.uuid4().hex}")
            partial.mkdir()
            try:
                remote = self._remote(location)
                # First the manifest: an upload that has none is not finished.
                self._fs.get_file(f"{remote}/{MANIFEST}", os.fspath(partial / MANIFEST))
                if sha256_of(partial / MANIFEST) != sha256:
                    raise ArtefactError(
                        f"artefact {location}: its manifest is not the one published"
                    )
                for path in self._fs.ls(remote, detail=False):
                    if (name := PurePosixPath(path).name) != MANIFEST:
                        self._fs.get_file(path, os.fspath(partial / name))
                partial.rename(directory)
                _keep_newest(directory.parents[1], _FETCHED_KEPT)
            except FileNotFoundError:
                raise ArtefactError(f"artefact {location} is missing") from None
            except OSError as error:
                raise _away("read") from error
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return directory

    def _verify(self, directory: Path, location: str, sha256: str, manifest: Manifest) -> None:
        note = self._cache / "verified" / f"{sha256}.json"
        if _noted(note) == (state := _state(directory, location, manifest)):
            return
        with self._lock(location):
            if _noted(note) == state:  # another process verified it meanwhile
                return
            for name, expected in manifest.files.items():
                if sha256_of(directory / name) != expected:
                    if not self._local:  # fetched badly: let the next try fetch it anew
                        shutil.rmtree(directory, ignore_errors=True)
                    raise ArtefactError(f"artefact {location}: {name} is not what was written")
            _replace(note, msgspec.json.encode(state))

    @contextlib.contextmanager
    def _lock(self, location: str) -> Iterator[None]:
        """One process of this machine at a time; freed by the system when its holder dies."""
        path = self._cache / "locks" / hashlib.sha256(location.encode()).hexdigest()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def check(self, location: str, sha256: str) -> None:
        """Raises as `open` does."""
        self.open(location, sha256)

    # Clearing away

    def configurations(self, merchant: str) -> Sequence[str]:
        """The strategy configurations that have artefacts here."""
        try:
            found = self._fs.ls(self._remote(quote(merchant)), detail=False)
        except FileNotFoundError:
            return []
        return [urllib.parse.unquote(PurePosixPath(path).name) for path in found]

    def locations(self, merchant: str, configuration_id: str) -> Mapping[int, str]:
        """The artefacts that a configuration has in the store, by number."""
        parent = f"{quote(merchant)}/{quote(configuration_id)}"
        try:
            found = self._fs.ls(self._remote(parent), detail=False)
        except FileNotFoundError:
            return {}
        names = (PurePosixPath(path).name for path in found)
        return {int(name): f"{parent}/{name}" for name in names if name.isdigit()}

    def age(self, location: str) -> float:
        """Seconds since the artefact's manifest was written; 0 where the store does not tell."""
        try:
            written = self._fs.modified(self._remote(f"{location}/{MANIFEST}"))
        except (OSError, NotImplementedError):
            return 0.0
        return time.time() - float(written.timestamp())

    def delete(self, location: str) -> None:
        """Remove an artefact. Processes that have it open keep it until they let it go."""
        base = Path(self._root) if self._local else self._cache / "fetched"
        shutil.rmtree(base / location, ignore_errors=True)
        if not self._local:
            with contextlib.suppress(FileNotFoundError):
                # The manifest first: what has none is not there.
                self._fs.rm(self._remote(f"{location}/{MANIFEST}"))
                self._fs.rm(self._remote(location), recursive=True)

    def clear_abandoned(self) -> int:
        """Remove what writers that died left behind; how many."""
        staging = (Path(self._root) if self._local else self._cache) / ".staging"
        count = 0
        for directory in staging.iterdir() if staging.is_dir() else ():
            if time.time() - directory.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(directory, ignore_errors=True)
                count += 1
        return count

    def _remote(self, location: str) -> str:
        return f"{self._root.rstrip('/')}/{location}"


def _away(what: str) -> Unavailable:
    """Its cause is for the log: it may name what callers need not know."""
    return Unavailable(f"the store of model artefacts cannot be {what} now: try again", 30)


def quote(name: str) -> str:
    """`name` as one path segment: never empty, never `.` or `..`, no separator."""
    quoted = urllib.parse.quote(name, safe="")
    return quoted.replace(".", "%2E") if set(quoted) <= {"."} else quoted


def _state(directory: Path, location: str, manifest: Manifest) -> list[list[Any]]:
    """What tells that the files are still those that were verified."""
    state: list[list[Any]] = []
    for name in sorted(manifest.files):
        try:
            stat = (directory / name).stat()
        except FileNotFoundError:
            raise ArtefactError(f"artefact {location}: {name} is missing") from None
        state.append([name, stat.st_size, stat.st_mtime_ns, stat.st_ino])
    return state


def _noted(note: Path) -> Any:
    try:
        return msgspec.json.decode(note.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _keep_newest(directory: Path, keep: int) -> None:
    """Only the entries of `directory` that were changed last. Whoever maps a file keeps it."""
    entries = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for old in entries[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
