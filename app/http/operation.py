"""One HTTP operation, declared once: the router and the OpenAPI document are both made from it."""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from aiohttp import web
from multidict import CIMultiDictProxy

from app.domain.merchant import Role
from app.telemetry.logs import CanonicalLine

_PART = re.compile(r"\{(\w+):[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


Headers = tuple[tuple[str, str], ...]


class Asked:
    """A request to an operation whose path ends in a parameter."""

    __slots__ = ("body", "headers", "last", "line", "query", "remote", "understood")

    def __init__(
        self,
        last: str,
        query: str,
        headers: CIMultiDictProxy[str],
        body: bytes,
        line: CanonicalLine,
        remote: str | None = None,
    ) -> None:
        self.last = last  # the path's last part
        self.query = query  # as it came, without "?"
        self.headers = headers
        self.body = body
        self.line = line  # for the handler to fill in
        self.remote = remote  # the address at the connection's other end
        self.understood: Any = None  # what the handler's `now` leaves to its `later`


class Sent(NamedTuple):
    """An answer. `headers` are few different ones: their bytes are kept."""

    body: bytes
    headers: Headers
    status: int = 200


class DirectHandler(Protocol):
    """See `app.http.direct`. What its methods raise becomes an answer as from any handler."""

    def declines(self, query: str) -> bool:
        """Whether a request takes more than `Asked` has: then it takes aiohttp's own way."""
        ...

    def now(self, asked: Asked) -> Sent | None:
        """The answer, without waiting; None: it has to be waited for."""
        ...

    async def later(self, asked: Asked) -> Sent:
        """The answer, after `now` had none."""
        ...


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
    direct: DirectHandler | None = None  # answers the same without aiohttp's request and response
    plain_problems: bool = False  # refusals of its own are application/json: its clients read that

    @property
    def template(self) -> str:
        """The path without the patterns of its parts, as OpenAPI and metrics name it."""
        return _PART.sub(r"{\1}", self.path)
