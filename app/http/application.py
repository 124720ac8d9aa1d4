"""The aiohttp application, made from all operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from aiohttp import hdrs, web

from app.domain.merchant import Role
from app.http.caller import Authenticator
from app.http.direct import DIRECT, Direct
from app.http.health import Readiness
from app.http.middleware import Origins, Surroundings, preflight, request_ids, surround
from app.http.openapi import DocumentHandler
from app.http.operation import Handler, Operation, Security
from app.http.server import Limits
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output
from app.telemetry.traces import Tracer

UNMATCHED: Final = "(unmatched)"  # the route that logs and metrics name where there is none


def build(
    operations: Sequence[Operation],
    *,
    authenticator: Authenticator,
    origins: Origins,
    readiness: Readiness,
    metrics: Metrics,
    output: Output,
    limits: Limits | None = None,
    tracer: Tracer | None = None,
) -> web.Application:
    """An application that serves `operations`, their OpenAPI document at /openapi.json and a page
    to read it at /docs. Call it after the fork: request ids are counted from a random start.

    Raises:
        ValueError: two operations share an id, or a method and path.
    """
    limits = limits or Limits()
    around = Surroundings(
        authenticator=authenticator,
        origins=origins,
        readiness=readiness,
        metrics=metrics,
        output=output,
        new_id=request_ids(),
        tracer=tracer,
        admission=limits.admission,
    )
    document = DocumentHandler(operations)
    operations = (*operations, *document.operations())
    _check_unique(operations)
    application = web.Application(client_max_size=limits.body_bytes)
    router = application.router
    storefront: dict[str, set[str]] = defaultdict(set)
    direct = application[DIRECT] = Direct()
    for operation in operations:
        if operation.direct is not None:
            direct.add(operation, operation.direct, around)
        handler = surround(operation, around)
        for path in (operation.path, *operation.aliases):
            router.add_route(operation.method, path, handler)
            if operation.method == hdrs.METH_GET:
                router.add_route(hdrs.METH_HEAD, path, handler)
        if operation.security is Security.KEY:
            storefront[operation.path].add(operation.method)
    for path, methods in storefront.items():
        handler = _system(hdrs.METH_OPTIONS, path, preflight(sorted(methods), around), around)
        router.add_route(hdrs.METH_OPTIONS, path, handler)
    # Last, so that everything else is asked first.
    router.add_route(hdrs.METH_ANY, "/{path:.*}", _system("*", UNMATCHED, _unmatched, around))
    return application


def _system(method: str, path: str, handler: Handler, around: Surroundings) -> Handler:
    operation = Operation(method, path, "", "", "", handler, Security.NONE, frozenset[Role]())
    return surround(operation, around)


async def _unmatched(request: web.Request) -> web.StreamResponse:
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != "/{path}":
            match, methods = await resource.resolve(request)
            if match is not None or methods:
                allowed |= methods
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound


def _check_unique(operations: Sequence[Operation]) -> None:
    seen: set[object] = set()
    for operation in operations:
        for name in (operation.id, (operation.method, operation.path)):
            if name in seen:
                raise ValueError(f"two operations are called {name}")
            seen.add(name)
