"""One HTTP operation, declared once: the router and the OpenAPI document are both made from it."""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from app.domain.merchant import Role

_PART = re.compile(r"\{(\w+):[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Security(enum.Enum):
    NONE = "none"
    KEY = "key"  # the public key, as the query parameter `key`: checked by the handler
    TOKEN = "token"  # noqa: S105  # Basic or Bearer: checked before the handler is called


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    type: Any = str  # any type msgspec can describe
    where: Literal["query", "path", "header"] = "query"
    description: str = ""
    required: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True)
class Operation:
    method: str  # "GET"
    path: str  # aiohttp's form: "/admin/v1/pods/{pod_id}"
    id: str  # operationId, unique: "getPod"
    tag: str
    summary: str  # one line
    handler: Handler
    security: Security = Security.TOKEN
    roles: frozenset[Role] = frozenset(Role)  # who may, where security is TOKEN
    parameters: tuple[Parameter, ...] = ()
    body: Any = None  # type of the JSON body; None: no body
    body_required: bool = True
    body_media_types: tuple[str, ...] = ("application/json",)
    responses: Mapping[int, Any] = field(default_factory=lambda: {200: None})
    """Type of the JSON answer a status; None: no body. Problems are added by themselves."""
    description: str = ""
    body_example: Any = None
    max_body_bytes: int | None = None  # None: the server's limit
    aliases: tuple[str, ...] = ()
    """Further paths, undocumented: how a client spells this one that escapes its slashes."""
    response_media_type: str = "application/json"  # of the answers that are no problem
    plain_problems: bool = False  # refusals of its own are application/json: its clients read that

    @property
    def template(self) -> str:
        """The path without the patterns of its parts, as OpenAPI and metrics name it."""
        return _PART.sub(r"{\1}", self.path)
