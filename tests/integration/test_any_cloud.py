"""The image's install, as the Dockerfile makes it, runs on any PostgreSQL, any Redis and any
S3-compatible store: its processes are given these settings and nothing of AWS."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from app.domain.merchant import Role
from tests.fake_object_store import FakeObjectStore
from tests.small_shop import SmallShop

ROOT = Path(__file__).resolve().parents[2]
VITRINE = ROOT / ".venv/image/bin/vitrine"
PATIENCE = 120.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not VITRINE.exists(), reason="the image's install is not here: make image-install"
    ),
]


class Image:
    """Commands of the image, with an environment that holds nothing but what is given."""

    def __init__(self, home: Path, settings: dict[str, str]) -> None:
        self.home = home
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "VITRINE_HOME": str(home / "vitrine"),
            **settings,
        }

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        with (self.home / f"{arguments[0]}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                VITRINE, *arguments, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    async def run(self, *arguments: str) -> str:
        process = await self.start(*arguments)
        code = await process.wait()
        said = (self.home / f"{arguments[0]}.log").read_text()
        assert code == 0, said
        return said

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        process = await self.start("serve", "--port", "0")
        try:
            until = time.monotonic() + PATIENCE
            while True:
                said = (self.home / "serve.log").read_text()
                for line in said.splitlines():
                    if '"ready"' in line:
                        yield json.loads(line)["url"]
                        return
                assert process.returncode is None, said
                assert time.monotonic() < until, said
                await asyncio.sleep(0.1)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def test_the_image_needs_nothing_of_aws(
    database_url: str, owner_url: str, redis_url: str, merchant: Any, tmp_path: Path
) -> None:
    store = FakeObjectStore("artefacts", "archive")
    async with TestServer(store.application) as server:
        image = Image(
            tmp_path,
            {
                "VITRINE_DATABASE_URL": database_url,
                "VITRINE_DATABASE_OWNER_URL": owner_url,
                "VITRINE_REDIS_URL": redis_url,
                "VITRINE_ARTEFACTS_URL": "s3://artefacts/models",
                # fsspec's own way to configure a protocol, of any store that speaks it.
                "FSSPEC_S3_ENDPOINT_URL": str(server.make_url("")).rstrip("/"),
                "FSSPEC_S3_KEY": "any",
                "FSSPEC_S3_SECRET": "any",
            },
        )
        assert not [name for name in image.environment if name.startswith(("AWS", "ECS"))]
        await image.run("migrate", "check")
        async with image.serving() as url, aiohttp.ClientSession() as http:
            shop = SmallShop(http, url, merchant.key, merchant.secrets[Role.ADMINISTRATOR])
            await shop.fill()
            await shop.send("POST", "/admin/v1/trainings", {})
            await image.run("worker", "--until-idle")
            results = await shop.full("pdp_similar", shopper="c", item="p3")
            assert len(results) == 5
        doctor = await image.run("doctor", "--json")
    artefacts = set(store.objects["artefacts"])
    for strategy in ("popular", "similar"):
        assert f"models/shop/{strategy}/1/manifest.json" in artefacts
    assert any(call.startswith("GET /artefacts/models/shop/similar") for call in store.calls)
    found = {line["check"]: line["verdict"] for line in map(json.loads, doctor.splitlines())}
    assert found["artefacts"] == "ok"


def test_the_image_asks_for_no_setting_of_aws() -> None:
    text = (ROOT / "ops/deploy/Dockerfile").read_text()
    assert re.search(r"\bAWS|amazon|ECS_", text) is None
    for variable in re.findall(r"^    (\w+)=", text.partition("ENV PATH")[2], re.MULTILINE):
        assert variable.startswith(("VITRINE_", "PYTHON")), variable
