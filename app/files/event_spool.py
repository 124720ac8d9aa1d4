"""Events on a local disk while the event log is away: acknowledged once they are fsynced.

Below the folder each process has a slot of its own, held by a file lock; a slot whose process died
is taken over by the next that looks. A slot holds numbered segments: a magic, then records of
(length, CRC-32, MessagePack of an Event). A segment is written by one process and never appended to
after it was closed or its process died, so an incomplete record can only be the last, and was never
acknowledged: it is dropped. A segment is deleted when its events are in the log; dying before that
replays it, which the events' fingerprints make harmless.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from app.domain.errors import Unavailable
from app.domain.event import Event

_log = structlog.get_logger(module=__name__)

MAGIC: Final = b"VITRINE-SPOOL-1\n"
READ_EVENTS: Final = 1000  # of one `read`

_HEADER: Final = struct.Struct(">II")
_MAX_RECORD: Final = 16 * 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Event).decode


class EventSpool:
    """Implements `services.track.Spool`. Its methods block, and may be called from any thread.

    Args:
        folder: on a volume that outlives the process.
        max_bytes: bound of what this process keeps; beyond it, `append` is refused.
        segment_bytes: size at which a new segment is begun.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 1024 * 1024 * 1024,
        segment_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._locks: dict[Path, int] = {}  # slots that this process holds → descriptor
        self._own: Path | None = None
        self._active: _Writer | None = None
        self._sizes: dict[Path, int] = {}  # closed segments, oldest first
        self._reader: _Reader | None = None

    def open(self) -> None:
        """Takes a slot, and over those of dead processes.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        with self._lock:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = 0
            while self._own is None:
                slot = self._folder / f"slot-{number}"
                slot.mkdir(mode=0o700, exist_ok=True)
                if self._hold(slot):
                    self._own = slot
                number += 1
            _sync_folder(self._folder)
            self._take_over()

    def close(self) -> None:
        """Lets go of the slots; what they hold is replayed by the next process."""
        with self._lock:
            if self._active is not None:
                self._active.close()
                self._active = None
            for descriptor in self._locks.values():
                os.close(descriptor)
            self._locks.clear()
            self._sizes.clear()
            self._reader = None
            self._own = None

    @property
    def max_bytes(self) -> int:
        return self._max_bytes

    @property
    def bytes(self) -> int:
        """Of events that are not in the log yet."""
        active = self._active
        return sum(self._sizes.values()) + (active.size if active is not None else 0)

    def append(self, events: Sequence[Event]) -> None:
        """See `services.track.Spool`."""
        records = bytearray()
        for event in events:
            body = _encode(event)
            records += _HEADER.pack(len(body), zlib.crc32(body))
            records += body
        with self._lock:
            if self.bytes + len(records) > self._max_bytes:
                raise Unavailable("the event spool is full: send the event again later", 5)
            try:
                if self._active is None:
                    self._active = _Writer(self._next_segment())
                self._active.write(records)
            except OSError as error:
                _log.error("spool_write_failed", reason=os.strerror(error.errno or 0))
                self._roll()  # never again behind a record that may be torn
                raise Unavailable("events cannot be stored now: send the event again") from error
            if self._active.size >= self._segment_bytes:
                self._roll()

    def read(self) -> Sequence[Event]:
        """See `services.track.Spool`."""
        with self._lock:
            while True:
                if self._reader is None:
                    segment = self._oldest()
                    if segment is None:
                        return ()
                    self._reader = _Reader(segment)
                events = self._reader.next(READ_EVENTS)
                if events:
                    return events
                self._drop(self._reader)

    def taken(self) -> None:
        """See `services.track.Spool`."""
        with self._lock:
            if self._reader is None:
                return
            self._reader.accept()
            if self._reader.at_end:
                self._drop(self._reader)

    def _oldest(self) -> Path | None:
        if not self._sizes and self._active is not None and self._active.size:
            self._roll()
        if not self._sizes:
            self._take_over()
        return next(iter(self._sizes), None)

    def _roll(self) -> None:
        active, self._active = self._active, None
        if active is not None:
            active.close()
            self._sizes[active.path] = active.size

    def _next_segment(self) -> Path:
        if self._own is None:
            raise RuntimeError("the spool is not open")
        numbers = [int(path.stem) for path in self._own.iterdir() if path.stem.isdigit()]
        return self._own / f"{max(numbers, default=0) + 1:010}.events"

    def _take_over(self) -> None:
        """Finds segments: in slots of this process, and in those that nobody holds any more."""
        for slot in sorted(self._folder.glob("slot-*")):
            if slot in self._locks:
                found = slot == self._own and not self._sizes
            else:
                found = any(slot.glob("*.events")) and self._hold(slot)
            if not found:
                continue
            for path in sorted(slot.glob("*.events")):
                if self._active is None or path != self._active.path:
                    self._sizes[path] = path.stat().st_size

    def _hold(self, slot: Path) -> bool:
        descriptor = os.open(slot / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._locks[slot] = descriptor
        return True

    def _drop(self, reader: _Reader) -> None:
        """The segment is in the log. One that was damaged is kept for an operator."""
        self._reader = None
        self._sizes.pop(reader.path, None)
        if reader.damaged:
            reader.path.rename(reader.path.with_suffix(".damaged"))
        else:
            reader.path.unlink(missing_ok=True)
        slot = reader.path.parent
        _sync_folder(slot)
        if slot != self._own and not any(path.parent == slot for path in self._sizes):
            os.close(self._locks.pop(slot))


class _Writer:
    """The end of one segment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self.size = 0
        try:
            self.write(MAGIC)
            _sync_folder(path.parent)
        except OSError:
            self.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def write(self, records: bytes | bytearray) -> None:
        """Returns when they are on the disk.

        Raises:
            OSError: they are not; the segment must not be written to again.
        """
        view = memoryview(records)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError:
            # What was written of it was acknowledged to nobody.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(records)

    def close(self) -> None:
        os.close(self._descriptor)


class _Reader:
    """Reads one closed segment in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = False
        self._data = path.read_bytes()
        self._offset = self._next = len(MAGIC)
        if not self._data.startswith(MAGIC):
            self._stop_at(0, "it does not begin as a segment does")

    @property
    def at_end(self) -> bool:
        return self._offset >= len(self._data)

    def next(self, limit: int) -> list[Event]:
        """Events from where `accept` was last called."""
        events: list[Event] = []
        self._next = self._offset
        for body in self._records():
            try:
                events.append(_decode(body))
            except msgspec.MsgspecError as error:
                self.damaged = True
                _log.error("spool_event_unreadable", segment=str(self.path), reason=str(error))
            if len(events) == limit:
                break
        if not events:
            self._offset = self._next
        return events

    def accept(self) -> None:
        self._offset = self._next

    def _records(self) -> Iterator[bytes]:
        data = self._data
        while self._next < len(data):
            start = self._next + _HEADER.size
            if start > len(data):
                return self._stop_at(self._next, None)
            length, checksum = _HEADER.unpack_from(data, self._next)
            body = data[start : start + length]
            if len(body) == length and length and zlib.crc32(body) == checksum:
                self._next = start + length
                yield body
                continue
            # The last record, or nothing but zeros (a file that grew before its blocks were
            # written): a write that was cut short. Anything else is damage.
            torn = start + length >= len(data) or not any(data[self._next :])
            return self._stop_at(self._next, None if torn else "a record's checksum is wrong")
        return None

    def _stop_at(self, offset: int, damage: str | None) -> None:
        lost = len(self._data) - offset
        if damage is None:
            _log.warning("spool_torn_tail", segment=str(self.path), bytes=lost)
        elif lost:
            self.damaged = True
            _log.error("spool_damaged", segment=str(self.path), bytes=lost, reason=damage)
        self._next = len(self._data)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
