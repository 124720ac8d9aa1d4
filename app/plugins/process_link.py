"""The connection to a strategy's process: one question at a time, and the answer's form."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import NamedTuple, Protocol

import msgspec

from app.plugins import process_wire as wire
from app.services.running import Failure
from vitrine_sdk import Candidates

_decode_loaded = msgspec.msgpack.Decoder(wire.Loaded).decode
_decode_told = msgspec.msgpack.Decoder(wire.Told).decode


class NotLoaded(Exception):
    """A model's process could not be made to serve. The message is for the operator."""


class Refusal(NamedTuple):
    failure: Failure
    detail: str | None = None


class LinkOwner(Protocol):
    """Who is told what became of a connection."""

    def answered(self, link: Link) -> None:
        """It has settled an answer."""
        ...

    def ended(self, link: Link) -> None:
        """It is gone; told once."""
        ...


class Link(asyncio.Protocol):
    """The connection to one child process."""

    def __init__(self, owner: LinkOwner, process: asyncio.subprocess.Process) -> None:
        self._owner = owner
        self._process = process
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._longest = 0  # bytes of the body that may come
        self._answer: asyncio.Future[Candidates | Refusal] | None = None
        self._loaded: asyncio.Future[wire.Loaded] | None = None
        self.killer: asyncio.TimerHandle | None = None
        self.reason: str | None = None  # why it was killed
        self.lost = False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def gone(self) -> None:
        """Returns when the process has ended."""
        await self._process.wait()

    def load(self, frame: bytes, loaded: asyncio.Future[wire.Loaded]) -> None:
        self._loaded = loaded
        self._write(frame)

    def ask(self, frame: bytes, limit: int, answer: asyncio.Future[Candidates | Refusal]) -> None:
        self._answer = answer
        self._longest = limit * wire.ROW_BYTES
        self._write(frame)

    def kill(self, refusal: Refusal) -> None:
        """The child and all that it started, at once."""
        self.reason = self.reason or refusal.detail or refusal.failure.value
        self._settle(refusal)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # that of a stream

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.lost = True
        self.kill(Refusal(Failure.RAISED, "its process ended"))
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(NotLoaded("its process ended while it loaded"))
        self._owner.ended(self)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if len(buffer) < wire.LENGTHS.size:
            return
        header, body = wire.LENGTHS.unpack_from(buffer)
        if header > wire.MAX_HEADER or body > self._longest:
            self._broken("more than was asked for")
            return
        start = wire.LENGTHS.size + header
        if len(buffer) < start + body:
            return
        if len(buffer) > start + body:
            self._broken("it speaks unasked")
            return
        head, rest = bytes(buffer[wire.LENGTHS.size : start]), bytes(buffer[start:])
        buffer.clear()
        try:
            self._heard(head, rest)
        except msgspec.MsgspecError:
            self._broken("what it says cannot be read")

    def _heard(self, header: bytes, body: bytes) -> None:
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            said = _decode_loaded(header)
            if not loaded.done():
                loaded.set_result(said)
            return
        if self._answer is None:
            self._broken("it speaks unasked")
            return
        told = _decode_told(header)
        if told.failure == "memory":
            self.kill(Refusal(Failure.RAISED, told.detail))
        elif told.failure:
            self._settle(Refusal(Failure(told.failure), told.detail))
            self._owner.answered(self)
        else:
            candidates = wire.heard(told.count, body)
            if candidates is None:
                self._broken("its arrays have other lengths than it says")
                return
            self._settle(candidates)
            self._owner.answered(self)

    def _broken(self, what: str) -> None:
        self.kill(Refusal(Failure.INVALID, what))

    def _settle(self, outcome: Candidates | Refusal) -> None:
        if self.killer is not None:
            self.killer.cancel()
            self.killer = None
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():  # else who asked has gone on
            answer.set_result(outcome)

    def _write(self, frame: bytes) -> None:
        # One that is closing is lost in a moment, and then settled; to write to it raises.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)
