"""The demo's shop: a page that uses the API as a real shop would, with the storefront client.

Its products' pages, categories and search are the shop's own (`ShopCatalogue`), as they are in any
shop; its recommendations come from the API.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from aiohttp import hdrs, web

from app.domain import errors
from app.http.operation import Operation, Security

_ASSETS: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_NAME: Final = re.compile(r"[a-z]+\.(js|css|svg)")
_MAX_TERM: Final = 100


class ShopPods(msgspec.Struct, frozen=True, rename="camel"):
    """Ids of the pods that the pages show."""

    for_you: str = "home_for_you"
    popular: str = "home_popular"
    similar: str = "pdp_similar"
    complements: str = "cart_complements"


class ShopConfig(msgspec.Struct, frozen=True):
    name: str
    about: str
    currency: str  # ISO 4217
    key: str
    pods: ShopPods = ShopPods()


class ShopCatalogue(Protocol):
    """The shop's own data, as JSON. Calls block for milliseconds; None: there is no such thing."""

    def item(self, item_id: str) -> bytes | None: ...

    def groups(self) -> bytes: ...

    def group(self, group_id: str, page: int) -> bytes | None: ...

    def search(self, term: str, page: int) -> bytes: ...


class ShopPage:
    """
    Args:
        client: the storefront client's module, lib/esm/constructorio.js of its npm package.
    """

    def __init__(self, config: ShopConfig, catalogue: ShopCatalogue, client: Path) -> None:
        folder = resources.files("app.http") / "pages" / "shop"
        self._catalogue = catalogue
        self._config = msgspec.json.encode(config)
        self._index = (folder / "index.html").read_bytes()
        self._assets = {
            entry.name: entry.read_bytes()
            for entry in folder.iterdir()
            if _NAME.fullmatch(entry.name)
        }
        self._assets["client.js"] = client.read_bytes()

    def operations(self) -> Sequence[Operation]:
        def page(path: str, name: str, summary: str, handler: Any, media: str) -> Operation:
            return Operation(
                "GET",
                path,
                name,
                "demo",
                summary,
                handler,
                security=Security.NONE,
                responses={200: str if media == "text/html" else dict[str, Any]},
                response_media_type=media,
            )

        html, data = "text/html", "application/json"
        return (
            page("/shop", "getShopHome", "To the demo's shop", self.home, html),
            page("/shop/{path:.*}", "getShop", "A page of the demo's shop", self.page, html),
            page("/shop/assets/{name}", "getShopAsset", "A part of the page", self.asset, html),
            page("/shop/config.json", "getShopConfig", "Key and pods", self.config, data),
            page("/shop/data/items/{id}", "getShopItem", "A product", self.item, data),
            page("/shop/data/groups", "listShopGroups", "The departments", self.groups, data),
            page("/shop/data/groups/{id}", "getShopGroup", "A category", self.group, data),
            page("/shop/data/search", "searchShop", "Products by name", self.search, data),
        )

    async def home(self, _request: web.Request) -> web.Response:
        raise web.HTTPFound("/shop/")

    async def page(self, _request: web.Request) -> web.Response:
        return _file(self._index, "text/html", {"Content-Security-Policy": _POLICY})

    async def asset(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = self._assets.get(name)
        if body is None:
            raise errors.NotFound("the page has no such part")
        return _file(body, _ASSETS[Path(name).suffix])

    async def config(self, _request: web.Request) -> web.Response:
        return _data(self._config)

    async def item(self, request: web.Request) -> web.Response:
        return await _answer(self._catalogue.item, request.match_info["id"])

    async def groups(self, _request: web.Request) -> web.Response:
        return await _answer(self._catalogue.groups)

    async def group(self, request: web.Request) -> web.Response:
        return await _answer(self._catalogue.group, request.match_info["id"], _page(request))

    async def search(self, request: web.Request) -> web.Response:
        term = request.query.get("term", "").strip()
        if not term or len(term) > _MAX_TERM:
            raise errors.InvalidInput.field("term", f"give 1 to {_MAX_TERM} characters")
        return await _answer(self._catalogue.search, term, _page(request))


async def _answer(ask: Callable[..., bytes | None], *arguments: Any) -> web.Response:
    body = await asyncio.to_thread(ask, *arguments)
    if body is None:
        raise errors.NotFound("the shop has no such thing")
    return _data(body)


def _page(request: web.Request) -> int:
    text = request.query.get("page", "1")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 100_000:
        raise errors.InvalidInput.field("page", "give a number from 1")
    return int(text)


def _data(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _file(body: bytes, media: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=body,
        content_type=media,
        charset="utf-8",
        headers={
            hdrs.CACHE_CONTROL: "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            **(headers or {}),
        },
    )
