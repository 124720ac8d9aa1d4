"""Runs migrations, one process at a time, as the schema's owner.

The caller gives the URL by `config.attributes["url"]` (see app/postgres/migration.py); run from the
command line, it is VITRINE_DATABASE_OWNER_URL.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import sqlalchemy as sa
from alembic import context

from app.postgres.database import engine
from app.postgres.tables import metadata

# One number for all of Vitrine's migrations: whoever holds the lock migrates.
LOCK = 0x76697472696E65  # "vitrine"
# Days of the event log are made by ensure_event_partitions; the job queue by procrastinate's own
# schema: neither is described in app/postgres/tables.py.
NOT_OURS = re.compile(r"event_\d{8}|procrastinate_\w+")


def include_name(name: str | None, type_: str, _parents: Any) -> bool:
    return not (type_ == "table" and name is not None and NOT_OURS.fullmatch(name))


def run(connection: sa.Connection) -> None:
    options = context.config.attributes
    connection.exec_driver_sql(f"SET lock_timeout = '{int(options.get('wait_seconds', 300))}s'")
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK})")
    # A migration that waits for a table makes every later query on it wait behind: give up soon.
    connection.exec_driver_sql(f"SET lock_timeout = '{int(options.get('lock_seconds', 5))}s'")
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            include_name=include_name,
            compare_type=True,
            compare_server_default=True,
            on_version_apply=options.get("on_apply", ()),
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({LOCK})")
        connection.commit()


async def main() -> None:
    url = context.config.attributes.get("url") or os.environ.get("VITRINE_DATABASE_OWNER_URL")
    if not url:
        raise SystemExit("set VITRINE_DATABASE_OWNER_URL, or run `vitrine migrate`")
    made = engine(
        url,
        pool=1,
        statement_timeout=0,
        pool_timeout=30,
        connect_timeout=10,
        application_name="vitrine-migrate",
    )
    try:
        async with made.connect() as connection:
            await connection.run_sync(run)
    finally:
        await made.dispose()


if context.is_offline_mode():
    raise SystemExit("offline SQL is not made: migrations read the catalogue of roles")
asyncio.run(main())
