"""What surrounds every operation: request id, caller, errors to problems, canonical line, metrics.

Each operation's handler is wrapped once, at start, with its labels bound. aiohttp's own middlewares
are not used: each would cost 4 µs a request, and would not know the operation.
"""

from __future__ import annotations

import itertools
import math
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiohttp import hdrs, web
from multidict import CIMultiDict

from app.domain import errors
from app.http.admission import RETRY_SECONDS, Admission
from app.http.caller import CALLER, Authenticator, authenticate
from app.http.health import Readiness
from app.http.operation import Handler, Operation, Security
from app.http.problem import from_error, problem
from app.telemetry.logs import CanonicalLine, canonical_writer
from app.telemetry.logs import get as get_log
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output
from app.telemetry.traces import Tracer

REQUEST_ID: Final = "X-Request-Id"
SERVER: Final = "vitrine"
PREFLIGHT_SECONDS: Final = "86400"
EXPOSED: Final = f"{REQUEST_ID}, Retry-After, Vitrine-Degraded"  # to scripts of other origins

LINE: Final = web.RequestKey("line", CanonicalLine)

TOLD: Final = web.RequestKey("told", dict[str, str])
"""Headers that the answer gets, whatever it is: a refusal, too."""

valid_id = re.compile(r"[A-Za-z0-9_.:\-]{1,128}\Z").match
_log = get_log(__name__)

PROBLEMS: Final = {
    400: ("Invalid input", "the request is not valid HTTP, or its body cannot be read"),
    404: ("Not found", "there is no such address: /openapi.json lists all"),
    405: ("Method not allowed", "this address does not know the method: the header Allow lists it"),
    408: ("Too slow", "the request did not arrive in time"),
    411: ("Length required", "say the body's length in Content-Length"),
    413: ("Too large", "the body is larger than this operation takes"),
    415: ("Wrong media type", "the operation does not take this Content-Type"),
    417: ("Expectation failed", "only the expectation 100-continue is known"),
    500: ("Internal error", "the server failed; the request id leads to the reason in its log"),
}


class Origins(Protocol):
    def allowed_origins(self, key: str) -> Sequence[str] | None:
        """Origins whose pages may use a storefront key; empty: any; None: no such key."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all operations share."""

    authenticator: Authenticator
    origins: Origins
    readiness: Readiness
    metrics: Metrics
    output: Output  # where canonical lines go
    new_id: Callable[[], str]
    tracer: Tracer | None = None
    admission: Admission | None = None


def canonical(request: web.Request) -> CanonicalLine:
    """The request's canonical line, for a handler to fill in."""
    line = request.get(LINE)
    if line is None:  # a handler called without its surroundings, in a test
        line = request[LINE] = CanonicalLine("")
    return line


def request_ids() -> Callable[[], str]:
    """A maker of unique ids: a random start for the process, counted on. One after each fork."""
    numbers = itertools.count(secrets.randbits(64))
    return lambda: f"{next(numbers):x}"


def surround(operation: Operation, around: Surroundings) -> Handler:
    """The handler that is registered for an operation."""
    handle = operation.handler
    route = operation.template
    name = f"{operation.method} {route}"
    record = around.metrics.route(operation.method, route)
    write = canonical_writer(around.output, operation.method, route)
    count_defect = around.metrics.http_errors.labels(route).inc
    admit = _admission(operation, around)
    tell = _allow_origin if operation.security is Security.KEY else _tell
    new_id = around.new_id
    tracer = around.tracer
    readiness = around.readiness

    async def serve(request: web.Request) -> web.StreamResponse:
        started = time.perf_counter()
        request_id = request.headers.get(REQUEST_ID)
        if request_id is None or valid_id(request_id) is None:
            request_id = new_id()
        line = request[LINE] = CanonicalLine(request_id)
        span = None if tracer is None else tracer.begin(name, request.headers)
        if span is not None:
            line.trace_id = span.trace_id
        failure: Exception | None = None
        status = 499  # unless something is answered: the client went away, or the server stops
        try:
            if admit is not None:
                request = admit(request, line)
            response = await handle(request)
            status = response.status
        except (errors.VitrineError, web.HTTPException, web.RequestPayloadError) as error:
            response = refusal(error, request_id)
            status = response.status
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  # its stack is logged
            failure, status = error, 500
            count_defect()
            response = defect(name, request_id, error)
            if request.writer.output_size and request.transport is not None:
                request.transport.abort()  # half an answer is out: only a cut tells that it failed
        finally:
            seconds = time.perf_counter() - started
            record(status, seconds)
            write(line, status, seconds)
            if span is not None:
                span.attribute("http.response.status_code", status)
                span.end(failure)
        if not response.prepared:
            headers = response.headers
            headers[REQUEST_ID] = request_id
            headers[hdrs.SERVER] = SERVER
            tell(request, headers)
            if readiness.draining:
                response.force_close()
        return response

    return serve


def _admission(
    operation: Operation, around: Surroundings
) -> Callable[[web.Request, CanonicalLine], web.Request] | None:
    """What an operation asks before its handler is called; None: nothing."""
    needs_token = operation.security is Security.TOKEN
    storefront = operation.security is Security.KEY
    limit = operation.max_body_bytes
    if not (needs_token or storefront or limit is not None):
        return None  # signs of life are answered from the first moment to the last
    roles = operation.roles
    refused = "this takes a token of role " + " or ".join(sorted(roles))
    authenticator = around.authenticator
    origins = around.origins
    readiness = around.readiness
    admission = around.admission if storefront else None

    def admit(request: web.Request, line: CanonicalLine) -> web.Request:
        if not readiness.warm:
            raise errors.Unavailable("the server is starting; /health/ready says what is missing")
        if needs_token:
            caller = authenticate(request.headers.get(hdrs.AUTHORIZATION), authenticator)
            request[CALLER] = caller
            line.merchant = caller.merchant
            if caller.role not in roles:
                raise errors.Forbidden(f"{refused}, not {caller.role}")
        elif storefront:
            if admission is not None:
                admission.requests += 1
                if admission.share or admission.key_rate:
                    _let_in(admission, request)
            origin = request.headers.get(hdrs.ORIGIN)
            if origin is not None:
                check_origin(origin, request.query.get("key"), origins)
        if limit is not None:
            length = request.content_length
            if length is not None and length > limit:
                raise errors.TooLarge(f"the body has {length} bytes; at most {limit} are taken")
            return request.clone(client_max_size=limit)
        return request

    return admit


def _let_in(admission: Admission, request: web.Request) -> None:
    if admission.share:
        protocol: Any = request.protocol
        if getattr(protocol, "let_in", False):  # see app.http.connection
            protocol.let_in = False
        elif admission.refuses():
            raise errors.Unavailable("the server is busy: try again", RETRY_SECONDS)
    if admission.key_rate:
        wait = admission.key_waits(request.raw_path)
        if wait:
            raise errors.TooMany("too many requests with this key: try again", math.ceil(wait))


def _tell(request: web.Request, headers: CIMultiDict[str]) -> None:
    if TOLD in request:
        headers.update(request[TOLD])


def _allow_origin(request: web.Request, headers: CIMultiDict[str]) -> None:
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED
        headers.add(hdrs.VARY, hdrs.ORIGIN)


def preflight(methods: Sequence[str], around: Surroundings) -> Handler:
    """Answers browsers that ask whether they may call a storefront address."""
    allow = ", ".join(sorted(methods))

    async def answer(request: web.Request) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN, "*")
        check_origin(origin, request.query.get("key"), around.origins)
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: allow,
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: f"Content-Type, {REQUEST_ID}",
                hdrs.ACCESS_CONTROL_MAX_AGE: PREFLIGHT_SECONDS,
                hdrs.VARY: hdrs.ORIGIN,
            },
        )

    return answer


def refusal(error: Exception, request_id: str) -> web.Response:
    """The problem that an expected error becomes. aiohttp's own text is not passed on."""
    if isinstance(error, errors.VitrineError):
        return from_error(error, request_id)
    if not isinstance(error, web.HTTPException):
        return _problem(400, request_id)
    if error.status < 400:  # a redirect that a handler raised
        return web.Response(status=error.status, headers={hdrs.LOCATION: error.headers["Location"]})
    response = _problem(error.status, request_id)
    for name in (hdrs.ALLOW, hdrs.RETRY_AFTER):
        if name in error.headers:
            response.headers[name] = error.headers[name]
    return response


def defect(name: str, request_id: str, error: Exception) -> web.Response:
    """The answer where a handler failed. Logs why."""
    _log.error("request_failed", request_id=request_id, route=name, exc_info=error)
    return _problem(500, request_id)


def refused(status: int) -> web.Response:
    """The answer to what did not become a request."""
    response = _problem(status, None)
    response.headers[hdrs.SERVER] = SERVER
    return response


def _problem(status: int, request_id: str | None) -> web.Response:
    title, detail = PROBLEMS.get(status, PROBLEMS[500] if status >= 500 else PROBLEMS[400])
    return problem(status, title, detail, request_id=request_id)


def check_origin(origin: str, key: str | None, origins: Origins) -> None:
    """
    Raises:
        Forbidden: the key may not be used by pages of the origin.
    """
    if key is None:
        return
    allowed = origins.allowed_origins(key)
    if allowed and origin not in allowed:
        raise errors.Forbidden("this key may not be used by pages of this origin")
