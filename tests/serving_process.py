"""A service that the tests of `vitrine serve` run in real processes: `python THIS_FILE FOLDER N`,
and `spare` where one is to be kept.

It tells which process answers, and holds a request back until the test lets it go.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web

from app.cli.serving import serve_forever
from app.domain.merchant import Credential
from app.http.application import build
from app.http.health import HealthHandler, Readiness
from app.http.metrics import MetricsHandler
from app.http.operation import Operation, Security
from app.http.server import Limits, Place
from app.settings import Settings


class Nobody:
    def token(self, secret: str) -> Credential:
        raise NotImplementedError

    def allowed_origins(self, key: str) -> tuple[str, ...] | None:
        return ()


class HeldService:
    """Its warm-up waits while FOLDER/hold_start exists, and fails while FOLDER/fail_start does."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        self.limits = Limits()
        self.readiness = Readiness()
        self.application = build(
            (
                Operation("GET", "/pid", "pid", "storefront", "", self.pid, Security.KEY),
                Operation("GET", "/hold", "hold", "storefront", "", self.hold, Security.KEY),
                *HealthHandler(self.readiness).operations(),
                *MetricsHandler(place.metrics, place.metrics_directory).operations(),
            ),
            authenticator=Nobody(),
            origins=Nobody(),
            readiness=self.readiness,
            metrics=place.metrics,
            output=place.output,
        )

    async def start(self) -> None:
        if (self.folder / "fail_start").exists():
            raise RuntimeError("told to fail")
        while (self.folder / "hold_start").exists():
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        (self.folder / f"stopped-{os.getpid()}").touch()

    async def pid(self, _request: web.Request) -> web.Response:
        return web.Response(text=str(os.getpid()))

    async def hold(self, request: web.Request) -> web.Response:
        (self.folder / "held").write_text(str(os.getpid()))
        while not (self.folder / "let_go").exists():
            await asyncio.sleep(0.01)
        return await self.pid(request)


def main(folder: Path, workers: int, *, spare: bool) -> int:
    settings = Settings(port=0, workers=workers, grace_seconds=30.0, spare_worker=spare)
    return serve_forever(
        settings,
        lambda _settings, place: HeldService(folder, place),
        lambda url: (folder / "url").write_text(url) and None,
    )


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), int(sys.argv[2]), spare=sys.argv[3:] == ["spare"]))
