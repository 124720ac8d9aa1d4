"""The next release's migration, applied while this release serves: expand, and contract again."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from app.embedded import OWNER_ROLE
from ops.stability.load import Load, facts
from ops.stability.scene import SETTLE, Result, Scene, count_events, no_failure
from ops.stability.world import ROOT, World

NEXT: Final = Path(__file__).with_name("next_release")
TIMES: Final = 5
LOCK_SECONDS: Final = 1  # that the migration waits for a table in use; everybody waits behind it


async def migrated(scene: Scene) -> Result:
    """A migration that meets a table in use gives up, and changes nothing; then it is applied and
    taken back, several times."""
    world = scene.world
    load = Load(world.shop(), scene.rate)
    load.start()
    await asyncio.sleep(SETTLE + scene.seconds(3))
    marks = {"fault": load.now}
    gave_up = await asyncio.to_thread(_meet_a_reader, world)
    longest = 0.0
    for _ in range(TIMES):
        for call, revision in ((command.upgrade, "head"), (command.downgrade, "-1")):
            began = time.monotonic()
            await asyncio.to_thread(call, _config(world), revision)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(scene.seconds(2))
    marks["mended"] = load.now
    await asyncio.sleep(scene.seconds(3))
    record = await load.stop()
    result = Result("migrated", facts(record, marks), record, marks)
    result.figures |= {
        "applied": TIMES,
        "longest_s": round(longest, 2),
        "gave_up": gave_up,
        "recovery_s": 0.0,
    }
    await count_events(world, result)
    no_failure(result)
    result.require(gave_up, "it did not give up, though a table was in use")
    return result


def _meet_a_reader(world: World) -> bool:
    """Whether the migration gives up, and leaves the schema as it is, while somebody reads."""
    with psycopg.connect(world.postgres.url(OWNER_ROLE)) as reader:
        reader.execute("SELECT FROM event LIMIT 1")
        try:
            command.upgrade(_config(world), "head")
        except sa.exc.DBAPIError as error:
            gave_up = "lock timeout" in str(error)
        else:
            return False
    with psycopg.connect(world.postgres.url(OWNER_ROLE)) as connection:
        columns = connection.execute(
            "SELECT 1 FROM information_schema.columns"
            " WHERE table_name = 'event' AND column_name = 'channel'"
        ).fetchall()
    return gave_up and not columns


def _config(world: World) -> Config:
    config = Config(ROOT / "alembic.ini")
    locations = (ROOT / "migrations" / "versions", NEXT)
    config.set_main_option("version_locations", os.pathsep.join(map(str, locations)))
    config.attributes |= {"url": world.postgres.url(OWNER_ROLE), "lock_seconds": LOCK_SECONDS}
    return config
