"""The OpenAPI document and the page that reads it."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.domain.merchant import Credential
from app.http.application import build
from app.http.health import Check, HealthHandler, Readiness
from app.http.metrics import MetricsHandler
from app.http.openapi import document
from app.http.operation import Operation, Parameter, Security
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output


class Shelf(msgspec.Struct):
    """A shelf, for these tests."""

    id: str
    inner: list[Shelf] = []
    width: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Nobody:
    def token(self, secret: str) -> Credential:
        raise NotImplementedError

    def allowed_origins(self, key: str) -> tuple[str, ...] | None:
        return None


async def _nothing(_request: web.Request) -> web.Response:
    return web.Response()


OPERATIONS = (
    Operation(
        "PUT",
        "/shelves/{shelf_id:[a-z]{1,9}}",
        "putShelf",
        "admin",
        "Replace a shelf",
        _nothing,
        body=Shelf,
        body_example=Shelf("a", [Shelf("b")]),
        responses={200: Shelf, 204: None},
    ),
    Operation(
        "GET",
        "/shelves",
        "listShelves",
        "storefront",
        "All shelves",
        _nothing,
        security=Security.KEY,
        parameters=(
            Parameter("key", required=True),
            Parameter("limit", Annotated[int, msgspec.Meta(ge=1, le=100)], description="At most."),
            Parameter("term", str | None, example="glass"),
        ),
        responses={200: list[Shelf]},
    ),
)


def application(readiness: Readiness | None = None) -> web.Application:
    readiness = readiness or Readiness()
    metrics = Metrics()
    return build(
        (
            *OPERATIONS,
            *HealthHandler(readiness).operations(),
            *MetricsHandler(metrics).operations(),
        ),
        authenticator=Nobody(),
        origins=Nobody(),
        readiness=readiness,
        metrics=metrics,
        output=Output(2, limit=0),
    )


@pytest.fixture
async def client(aiohttp_client: Any) -> TestClient[web.Request, web.Application]:
    served: TestClient[web.Request, web.Application] = await aiohttp_client(application())
    return served


async def test_the_document_is_valid_and_has_every_route(
    client: TestClient[web.Request, web.Application],
) -> None:
    spec = await (await client.get("/openapi.json")).json()
    assert list(OpenAPIV31SpecValidator(spec).iter_errors()) == []
    described = {
        (method.upper(), path) for path, methods in spec["paths"].items() for method in methods
    }
    assert client.app is not None
    served = {
        (route.method, route.resource.canonical)
        for route in client.app.router.routes()
        if route.resource is not None and route.method not in ("HEAD", "OPTIONS", "*")
    }
    assert described == served
    assert ("PUT", "/shelves/{shelf_id}") in described


async def test_the_document_says_what_the_operations_say(
    client: TestClient[web.Request, web.Application],
) -> None:
    spec = await (await client.get("/openapi.json")).json()
    put = spec["paths"]["/shelves/{shelf_id}"]["put"]
    reference = put["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    shelf = spec["components"]["schemas"][reference.rpartition("/")[2]]
    assert shelf["properties"]["width"]["exclusiveMinimum"] == 0
    assert put["requestBody"]["content"]["application/json"]["example"]["inner"][0]["id"] == "b"
    assert put["parameters"] == [
        {"name": "shelf_id", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    assert put["security"] == [{"basic": []}, {"bearer": []}]
    listing = spec["paths"]["/shelves"]["get"]
    assert [parameter["name"] for parameter in listing["parameters"]] == ["limit", "term"]
    assert listing["parameters"][0]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100}
    assert listing["security"] == [{"key": []}]
    assert put["responses"]["default"] == {"$ref": "#/components/responses/Problem"}


async def test_the_document_is_not_sent_twice(
    client: TestClient[web.Request, web.Application],
) -> None:
    first = await client.get("/openapi.json")
    again = await client.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")


async def test_the_page_needs_nothing_from_elsewhere(
    client: TestClient[web.Request, web.Application],
) -> None:
    for path, kind in (
        ("/docs", "text/html"),
        ("/docs/docs.js", "text/javascript"),
        ("/docs/docs.css", "text/css"),
    ):
        answer = await client.get(path)
        assert (answer.status, answer.content_type) == (200, kind)
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert re.findall(r"https?://", await answer.text()) == []


def test_two_operations_of_one_name_are_refused() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="putShelf"):
        build(
            (OPERATIONS[0], OPERATIONS[0]),
            authenticator=Nobody(),
            origins=Nobody(),
            readiness=Readiness(),
            metrics=metrics,
            output=Output(2),
        )


def test_the_same_operations_make_the_same_document() -> None:
    assert document(OPERATIONS, "1") == document(OPERATIONS, "1")


async def test_readiness_names_what_is_missing(aiohttp_client: Any) -> None:
    state: dict[str, str | None] = {"catalogue": "loading, 10 of 20 items", "redis": "refused"}
    readiness = Readiness(
        (
            Check("catalogue", lambda: state["catalogue"]),
            Check("redis", lambda: state["redis"], required=False),
        )
    )
    client = await aiohttp_client(application(readiness))

    async def ask() -> tuple[int, list[str], list[str]]:
        answer = await client.get("/health/ready")
        body = await answer.json()
        names = [[each["name"] for each in body[part]] for part in ("missing", "degraded")]
        return answer.status, names[0], names[1]

    readiness.warm = False
    assert await ask() == (503, ["warm-up", "catalogue"], ["redis"])
    early = await client.get("/shelves?key=any")
    assert (early.status, early.headers["Retry-After"]) == (503, "1")
    readiness.warm = True
    assert await ask() == (503, ["catalogue"], ["redis"])
    state["catalogue"] = None
    assert await ask() == (200, [], ["redis"])
    readiness.draining = True
    assert await ask() == (503, ["draining"], ["redis"])
    assert (await client.get("/health/live")).status == 200
