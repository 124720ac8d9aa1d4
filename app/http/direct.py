"""The shop's pages' requests, answered where their bytes arrive.

aiohttp parses them as all others; but where an operation has a direct handler, no request object,
task, route or response is made between the parser and the answer: what waits for nothing is
written at once, what has to wait takes one task. By this a ready list costs less than aiohttp's own
way takes for any answer (ops/bench/README.md). Whatever is out of the ordinary goes that way, and
finds the same handler there.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Coroutine
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.streams import EMPTY_PAYLOAD

from app.domain import errors
from app.http.middleware import (
    EXPOSED,
    REQUEST_ID,
    SERVER,
    Surroundings,
    check_origin,
    defect,
    refusal,
    valid_id,
)
from app.http.operation import Asked, DirectHandler, Headers, Operation, Sent
from app.telemetry.logs import CanonicalLine, canonical_writer
from app.telemetry.traces import Span

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.http_parser import RawRequestMessage

Answer = bytes | Coroutine[Any, Any, bytes] | None
"""A whole answer, one that will come, or None: aiohttp's own way is taken."""

_key_of = re.compile(r"(?:\A|&)key=([^&%+]*)(?:&|\Z)").search


class Direct:
    """The direct handlers of an application, by method and path."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], _Route] = {}

    def add(self, operation: Operation, handler: DirectHandler, around: Surroundings) -> None:
        """`operation` has a path whose last part alone is a parameter.

        Raises:
            ValueError: it has not.
        """
        head, _, last = operation.path.rpartition("/")
        if not (last.startswith("{") and last.endswith("}")) or "{" in head or ":" in last:
            raise ValueError(f"{operation.path}: only a last part that is a name can be direct")
        self._routes[operation.method, head] = _Route(operation, handler, around)

    def answer(
        self, message: RawRequestMessage, payload: StreamReader, let_in: bool, peer: Any
    ) -> Answer:
        """
        Args:
            peer: the connection's, as a transport names it.
            payload: the body, which is there to its end. It is read only where there is an answer.
            let_in: admission was asked for this request, and lets it in.
        """
        path, _, query = message.path.partition("?")
        head, _, last = path.rpartition("/")
        route = self._routes.get((message.method, head))
        if route is None or not last or not last.isascii() or "%" in last or "#" in message.path:
            return None
        return route.answer(message, last, query, payload, let_in, peer)


DIRECT: Final = web.AppKey("direct", Direct)


class _Route:
    """What `app.http.middleware.surround` puts around a handler, around a direct one."""

    def __init__(self, operation: Operation, handler: DirectHandler, around: Surroundings) -> None:
        self._handler = handler
        self._around = around
        self._admission = around.admission
        self._readiness = around.readiness
        self._tracer = around.tracer
        self._new_id = around.new_id
        self._name = f"{operation.method} {operation.template}"
        self._record = around.metrics.route(operation.method, operation.template)
        self._write = canonical_writer(around.output, operation.method, operation.template)
        self._count_defect = around.metrics.http_errors.labels(operation.template).inc

    def answer(
        self,
        message: RawRequestMessage,
        last: str,
        query: str,
        payload: StreamReader,
        let_in: bool,
        peer: Any,
    ) -> Answer:
        readiness, admission, headers = self._readiness, self._admission, message.headers
        if (
            readiness.draining
            or not readiness.warm
            or (admission is not None and admission.share and not let_in)
            or hdrs.EXPECT in headers
            or self._handler.declines(query)
        ):
            return None
        started = time.perf_counter()
        request_id = headers.get(REQUEST_ID)
        if request_id is None or valid_id(request_id) is None:
            request_id = self._new_id()
        body = b"" if payload is EMPTY_PAYLOAD else payload.read_nowait()
        remote = str(peer[0]) if isinstance(peer, tuple) else peer
        asked = Asked(last, query, headers, body, CanonicalLine(request_id), remote)
        origin = headers.get(hdrs.ORIGIN)
        span = None if self._tracer is None else self._tracer.begin(self._name, headers)
        if span is not None:
            asked.line.trace_id = span.trace_id
        try:
            if admission is not None:
                admission.requests += 1
                if admission.key_rate:
                    wait = admission.key_waits(message.path)
                    if wait:
                        raise errors.TooMany(
                            "too many requests with this key: try again", math.ceil(wait)
                        )
            if origin is not None:
                check_origin(origin, _key(message, query), self._around.origins)
            sent = self._handler.now(asked)
            if sent is None:
                if span is not None:
                    span.pause()
                return self._later(asked, origin, started, span)
        except Exception as error:  # noqa: BLE001  # its stack is logged, if it is no refusal
            return self._refused(error, asked, origin, started, span)
        if span is not None:
            span.attribute("http.response.status_code", sent.status)
            span.end()
        return self._end(sent, asked.line, origin, started)

    async def _later(
        self, asked: Asked, origin: str | None, started: float, span: Span | None
    ) -> bytes:
        if span is not None:
            span.resume()
        try:
            sent = await self._handler.later(asked)
        except Exception as error:  # noqa: BLE001
            return self._refused(error, asked, origin, started, span)
        if span is not None:
            span.attribute("http.response.status_code", sent.status)
            span.end()
        return self._end(sent, asked.line, origin, started)

    def _refused(
        self,
        error: Exception,
        asked: Asked,
        origin: str | None,
        started: float,
        span: Span | None,
    ) -> bytes:
        failed = self._failed(error, asked)
        if span is not None:
            span.attribute("http.response.status_code", failed.status)
            span.end(None if isinstance(error, errors.VitrineError) else error)
        return self._end(failed, asked.line, origin, started)

    def _failed(self, error: Exception, asked: Asked) -> Sent:
        request_id = asked.line.request_id
        if isinstance(error, errors.VitrineError):
            response = refusal(error, request_id)
        else:
            self._count_defect()
            response = defect(self._name, request_id, error)
        body = response.body
        assert isinstance(body, bytes)  # noqa: S101
        return Sent(body, tuple(response.headers.items()), response.status)

    def _end(self, sent: Sent, line: CanonicalLine, origin: str | None, started: float) -> bytes:
        body, status = sent.body, sent.status
        seconds = time.perf_counter() - started
        self._record(status, seconds)
        self._write(line, status, seconds)
        told = b""
        if origin is not None:
            told = (
                f"{hdrs.ACCESS_CONTROL_ALLOW_ORIGIN}: {origin}\r\n"
                f"{hdrs.ACCESS_CONTROL_EXPOSE_HEADERS}: {EXPOSED}\r\n{hdrs.VARY}: {hdrs.ORIGIN}\r\n"
            ).encode("utf-8", "surrogateescape")
        return b"%b%b%b: %b\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            _head(status, sent.headers),
            told,
            _REQUEST_ID,
            line.request_id.encode(),
            rfc822_formatted_time().encode(),
            len(body),
            body,
        )


def _key(message: RawRequestMessage, query: str) -> str | None:
    found = _key_of(query)
    return message.url.query.get("key") if found is None else found[1]


_REQUEST_ID: Final = REQUEST_ID.encode()


@lru_cache(maxsize=1024)
def _head(status: int, headers: Headers) -> bytes:
    """The status line, and the headers that repeat."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"{hdrs.SERVER}: {SERVER}"]
    lines += [
        f"{name}: {value}"
        for name, value in headers
        if name.lower() not in ("content-length", "server", "date")
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()
