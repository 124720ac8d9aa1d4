"""The schema up, down and up again, as the owner of an empty database."""

from __future__ import annotations

import asyncio
import datetime
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import procrastinate.schema
import psycopg
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import errors

from app.domain.merchant import MerchantId
from app.embedded import APP_ROLE, OWNER_ROLE
from app.postgres.database import Database, connect
from app.postgres.migration import MigrationError, Migrations, current, head

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def empty(servers: Any) -> Iterator[str]:
    """The name of an empty database of the owner's."""
    name = servers.create_database(migrated=False)
    yield name
    servers.drop_database(name)


@pytest.fixture
def empty_url(servers: Any, empty: str) -> str:
    return str(servers.url(OWNER_ROLE, empty))


def _revisions() -> list[str]:
    """Oldest first."""
    script = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))
    return [revision.revision for revision in script.walk_revisions()][::-1]


def _objects(url: str) -> list[tuple[str, ...]]:
    """All that the schema consists of, in words: columns, constraints, indexes, policies, rights,
    functions, types."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("""
            SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                   a.attnotnull::text, coalesce(pg_get_expr(d.adbin, d.adrelid), '')
              FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
              LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
             WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0
               AND NOT a.attisdropped
            UNION ALL
            SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid),
                   '', '' FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL
            SELECT 'rights', relname, relkind::text, coalesce(relacl::text, ''),
                   relrowsecurity::text, relforcerowsecurity::text
              FROM pg_class WHERE relnamespace = 'public'::regnamespace
            UNION ALL
            SELECT 'policy', polrelid::regclass::text, polname, polcmd::text,
                   coalesce(pg_get_expr(polqual, polrelid), ''),
                   coalesce(pg_get_expr(polwithcheck, polrelid), '') FROM pg_policy
            UNION ALL
            SELECT 'function', oid::regprocedure::text, md5(prosrc), coalesce(proacl::text, ''),
                   prosecdef::text, coalesce(proconfig::text, '')
              FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION ALL
            SELECT 'type', typname, typtype::text, '', '', ''
              FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype <> 'b'
            ORDER BY 1, 2, 3, 4, 5, 6
        """)
        return [tuple(row) for row in rows]


def test_up_down_and_up_again_give_the_same_schema_at_each_step(empty_url: str) -> None:
    migrations = Migrations(empty_url)
    steps = []
    for revision in _revisions():
        migrations.up(revision)
        steps.append(_objects(empty_url))
    assert len(steps[0]) > 100
    for place, revision in reversed(list(enumerate(_revisions()[:-1]))):
        migrations.down(revision)
        assert _objects(empty_url) == steps[place], f"down to {revision}"
    migrations.down("base")
    left = [entry for entry in _objects(empty_url) if entry[1] != "alembic_version"]
    assert [entry for entry in left if "alembic_version" not in entry[1]] == []
    migrations.up()
    assert _objects(empty_url) == steps[-1]


def test_down_works_with_rows_and_partitions(empty_url: str, empty: str, servers: Any) -> None:
    migrations = Migrations(empty_url)
    migrations.up()
    with psycopg.connect(servers.url(None, empty)) as connection:
        connection.execute("SELECT ensure_event_partitions('{2017-01-01}')")
        connection.execute("INSERT INTO merchant (id, name) VALUES ('shop', 'Shop')")
        connection.execute(
            "INSERT INTO event (merchant_id, occurred_at, type, action, section)"
            " VALUES ('shop', '2017-01-01', 1, 'x', 'Products')"
        )
    migrations.down("base")
    migrations.up()
    with psycopg.connect(servers.url(None, empty)) as connection:
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (0,)


def test_the_code_and_the_migrations_describe_the_same_tables(
    owner_url: str, admin_url: str
) -> None:
    with psycopg.connect(admin_url) as connection:  # partitions are no difference
        connection.execute("SELECT ensure_event_partitions('{2017-01-01,2017-01-02}')")
    migrations = Migrations(owner_url)
    migrations.check()
    with psycopg.connect(owner_url) as connection:
        connection.execute("ALTER TABLE item DROP COLUMN suggested_score")
    with pytest.raises(MigrationError, match="suggested_score"):
        migrations.check()


def test_there_is_one_newest_revision_and_files_are_named_by_date_and_slug() -> None:
    script = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))
    assert script.get_heads() == [head()]
    for revision in script.walk_revisions():
        name = Path(revision.path).stem
        assert name.split("_", 1)[1] == revision.revision
        datetime.datetime.strptime(name.split("_", 1)[0], "%Y%m%d")  # noqa: DTZ007


async def test_readiness_can_read_the_revision(database: Database, servers: Any) -> None:
    async with database.system() as connection:
        assert await current(connection) == head()
    name = servers.create_database(migrated=False)
    bare = connect(servers.url(APP_ROLE, name), pool=1)
    try:
        async with bare.system() as connection:
            assert await current(connection) is None
    finally:
        await bare.close()
        servers.drop_database(name)


def test_two_processes_migrate_one_after_the_other(empty_url: str) -> None:
    command = [sys.executable, "-c", "from app.cli import main; main()", "migrate"]
    environment = {**os.environ, "VITRINE_DATABASE_OWNER_URL": empty_url}
    processes = [
        subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    lines = "".join(outputs).splitlines()
    applied = sorted(line.split()[1].rstrip(":") for line in lines if line.startswith("applied "))
    assert applied == sorted(_revisions())  # each once
    assert lines.count(f"the database is at {head()}") == 2


def test_who_waits_too_long_for_another_migration_gives_up(empty_url: str) -> None:
    with psycopg.connect(empty_url) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [0x76697472696E65])
        with pytest.raises(MigrationError, match="lock timeout"):
            Migrations(empty_url, wait_seconds=1).up()
    Migrations(empty_url).up()


def test_a_table_in_use_stops_the_migration_and_nothing_is_changed(owner_url: str) -> None:
    before = _objects(owner_url)
    with psycopg.connect(owner_url) as holder:
        holder.execute("SELECT set_config('vitrine.merchant', 'shop', true)")
        holder.execute("SELECT count(*) FROM merchant")
        with pytest.raises(MigrationError, match="lock timeout"):
            Migrations(owner_url, lock_seconds=1).down("base")
    assert _objects(owner_url) == before


def test_the_server_role_may_not_migrate(servers: Any, empty: str) -> None:
    with psycopg.connect(servers.url(None, empty)) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO vitrine_app")
    with pytest.raises(MigrationError, match="as the owner of the schema, not as vitrine_app"):
        Migrations(servers.url(APP_ROLE, empty)).up()


def test_an_unreachable_database_is_said_so() -> None:
    with pytest.raises(MigrationError, match="does not answer"):
        Migrations("postgresql://nobody@127.0.0.1:1/nothing").up()


def test_the_frozen_job_schema_is_that_of_the_installed_procrastinate() -> None:
    scripts = Path(procrastinate.schema.migrations_path).glob("*.sql")
    migration = (ROOT / "migrations/versions/20261124_jobs.py").read_text()
    newest = max(path.name for path in scripts)
    assert newest in migration, (
        "this procrastinate changes its schema: put the scripts that are new into a migration"
    )


def _days(first: datetime.date, count: int) -> list[datetime.date]:
    return [first + datetime.timedelta(days=day) for day in range(count)]


async def _ensure(database: Database, days: list[datetime.date]) -> int:
    statement = sa.select(
        sa.func.ensure_event_partitions(sa.cast(days, sa.ARRAY(sa.Date)), type_=sa.Integer)
    )
    async with database.system() as connection:
        return int((await connection.execute(statement)).scalar_one())


async def test_a_year_of_days_takes_its_events(database: Database) -> None:
    days = _days(datetime.date(2017, 1, 1), 365)
    assert await _ensure(database, days) == 365
    assert await _ensure(database, days) == 0
    async with database.merchant(MerchantId("shop")) as connection:
        inserted = await connection.execute(
            sa.text(
                "INSERT INTO event (merchant_id, occurred_at, type, action, section)"
                " SELECT 'shop', t, 1, 'x', 'Products' FROM generate_series("
                " '2017-01-01Z'::timestamptz, '2017-12-31 23:59:59Z', '1 hour') t"
            )
        )
        assert inserted.rowcount == 365 * 24
        used = await connection.scalar(sa.text("SELECT count(DISTINCT tableoid) FROM event"))
        assert used == 365


async def test_a_day_is_that_of_utc_whatever_the_session_says(database: Database) -> None:
    async with database.system() as connection:
        await connection.execute(sa.text("SET LOCAL timezone = 'Pacific/Auckland'"))
        await connection.execute(sa.text("SELECT ensure_event_partitions('{2017-06-01}')"))
    async with database.merchant(MerchantId("shop")) as connection:
        for moment in ("2017-06-01T00:00:00Z", "2017-06-01T23:59:59.999999Z"):
            await connection.execute(
                sa.text(
                    "INSERT INTO event (merchant_id, occurred_at, type, action, section)"
                    f" VALUES ('shop', '{moment}', 1, 'x', 'Products')"
                )
            )


async def test_many_make_the_same_days_at_once(database_url: str) -> None:
    databases = [connect(database_url, pool=1) for _ in range(6)]
    days = _days(datetime.date(2018, 1, 1), 40)
    try:
        # Each another stretch, all overlapping, half of them backwards.
        made = await asyncio.gather(
            *(
                _ensure(database, days[place * 4 : place * 4 + 20][:: 1 if place % 2 else -1])
                for place, database in enumerate(databases)
            )
        )
    finally:
        for database in databases:
            await database.close()
    assert sum(made) == 40


async def test_writers_go_on_while_a_day_is_made(database: Database, owner_url: str) -> None:
    """Partitions are attached, which does not lock the event log against inserts."""
    await _ensure(database, [datetime.date(2017, 1, 1)])
    insert = sa.text(
        "INSERT INTO event (merchant_id, occurred_at, type, action, section)"
        " VALUES ('shop', '2017-01-01T12:00Z', 1, 'x', 'Products')"
    )
    async with database.merchant(MerchantId("shop")) as writer:
        await writer.execute(insert)  # holds its locks until the block ends
        assert await _ensure(database, [datetime.date(2017, 1, 2)]) == 1
    async with database.system() as maker:
        await maker.execute(sa.text("SELECT ensure_event_partitions('{2017-01-03}')"))
        async with database.merchant(MerchantId("shop"), statement_timeout=5) as writer:
            await writer.execute(insert)


@pytest.mark.parametrize("days", ["{1999-12-31}", "{2999-01-01}", "{NULL}", "{infinity}"])
def test_a_senseless_day_is_refused(database_url: str, days: str) -> None:
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(errors.InvalidParameterValue, match="no events are kept for the day"),
    ):
        connection.execute("SELECT ensure_event_partitions(%s::date[])", [days])


def test_too_many_days_in_one_call_are_refused(database_url: str) -> None:
    days = _days(datetime.date(2001, 1, 1), 401)
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(errors.InvalidParameterValue, match="at most 400 days"),
    ):
        connection.execute("SELECT ensure_event_partitions(%s)", [days])
