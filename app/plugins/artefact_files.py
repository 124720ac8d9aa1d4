"""The files of one artefact: written, and opened without running anything that is in them."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from app.domain.errors import Conflict
from app.domain.model import MANIFEST_FORMAT, Manifest
from app.plugins.packed_strings import pack_strings
from vitrine_sdk import Arrays

MANIFEST: Final = "manifest.json"
ITEMS_UTF8: Final = "items.utf8"
ITEMS_OFFSETS: Final = "items.offsets"
_CHUNK: Final = 1 << 20
_TOUCHED: Final = 1 << 28


class ArtefactError(Conflict):
    """An artefact cannot be used. The message says which and why."""


class _Layout(msgspec.Struct, frozen=True):
    """Just enough of a manifest to tell whether the rest can be read."""

    manifest_format: int


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
        files[path.name] = sha256_of(path)
    return files


def write_manifest(directory: Path, manifest: Manifest) -> str:
    """Write the manifest; its SHA-256."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    with (directory / MANIFEST).open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fsync(directory)
    return hashlib.sha256(text).hexdigest()


def read_manifest(text: bytes, location: str) -> Manifest:
    """
    Raises:
        ArtefactError: it is of another layout, or damaged.
    """
    try:
        found = msgspec.json.decode(text, type=_Layout).manifest_format
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


def array_names(manifest: Manifest) -> list[str]:
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
        mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        # The same memory as a plain array: each index into a memmap costs 10 µs more.
        array: npt.NDArray[Any] = mapped.view(np.ndarray)
    except ValueError:
        try:
            array = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise ArtefactError(f"artefact {location}: {name}.npy: {error}") from None
        array.flags.writeable = False
    except OSError as error:
        raise ArtefactError(f"artefact {location}: {name}.npy: {error.strerror}") from None
    return array


def touch_pages(arrays: Arrays, most: int = _TOUCHED) -> int:
    """Has the pages of mapped arrays at hand: requests would take a fault each, 2 to 15 µs, and
    wait for the disk where the file is not in memory. For a thread: it holds no interpreter up.

    Args:
        most: bytes of arrays, in their order; what is larger is left to the requests.

    Returns:
        Bytes of those that were touched.
    """
    touched = 0
    for array in arrays.values():
        if not array.nbytes or touched + array.nbytes > most or not array.flags.c_contiguous:
            continue
        array.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].max()
        touched += array.nbytes
    return touched


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
