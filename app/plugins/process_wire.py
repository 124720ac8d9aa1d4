"""What a server and a strategy's own process say to each other over a Unix socket.

A frame is the lengths of its two parts (uint32 each, little-endian), a MessagePack header, and the
arrays' raw bytes one after the other. No pickle, in neither direction.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Literal

import msgspec
import numpy as np

from vitrine_sdk import Candidates, Context, History, Needs

LENGTHS: Final = struct.Struct("<II")
MAX_HEADER: Final = 64 * 1024
ROW_BYTES: Final = 4 + 4 + 1  # of one candidate

_INT32: Final = np.dtype("<i4")
_FLOAT32: Final = np.dtype("<f4")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is for; the first frame it gets."""

    strategy: str  # entry-point name
    config: dict[str, Any]
    directory: str  # the artefact's, verified
    arrays: tuple[str, ...]
    items: int
    memory_mib: int | None  # beyond what it has when it begins to load, and the artefact


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to it."""

    error: str | None = None  # for the operator
    seeds: bool = False
    history: int = 0
    term: bool = False
    eligible: bool = False
    reasons: tuple[str, ...] = ()

    @property
    def needs(self) -> Needs:
        return Needs(self.seeds, self.history, self.term, self.eligible)


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """One `recommend`. Behind it: seeds, history's items, ages and types, the eligible mask in
    bits."""

    limit: int
    now: int
    seeds: int  # how many
    history: int
    eligible: int  # items; -1: there is no mask
    term: str | None
    segments: tuple[str, ...]


class Told(msgspec.Struct, frozen=True, array_like=True):
    """The answer. Behind it: items, scores, reasons."""

    count: int
    failure: Literal["", "raised", "invalid", "memory"] = ""
    detail: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode_ask = msgspec.msgpack.Decoder(Ask).decode


def frame(header: msgspec.Struct, *parts: bytes) -> bytes:
    head = _encode(header)
    return b"".join((LENGTHS.pack(len(head), sum(map(len, parts))), head, *parts))


def asked(context: Context, limit: int) -> bytes:
    """The frame that asks for candidates."""
    history, eligible = context.history, context.eligible
    header = Ask(
        limit,
        context.now,
        len(context.seeds),
        len(history),
        -1 if eligible is None else len(eligible),
        context.term,
        context.segments,
    )
    return frame(
        header,
        context.seeds.tobytes(),
        history.items.tobytes(),
        history.ages.tobytes(),
        history.types.tobytes(),
        b"" if eligible is None else np.packbits(eligible).tobytes(),
    )


def understood(header: bytes, body: bytes) -> tuple[Context, int]:
    """The context and the limit of an `asked`. Its arrays are read-only."""
    ask = _decode_ask(header)
    at = 0

    def take(kind: np.dtype[Any], count: int) -> np.ndarray[Any, Any]:
        nonlocal at
        start, at = at, at + kind.itemsize * count
        return np.frombuffer(body, kind, count, start)

    seeds = take(_INT32, ask.seeds)
    items, ages = take(_INT32, ask.history), take(_FLOAT32, ask.history)
    types = take(np.dtype(np.int8), ask.history)
    eligible = None
    if ask.eligible >= 0:
        bits = np.frombuffer(body, np.uint8, -1, at)
        eligible = np.unpackbits(bits, count=ask.eligible).view(np.bool_)
        eligible.flags.writeable = False
    return (
        Context(ask.now, seeds, History(items, types, ages), ask.term, ask.segments, eligible),
        ask.limit,
    )


def told(candidates: Candidates) -> bytes:
    """The frame with candidates whose arrays have the right types and one length."""
    return frame(
        Told(len(candidates)),
        candidates.items.tobytes(),
        candidates.scores.tobytes(),
        candidates.reasons.tobytes(),
    )


def heard(count: int, body: bytes) -> Candidates | None:
    """The candidates of a `told`; None: the body is not what its header says."""
    if len(body) != count * ROW_BYTES:
        return None
    return Candidates(
        np.frombuffer(body, _INT32, count),
        np.frombuffer(body, _FLOAT32, count, 4 * count),
        np.frombuffer(body, np.uint8, count, 8 * count),
    )
