"""A strategy's own process: `python -m app.plugins.process_child DESCRIPTOR`.

The descriptor is its end of a Unix socket. It gets a `Job`, maps the artefact into its memory,
answers `Loaded`, and then one `Told` an `Ask`, one at a time; see `app.plugins.process_wire`. Who
started it kills it when it is late. It knows no store, no address and no secret.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import msgspec

from app.domain.errors import VitrineError
from app.plugins import process_wire as wire
from app.plugins.artefact_files import open_arrays
from app.plugins.discovery import discover
from app.plugins.misshapen import misshapen
from vitrine_sdk import ENTRY_POINT_GROUP, Model

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


class _Ended(Exception):
    """The other end has gone."""


def receive(link: socket.socket) -> tuple[bytes, bytes]:
    """The next frame's header and body."""
    header, body = wire.LENGTHS.unpack(_exactly(link, wire.LENGTHS.size))
    return _exactly(link, header), _exactly(link, body)


def _exactly(link: socket.socket, count: int) -> bytes:
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        got = link.recv_into(view)
        if not got:
            raise _Ended
        view = view[got:]
    return bytes(buffer)


def load(job: wire.Job) -> tuple[Model | None, wire.Loaded]:
    found = discover(entry_points(group=ENTRY_POINT_GROUP, name=job.strategy)).get(job.strategy)
    if found is None:
        return None, wire.Loaded(error=f"strategy {job.strategy!r} is not installed")
    try:
        strategy, config = found.usable(), found.configuration(job.config)
        arrays = open_arrays(Path(job.directory), job.arrays)
        if job.memory_mib is not None:
            size = sum(array.nbytes for array in arrays.values())
            _limit_memory(size + (job.memory_mib << 20))
        needs = strategy.needs(config)
        model = strategy.load(arrays, config, job.items)
        return model, wire.Loaded(
            seeds=needs.seeds,
            history=needs.history,
            term=needs.term,
            eligible=needs.eligible,
            reasons=tuple(strategy.reasons),
        )
    except VitrineError as error:
        return None, wire.Loaded(error=error.message)
    except MemoryError:
        return None, wire.Loaded(error="out of memory")
    except BaseException as error:  # noqa: BLE001  # a plugin's, whatever it is
        return None, wire.Loaded(error=_say(error))


def answer(model: Model, header: bytes, body: bytes) -> tuple[bytes, bool]:
    """The frame to send, and whether this process can go on."""
    context, limit = wire.understood(header, body)
    try:
        candidates = model.recommend(context, limit)
        wrong = misshapen(candidates)
        if wrong is None and len(candidates) > limit:
            wrong = f"{len(candidates)} candidates, {limit} were asked for"
        if wrong is None:
            return wire.told(candidates), True
    except MemoryError:
        # What fills the memory stays in it: only a new process has it all again.
        return wire.frame(wire.Told(0, "memory", "out of memory")), False
    except BaseException as error:  # noqa: BLE001  # SystemExit included
        return wire.frame(wire.Told(0, "raised", _say(error))), True
    return wire.frame(wire.Told(0, "invalid", wrong)), True


def _say(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"[:300].rstrip(": ")


def _limit_memory(more: int) -> None:
    """At most `more` bytes of address space beyond what there is."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return  # no Linux: the limit would not be kept there either
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _surrender() -> None:
    """Ends with who started it, and is the first to go when the machine has no memory left."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    link = socket.socket(fileno=int(sys.argv[1]))
    os.dup2(2, 1)  # prints are for people
    _surrender()
    with contextlib.suppress(_Ended, ConnectionError):
        job = msgspec.msgpack.decode(receive(link)[0], type=wire.Job)
        model, loaded = load(job)
        link.sendall(wire.frame(loaded))
        going = model is not None
        while going and model is not None:
            reply, going = answer(model, *receive(link))
            link.sendall(reply)
    # Not through the interpreter's end: a thread of a strategy's must not hold it up.
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    threading.current_thread().name = "strategy"
    main()
