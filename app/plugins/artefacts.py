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
import numpy as np
import numpy.typing as npt

from app.domain.errors import Conflict, Unavailable
from app.domain.model import MANIFEST_FORMAT, Manifest
from app.plugins.packed_strings import pack_strings, unpack_strings
from vitrine_sdk import Arrays

MANIFEST: Final = "manifest.json"
ITEMS_UTF8: Final = "items.utf8"
ITEMS_OFFSETS: Final = "items.offsets"
_ABANDONED_SECONDS: Final = 24 * 3600  # after which an unfinished write is nobody's any more
_CHUNK: Final = 1 << 20


class ArtefactError(Conflict):
    """An artefact cannot be used. The message says which and why."""


@dataclass(frozen=True, slots=True, eq=False)
class Artefact:
    manifest: Manifest
    arrays: Arrays  # memory-mapped, read-only
    item_ids: Sequence[str]  # the id at each position


class StoredManifest(msgspec.Struct, frozen=True):
    """Just enough of a manifest to tell whether the rest can be read."""

    manifest_format: int


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
        is local, so that it can be renamed into place."""
        base = Path(self._root) if self._local else self._cache
        directory = base / ".staging" / uuid.uuid4().hex
        directory.mkdir(parents=True)
        return directory

    def put(self, staged: Path, location: str) -> None:
        """Bring a staged artefact to its place, whole or not at all. `staged` is gone afterwards.

        Raises:
            Conflict: there is an artefact already.
            Unavailable: the store cannot be written.
        """
        try:
            if self._local:
                self._rename(staged, Path(self._root) / location)
            else:
                self._upload(staged, location)
        except OSError as error:
            raise Unavailable(f"the artefact store cannot be written: {error}", 30) from error

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
        _fsync(target.parent)

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
        directory = Path(self._root) / location if self._local else self._fetch(location)
        try:
            text = (directory / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise ArtefactError(f"artefact {location} is missing") from None
        if hashlib.sha256(text).hexdigest() != sha256:
            raise ArtefactError(f"artefact {location}: its manifest is not the one published")
        manifest = read_manifest(text, location)
        self._verify(directory, location, sha256, manifest)
        loaded = open_arrays(directory, _names(manifest), location)
        utf8, offsets = loaded.pop(ITEMS_UTF8), loaded.pop(ITEMS_OFFSETS)
        ids = unpack_strings(utf8, offsets)
        if len(ids) != manifest.items:
            raise ArtefactError(f"artefact {location}: {len(ids)} ids for {manifest.items} items")
        return Artefact(manifest, loaded, ids)

    def _fetch(self, location: str) -> Path:
        """The local copy of a remote artefact, fetched once a machine."""
        directory = self._cache / "fetched" / location
        if directory.is_dir():
            return directory
        with self._lock(location):
            if directory.is_dir():  # another process fetched it meanwhile
                return directory
            directory.parent.mkdir(parents=True, exist_ok=True)
            partial = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
            partial.mkdir()
            try:
                for remote in self._fs.ls(self._remote(location), detail=False):
                    name = PurePosixPath(remote).name
                    self._fs.get_file(remote, os.fspath(partial / name))
                partial.rename(directory)
            except FileNotFoundError:
                raise ArtefactError(f"artefact {location} is missing") from None
            except OSError as error:
                raise Unavailable(f"the artefact store cannot be read: {error}", 30) from error
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
                if _sha256(directory / name) != expected:
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
        for base in {Path(self._root) if self._local else self._cache / "fetched"}:
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


def quote(name: str) -> str:
    """`name` as one path segment: never empty, never `.` or `..`, no separator."""
    quoted = urllib.parse.quote(name, safe="")
    return quoted.replace(".", "%2E") if set(quoted) <= {"."} else quoted


def write(directory: Path, arrays: Arrays, item_ids: Sequence[str]) -> Mapping[str, str]:
    """Write a fit's arrays and ids into `directory`; SHA-256 a file, for the manifest.

    Raises:
        ValueError: an array has a name or a type that an artefact cannot hold.
    """
    for name in arrays:
        if not name or not set(name) <= _NAME_CHARACTERS or name.startswith((".", "items.")):
            raise ValueError(f"array name {name!r} is not made of letters, digits, _ and -")
    utf8, offsets = pack_strings(item_ids)
    files = {}
    for name, array in {**arrays, ITEMS_UTF8: utf8, ITEMS_OFFSETS: offsets}.items():
        array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        if array.dtype.hasobject:
            raise ValueError(f"array {name!r} has the type {array.dtype}: objects are not stored")
        path = directory / f"{name}.npy"
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        files[path.name] = _sha256(path)
    return files


def write_manifest(directory: Path, manifest: Manifest) -> str:
    """Write the manifest; its SHA-256."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    with (directory / MANIFEST).open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _fsync(directory)
    return hashlib.sha256(text).hexdigest()


def read_manifest(text: bytes, location: str) -> Manifest:
    """
    Raises:
        ArtefactError: it is of another layout, or damaged.
    """
    try:
        found = msgspec.json.decode(text, type=StoredManifest).manifest_format
        if found != MANIFEST_FORMAT:
            raise ArtefactError(
                f"artefact {location} has layout {found}, and this version reads "
                f"{MANIFEST_FORMAT}: train again"
            )
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        raise ArtefactError(f"artefact {location}: its manifest is damaged: {error}") from None


_NAME_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
)


def _names(manifest: Manifest) -> list[str]:
    names = [name.removesuffix(".npy") for name in manifest.files]
    for needed in (ITEMS_UTF8, ITEMS_OFFSETS):
        if needed not in names:
            raise ArtefactError(f"artefact: {needed}.npy is not in the manifest")
    return names


def open_arrays(
    directory: Path, names: Sequence[str], location: str = ""
) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a directory, memory-mapped and read-only.

    Raises:
        ArtefactError: one is missing, or holds what is no plain array.
    """
    return {name: _array(directory, name, location) for name in names}


def _array(directory: Path, name: str, location: str) -> npt.NDArray[Any]:
    path = directory / f"{name}.npy"
    if path.parent != directory:
        raise ArtefactError(f"artefact {location}: file name {name!r} leads elsewhere")
    try:
        # Files of no bytes cannot be mapped, and np.load says so by ValueError: read those.
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        try:
            array = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise ArtefactError(f"artefact {location}: {name}.npy: {error}") from None
        array.flags.writeable = False
    except OSError as error:
        raise ArtefactError(f"artefact {location}: {name}.npy: {error.strerror}") from None
    return array


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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
