"""Files of a catalogue, opened: whatever they are packed in, as streams of bounded size.

CSV, JSONL and JSON are taken plain, gzipped, and in a tar archive that may be gzipped. What a file
is, is seen in its first bytes: clients name everything items.csv. Names in an archive choose a kind
of record and nothing else; no path is ever opened by them. What is read is counted after it was
unpacked, so that a small file cannot become a large one.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import AsyncIterable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import structlog

from app.domain.catalogue import Kind
from app.domain.errors import InvalidInput, TooLarge, Unavailable
from app.services.catalogue_columns import BrokenFile
from app.services.catalogue_rows import Format, Source, Upload

log = structlog.get_logger(module=__name__)

_BLOCK: Final = 512
_MAX_MEMBERS: Final = 16
_MAX_SIDE_DATA: Final = 1024 * 1024  # long names and such, which are skipped
_GZIP: Final = b"\x1f\x8b"
_REGULAR: Final = (b"0", b"\0", b"7")
_SIDE_DATA: Final = (b"x", b"g", b"L", b"K")
_OTHER: Final = {
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\xfd7zXZ": "an xz file",
}
_TAKEN: Final = "CSV or JSONL in UTF-8, plain, gzipped, or in a tar archive, is taken"
_JSON_LIST: Final = re.compile(rb'^\s*\{\s*"(?:items|variations|item_groups)"\s*:\s*\[')


class Budget:
    """Bytes that may be read in all, unpacked."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, name: str, count: int) -> None:
        self.used += count
        if self.used > self.limit:
            raise BrokenFile(name, f"is more than {self.limit:,} bytes when it is unpacked")


class _Counted(io.RawIOBase):
    """A stream whose bytes are counted, and whose errors say which file."""

    def __init__(self, name: str, inner: Any, budget: Budget | None) -> None:
        self._name = name
        self._inner = inner
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._inner.read(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BrokenFile(self._name, "is not a whole gzip file") from error
        if self._budget is not None:
            self._budget.take(self._name, len(data))
        buffer[: len(data)] = data
        return len(data)


class CatalogueFiles:
    """What was uploaded, below one directory that servers and workers share.

    Args:
        root: the directory; made when the first file comes.
        max_bytes: of one import, as it comes and as it is unpacked.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes

    async def receive(
        self, parts: AsyncIterable[tuple[str, str, AsyncIterable[bytes]]]
    ) -> list[Upload]:
        """Keeps the files of a form, in the order in which they come.

        Args:
            parts: name of the field, file name, content.

        Raises:
            InvalidInput: there is none, a field is not known, or comes twice; nothing is kept.
            TooLarge: they are more than `max_bytes`; nothing is kept.
            Unavailable: the disk is full or fails; nothing is kept.
        """
        folder = f"{time.time_ns():020d}-{secrets.token_hex(8)}"
        uploads: list[Upload] = []
        left = self._max_bytes
        try:
            await asyncio.to_thread((self._root / folder).mkdir, parents=True)
            async for field, name, content in parts:
                kind = _kind_of_field(field, [upload.kind for upload in uploads])
                stored = f"{folder}/{len(uploads)}"
                left -= await self._write(stored, content, left)
                uploads.append(Upload(stored, shown_name(name or field), kind))
            if not uploads:
                raise InvalidInput(
                    "there is no file: send items, variations or item_groups as form data"
                )
        except OSError as error:
            await self.remove([folder])
            log.exception("upload_failed")
            raise Unavailable("the upload cannot be kept now: try again", 30) from error
        except BaseException:
            await self.remove([folder])
            raise
        return uploads

    def open(self, uploads: Sequence[Upload], stated: Format | None = None) -> Iterator[Source]:
        """The files of records in what was received, one after the other: each must be read before
        the next is asked for.

        Args:
            stated: the format of items and variations, where the caller said it.

        Raises:
            BrokenFile: it is gone, none of what is taken, too large, or a kind comes twice.
        """
        budget = Budget(self._max_bytes)
        seen: set[Kind] = set()
        for upload in uploads:
            try:
                file = (self._root / upload.stored).open("rb")
            except OSError:
                raise BrokenFile(
                    upload.name, "is not there any more: do servers and workers share a directory?"
                ) from None
            with file:
                for source in _open(upload, file, budget, stated):
                    if source.kind in seen:
                        raise BrokenFile(
                            source.name, f"is a second file of {source.kind}: send one"
                        )
                    seen.add(source.kind)
                    yield source

    async def remove(self, stored: Iterable[str]) -> None:
        """Lets uploads go; those that are not there do no harm."""
        for folder in {name.partition("/")[0] for name in stored}:
            await asyncio.to_thread(shutil.rmtree, self._root / folder, ignore_errors=True)

    async def sweep(self, older_than: float) -> int:
        """Removes what was left behind so many seconds ago. Returns how many uploads."""

        def work() -> int:
            if not self._root.is_dir():
                return 0
            limit = time.time_ns() - int(older_than * 1e9)
            old = [
                f
                for f in self._root.iterdir()
                if f.name[:20].isdigit() and int(f.name[:20]) < limit
            ]
            for folder in old:
                shutil.rmtree(folder, ignore_errors=True)
            return len(old)

        return await asyncio.to_thread(work)

    async def _write(self, stored: str, content: AsyncIterable[bytes], left: int) -> int:
        """Number of bytes; on the disk when it returns."""
        written = 0
        with (self._root / stored).open("wb") as file:
            async for chunk in content:
                written += len(chunk)
                if written > left:
                    raise TooLarge(
                        f"the files are more than {self._max_bytes:,} bytes: send less at once"
                    )
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(_sync, file)
        return written


def shown_name(name: str) -> str:
    """A client's name of a file, fit to be shown: no path, nothing unprintable, not long."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(c for c in last if c.isprintable())[:200] or "file"


def _kind_of_field(field: str, before: Sequence[Kind | None]) -> Kind | None:
    """What a form's field holds; None: an archive of files."""
    kind: Kind | None
    if field in list(Kind):
        kind = Kind(field)
    elif field.endswith((".tar.gz", ".tgz", ".tar")):
        kind = None
    else:
        raise InvalidInput.field(
            shown_name(field), "no such file is taken: items, variations, item_groups or a .tar.gz"
        )
    if before and (kind in before or kind is None or None in before):
        raise InvalidInput.field(shown_name(field), "is one file too much: send each kind once")
    return kind


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def detect(name: str, stream: Any) -> Format:
    """What a stream is, by its first bytes."""
    head = stream.peek(4096)[:4096]
    for magic, what in _OTHER.items():
        if head.startswith(magic):
            raise BrokenFile(name, f"is {what}: {_TAKEN}")
    if _JSON_LIST.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "json"
    return "jsonl" if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" else "csv"


def _open(
    upload: Upload, file: IO[bytes], budget: Budget, stated: Format | None
) -> Iterator[Source]:
    name = upload.name
    packed = io.BufferedReader(_Counted(name, file, None), 1 << 16)
    if packed.peek(2)[:2] == _GZIP:
        unpacked: Any = gzip.GzipFile(fileobj=packed)
        name = name.removesuffix(".gz")
    else:
        unpacked = packed
    stream = io.BufferedReader(_Counted(name, unpacked, budget), 1 << 16)
    if stream.peek(_BLOCK)[257:262] == b"ustar":
        for member, inner in _members(name, stream):
            kind = _kind_of(member)
            if kind is None:
                raise BrokenFile(
                    name, f"holds {member}: only items, variations and item_groups are taken"
                )
            yield Source(member, kind, stated or detect(member, inner), inner)
    elif upload.kind is None:
        raise BrokenFile(name, "is not a tar archive")
    else:
        yield Source(name, upload.kind, stated or detect(name, stream), stream)


def _kind_of(name: str) -> Kind | None:
    try:
        return Kind(name.partition(".")[0])
    except ValueError:
        return None


class _Member(io.RawIOBase):
    """One file within a tar archive that is read as a stream."""

    def __init__(self, archive: str, stream: IO[bytes], size: int) -> None:
        self._archive = archive
        self._stream = stream
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(min(len(buffer), self.left))
        if not data and self.left:
            raise BrokenFile(self._archive, "is not a whole tar archive")
        self.left -= len(data)
        buffer[: len(data)] = data
        return len(data)


def _members(archive: str, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Name (its last part) and content of each regular file. Read by hand, as a stream: the
    standard library takes what says that it is a name into memory, however long."""
    for _ in range(_MAX_MEMBERS * 4):
        header = stream.read(_BLOCK)
        if len(header) < _BLOCK or header == b"\0" * _BLOCK:
            return
        name, size, kind = _header(archive, header)
        if kind in _SIDE_DATA and size > _MAX_SIDE_DATA:
            raise BrokenFile(archive, "has a name that is too long")
        member = _Member(archive, stream, size)
        if kind in _REGULAR and not name.startswith("."):
            yield name, io.BufferedReader(member, 1 << 16)
        _skip(archive, stream, member.left + -size % _BLOCK)
    raise BrokenFile(archive, f"has more than {_MAX_MEMBERS} files")


def _header(archive: str, header: bytes) -> tuple[str, int, bytes]:
    try:
        checksum = int(header[148:156].strip(b" \0") or b"0", 8)
        size = int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        raise BrokenFile(archive, "is not a tar archive that can be read") from None
    if checksum != sum(header) - sum(header[148:156]) + 8 * 32:
        raise BrokenFile(archive, "is not a whole tar archive")
    name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
    return PurePosixPath(name).name, size, header[156:157]


def _skip(archive: str, stream: IO[bytes], count: int) -> None:
    while count:
        data = stream.read(min(count, 1 << 16))
        if not data:
            raise BrokenFile(archive, "is not a whole tar archive")
        count -= len(data)
