"""One connection of the HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestHandler

from app.http.admission import REFUSAL, Admission
from app.http.direct import Direct
from app.http.middleware import refused
from app.telemetry.logs import get as get_log

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.http_parser import RawRequestMessage

MOST_HELD: Final = 64 * 1024  # bytes that came before the answer to what was asked before
SLOW_SECONDS: Final = 20.0  # in which a client must make some progress
SLOW_BYTES: Final = 1024  # of a body, that count as progress

_END: Final = b"\r\n\r\n"
_log = get_log(__name__)


class Connection(RequestHandler):
    """One connection. What is no HTTP is refused as a problem, and leaves no stack in the log: a
    stranger could fill it.

    aiohttp closes idle connections and bounds what is pipelined. Here are, besides: the cheap
    refusal of requests while there are too many, the end of clients that make no progress, and the
    short way of `app.http.direct`. While an answer of that is on its way, what comes is held back.
    """

    __slots__ = (
        "_admission",
        "_bytes",
        "_clean",
        "_closes",
        "_direct",
        "_full",
        "_held",
        "_held_back",
        "_pending",
        "_progress",
        "_since",
        "_took",
        "_unfinished",
        "let_in",
    )

    def __init__(
        self,
        *args: Any,
        admission: Admission | None,
        full: bool,
        direct: Direct | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if direct is not None and self._parser is not None:
            self._parser = cast(Any, _Watched(self._parser, self._take))
        self._direct = direct
        self._pending: asyncio.Task[None] | None = None  # a direct answer is on its way
        self._held: list[bytes] = []  # what came meanwhile
        self._held_back = False  # reading is paused for it
        self._closes = False  # after it
        self._took = False  # the last thing that the parser got was a request that was taken
        self._admission = admission
        self._full = full  # one connection too many
        self._bytes = 0  # received
        self._clean = True  # the last thing that the parser got was a whole request
        self.let_in = False  # the next request was asked for already
        self._unfinished = False  # a request's head began and is not whole
        self._progress: tuple[object, int] = (None, 0)  # what was under way, and bytes then
        self._since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._full and isinstance(transport, asyncio.Transport):
            transport.write(REFUSAL)
            self.force_close()
        elif self._admission is not None:
            self._admission.connections += 1

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._admission is not None and not self._full and self._manager is not None:
            self._admission.connections -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._pending is not None:
            self._held.append(data)
            if not self._held_back and sum(map(len, self._held)) >= MOST_HELD:
                self._held_back = True
                self._pause_transport_reading()
            return
        admission = self._admission
        if admission is not None and admission.share:
            whole = data.startswith(b"GET /recommendations/") and data.find(_END) == len(data) - 4
            if whole and self._clean and self._waits:
                if admission.refuses():
                    self._refuse(admission)
                    return
                self.let_in = True
            self._clean = whole
        elif self._clean:
            self._clean = False
        self._bytes += len(data)
        self._took = False
        super().data_received(data)
        self._unfinished = self._waits and bool(data) and not self._took

    @property
    def _waits(self) -> bool:
        """No request is under way."""
        waiter = self._waiter
        return waiter is not None and not waiter.done()

    def end_idle(self) -> None:
        """Closes the connection at once where nothing of a request has come. aiohttp's own way
        takes a turn of the loop, in which a request that comes is dropped."""
        idle = self._waits and not (self._unfinished or self._messages or self._held)
        if idle and self._pending is None and self.transport is not None:
            self.transport.close()

    # The short way

    def _take(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        """Whether a request that the parser has just made whole is answered here."""
        if (
            message.should_close
            or message.version != HttpVersion11
            or message.compression
            or self._paused
            or self._messages
            or self._close
            or not self._waits
            or not payload.is_eof()
        ):
            return False
        direct, transport = self._direct, self.transport
        if direct is None or transport is None or transport.is_closing():
            return False
        answer = direct.answer(message, payload, self.let_in, self.peername)
        if answer is None:
            return False
        self.let_in = False
        self._took = True
        self._keep_open()
        if isinstance(answer, bytes):
            transport.write(answer)
        else:
            self._pending = self._loop.create_task(self._await(answer))
        return True

    def _keep_open(self) -> None:
        """As aiohttp after each of its answers."""
        self._keepalive = True
        close_time = self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)

    async def _await(self, coming: Coroutine[Any, Any, bytes]) -> None:
        try:
            answer = await coming
        finally:
            self._pending = None
        if self.transport is None or self.transport.is_closing():
            return  # the client is gone
        self._keep_open()
        self.transport.write(answer)
        if self._closes:
            self.close()
            return
        held, self._held = b"".join(self._held), []
        if self._held_back:
            self._held_back = False
            self._read_again()
        if held:
            self.data_received(held)

    def close(self) -> None:
        if self._pending is not None:
            self._closes = True
            return
        super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        pending = self._pending
        if pending is not None:
            self._closes = True
            await asyncio.wait((pending,), timeout=timeout)
            pending.cancel()
        await super().shutdown(timeout)

    # Refusing

    def _refuse(self, admission: Admission) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        transport.write(REFUSAL)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._pause_transport_reading()
        self._loop.call_later(admission.refused_unparsed(), self._read_again)

    def _read_again(self) -> None:
        if not (self._reading_paused or self._buffer_paused):
            self._resume_transport_reading()

    def look(self, now: float) -> bool:
        """Ends a client that has sent neither the rest of its request nor taken its answer for too
        long; whether it did. Called now and then."""
        doing: object = None
        bodys = False
        if self._paused:
            doing = "writing"
        elif self._unfinished and self._waits:
            doing = "head"
        elif (request := self._current_request) is not None and not request.content.is_eof():
            doing, bodys = request, True  # at its end where all has come, read or not
        before, received = self._progress
        moves = bodys and self._bytes - received >= SLOW_BYTES
        if doing is None or doing is not before or moves:
            self._progress, self._since = (doing, self._bytes), now
            return False
        if now - self._since < SLOW_SECONDS or self.transport is None:
            return False
        self.transport.abort()
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # aiohttp's words: not passed on
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):  # it went away in the middle: no stack, no answer
            raise ConnectionError("the client is gone") from None
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("connection_failed", exc_info=exc)
        else:
            _log.info("connection_refused", status=status, reason=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("half an answer is sent")
        response = refused(status)
        response.force_close()
        return response


class _Watched:
    """aiohttp's parser, which shows each request that came alone before it is queued."""

    __slots__ = ("_feed", "_parser", "_take", "message_consumed")

    def __init__(
        self, parser: Any, take: Callable[[RawRequestMessage, StreamReader], bool]
    ) -> None:
        self._parser = parser
        self._feed = parser.feed_data
        self._take = take
        self.message_consumed = parser.message_consumed

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        messages, upgraded, tail = self._feed(data)
        if len(messages) == 1 and not upgraded and self._take(*messages[0]):
            self.message_consumed()
            return (), upgraded, tail
        return messages, upgraded, tail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)
