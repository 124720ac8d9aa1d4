"""The OpenAPI 3.1 document, made from the operations, and a page to read it."""

from __future__ import annotations

import hashlib
import http
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, resources
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from app.http.operation import Operation, Parameter, Security
from app.http.problem import MEDIA_TYPE, Problem

_REF: Final = "#/components/schemas/{name}"
_PAGE: Final = {"docs.html": "text/html", "docs.js": "text/javascript", "docs.css": "text/css"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

TAGS: Final = {
    "storefront": "What a shop's pages call, with the public key.",
    "tracking": "What shoppers do, told by the shop's pages or its back end.",
    "catalogue": "Items, variations and item groups, with the token.",
    "admin": "What merchants steer, with the token.",
    "operations": "Signs of life, for those who run the service.",
    "demo": "The demo's shop page; no other server has it.",
}


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all operations, as JSON data."""
    types = [Problem]
    for operation in operations:
        types += [parameter.type for parameter in operation.parameters]
        types += [kind for kind in (operation.body, *operation.responses.values()) if kind]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = {_identity(kind): schema for kind, schema in zip(types, schemas, strict=True)}

    def schema(kind: Any) -> dict[str, Any]:
        return schema_of[_identity(kind)]

    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.template, {})[operation.method.lower()] = _operation(
            operation, schema
        )
    used = {operation.tag for operation in operations}
    tags = [*(tag for tag in TAGS if tag in used), *sorted(used - TAGS.keys())]
    problem = {
        "description": "What went wrong (RFC 9457). `message` repeats `detail`.",
        "headers": {
            "X-Request-Id": {
                "description": "The request's name in the server's log",
                "schema": {"type": "string"},
            }
        },
    }
    content = {"schema": schema(Problem)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Vitrine",
            "version": version,
            "summary": "Product recommendations for online shops",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag, "description": TAGS.get(tag, "")} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                "Problem": problem | {"content": {MEDIA_TYPE: content}},
                "PlainProblem": problem
                | {"content": {"application/json": content, MEDIA_TYPE: content}},
            },
            "securitySchemes": {
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The token as user name, an empty password",
                },
                "bearer": {"type": "http", "scheme": "bearer", "description": "The token"},
                "key": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "key",
                    "description": "The merchant's public key",
                },
            },
        },
    }


def _operation(operation: Operation, schema: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": _description(operation),
        "parameters": [_parameter(each, schema) for each in _parameters(operation)],
        "responses": _responses(operation, schema),
        "security": {
            Security.NONE: [],
            Security.KEY: [{"key": []}],
            Security.TOKEN: [{"basic": []}, {"bearer": []}],
        }[operation.security],
    }
    if operation.body is not None:
        content: dict[str, Any] = {"schema": schema(operation.body)}
        if operation.body_example is not None:
            content["example"] = msgspec.to_builtins(operation.body_example)
        described["requestBody"] = {
            "required": operation.body_required,
            "content": dict.fromkeys(operation.body_media_types, content),
        }
    return described


def _description(operation: Operation) -> str:
    parts = [operation.description] if operation.description else []
    if operation.security is Security.TOKEN:
        roles = ", ".join(sorted(operation.roles))
        parts.append(f"Takes a token of one of the roles: {roles}.")
    return "\n\n".join(parts)


def _parameters(operation: Operation) -> list[Parameter]:
    """The declared ones, and those of the path that were not declared. `key` is described by the
    security scheme."""
    declared = [
        parameter
        for parameter in operation.parameters
        if not (operation.security is Security.KEY and parameter.name == "key")
    ]
    named = {parameter.name for parameter in declared if parameter.where == "path"}
    in_path = re.findall(r"\{(\w+)\}", operation.template)
    return declared + [Parameter(name, str, "path") for name in in_path if name not in named]


def _parameter(parameter: Parameter, schema: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required or parameter.where == "path",
        "schema": {"type": "string"} if parameter.type is str else schema(parameter.type),
    }
    if parameter.description:
        described["description"] = parameter.description
    if parameter.example is not None:
        described["example"] = msgspec.to_builtins(parameter.example)
    return described


def _responses(operation: Operation, schema: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, kind in sorted(operation.responses.items()):
        answer: dict[str, Any] = {"description": http.HTTPStatus(status).phrase}
        if kind is not None:
            answer["content"] = {operation.response_media_type: {"schema": schema(kind)}}
        answers[str(status)] = answer
    problem = "PlainProblem" if operation.plain_problems else "Problem"
    return answers | {"default": {"$ref": f"#/components/responses/{problem}"}}


def _identity(kind: Any) -> object:
    """Annotated types are equal, but not always hashable."""
    try:
        hash(kind)
    except TypeError:
        return id(kind)
    return kind


class DocumentHandler:
    """/openapi.json, prepared once, and /docs."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        version = metadata.version("vitrine")
        body = msgspec.json.encode(document((*operations, *self.operations()), version))
        self._answer = (body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        folder = resources.files("app.http") / "pages"
        self._pages: Mapping[str, bytes] = {name: (folder / name).read_bytes() for name in _PAGE}

    def operations(self) -> Sequence[Operation]:
        def page(path: str, name: str, summary: str) -> Operation:
            return Operation(
                "GET",
                path,
                name,
                "operations",
                summary,
                self.page,
                security=Security.NONE,
                responses={200: str},
                response_media_type=_PAGE.get(path.rpartition("/")[2], "text/html"),
            )

        return (
            Operation(
                "GET",
                "/openapi.json",
                "getOpenApi",
                "operations",
                "This document",
                self.openapi,
                security=Security.NONE,
                responses={200: dict[str, Any], 304: None},
            ),
            page("/docs", "getDocs", "This document, to read"),
            page("/docs/docs.js", "getDocsScript", "The script of the page /docs"),
            page("/docs/docs.css", "getDocsStyle", "The style of the page /docs"),
        )

    async def openapi(self, request: web.Request) -> web.Response:
        body, tag = self._answer
        headers = {hdrs.ETAG: tag, hdrs.CACHE_CONTROL: "no-cache"}
        if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def page(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/docs").strip("/") or "docs.html"
        return web.Response(
            body=self._pages[name],
            content_type=_PAGE[name],
            charset="utf-8",
            headers={
                "Content-Security-Policy": _POLICY,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-cache",
            },
        )
