"""The second wall: what vitrine_app cannot see or write, whatever it asks. The tables are found in
PostgreSQL's catalogue, so that a new one cannot be forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors, sql

from app.domain.merchant import MerchantId
from app.postgres.database import connect

MINE, THEIRS = "mine", "theirs"

NO_MERCHANT = {  # tables that belong to no merchant, and why that is right
    "merchant",  # is one; has policies of its own, tested below
    "alembic_version",
    "procrastinate_events",  # jobs are the operator's
    "procrastinate_jobs",
    "procrastinate_periodic_defers",
    "procrastinate_workers",
}
APPENDED = {"audit", "rule_set_version"}

VALUES_BY_TYPE: dict[str, Any] = {
    "text": "x",
    "int2": 1,
    "int4": 1,
    "int8": 1,
    "float4": 1.0,
    "float8": 1.0,
    "bool": True,
    "jsonb": "{}",
    "_text": [],
    "timestamptz": "2017-01-01T12:00:00Z",
}
VALUES_BY_COLUMN = {  # where a CHECK constraint wants something else
    ("token", "role"): "reader",
    ("strategy_configuration", "mode"): "inline",
    ("model_version", "state"): "fitted",
    ("task", "status"): "QUEUED",
}


def _tables(url: str) -> list[str]:
    """Every table with a merchant_id, partitions apart."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("""
            SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
              AND NOT c.relispartition AND a.attname = 'merchant_id' AND NOT a.attisdropped
            ORDER BY 1
        """)
        return [row[0] for row in rows]


def _row(connection: psycopg.Connection, table: str, merchant: str) -> dict[str, Any]:
    """A row that the table takes: a value for each column that must have one."""
    columns = connection.execute(
        """
        SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
          AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
        """,
        [table],
    )
    row = {}
    for name, kind in columns:
        if (table, name) in VALUES_BY_COLUMN:
            row[name] = VALUES_BY_COLUMN[table, name]
        elif kind == "bytea":
            row[name] = merchant.encode()
        elif name in ("id", "key") and kind == "text":
            row[name] = merchant  # unique over all merchants in some tables
        else:
            row[name] = VALUES_BY_TYPE[kind]
    return row | {"merchant_id": merchant}


def _insert(connection: psycopg.Connection, table: str, row: dict[str, Any]) -> None:
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(map(sql.Placeholder, row)),
        ),
        row,
    )


def _count(connection: psycopg.Connection, table: str, merchant: str) -> int:
    query = sql.SQL("SELECT count(*) FROM {} WHERE merchant_id = %s")
    found = connection.execute(query.format(sql.Identifier(table)), [merchant]).fetchone()
    assert found is not None
    return int(found[0])


def _scope(connection: psycopg.Connection, merchant: str) -> None:
    connection.execute("SELECT set_config('vitrine.merchant', %s, true)", [merchant])


@pytest.fixture(scope="module")
def admin_of_module(servers: Any, _module_database_name: str) -> str:
    return str(servers.url(None, _module_database_name))


@pytest.fixture(scope="module")
def tables(admin_of_module: str) -> list[str]:
    """All tables with a merchant_id, each with a row of MINE and one of THEIRS."""
    names = _tables(admin_of_module)
    with psycopg.connect(admin_of_module) as connection:
        connection.execute("SELECT ensure_event_partitions('{2017-01-01}')")
        connection.execute("SET session_replication_role = replica")  # no foreign keys, just now
        for merchant in (MINE, THEIRS):
            connection.execute("INSERT INTO merchant (id, name) VALUES (%s, 'M')", [merchant])
            for table in names:
                _insert(connection, table, _row(connection, table, merchant))
    assert {"item", "event", "event_id", "token", "audit"} <= set(names)
    return names


@pytest.fixture
def app(module_database_url: str) -> Iterator[psycopg.Connection]:
    """A connection as the server has it. What a test does is rolled back."""
    with psycopg.connect(module_database_url) as connection:
        yield connection
        connection.rollback()


def test_every_table_is_isolated_or_named_here(admin_of_module: str, tables: list[str]) -> None:
    with psycopg.connect(admin_of_module) as connection:
        rows = connection.execute("""
            SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity,
                   coalesce(string_agg(pg_get_expr(p.polqual, c.oid)
                                       || pg_get_expr(p.polwithcheck, c.oid), ''), '')
            FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v')
              AND NOT c.relispartition
            GROUP BY c.oid
        """).fetchall()
    isolated = {name: (forced, policy) for name, forced, policy in rows}
    assert isolated.keys() - NO_MERCHANT == set(tables)
    for table in tables:
        forced, policy = isolated[table]
        assert forced, f"{table}: row-level security is not enabled and forced"
        # Once to read, once to write; nothing wider.
        assert policy.count("merchant_id = ( SELECT NULLIF(current_setting(") == 2, table
        assert " OR " not in policy, table


def test_the_servers_role_is_an_ordinary_one(app: psycopg.Connection) -> None:
    row = app.execute("""
        SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,
               pg_has_role('vitrine_app', 'vitrine_owner', 'MEMBER')
        FROM pg_roles WHERE rolname = current_user AND current_user = 'vitrine_app'
    """).fetchone()
    assert row == (False,) * 6
    owned = app.execute("""
        SELECT count(*) FROM pg_class WHERE relowner = 'vitrine_app'::regrole
    """).fetchone()
    assert owned == (0,)


def test_without_a_merchant_no_row_is_seen(app: psycopg.Connection, tables: list[str]) -> None:
    for table in tables:
        for merchant in (MINE, THEIRS):
            assert _count(app, table, merchant) == 0, table
    _scope(app, "")
    for table in tables:
        assert _count(app, table, THEIRS) == 0, table


def test_a_merchant_sees_its_own_rows_only(app: psycopg.Connection, tables: list[str]) -> None:
    _scope(app, MINE)
    for table in tables:
        assert (_count(app, table, MINE), _count(app, table, THEIRS)) == (1, 0), table


def test_the_owner_is_not_above_it(module_owner_url: str, tables: list[str]) -> None:
    with psycopg.connect(module_owner_url) as owner:
        _scope(owner, MINE)
        for table in tables:
            assert (_count(owner, table, MINE), _count(owner, table, THEIRS)) == (1, 0), table


def test_a_merchant_cannot_write_anothers_rows(
    app: psycopg.Connection, admin_of_module: str, tables: list[str]
) -> None:
    denied = errors.InsufficientPrivilege  # "permission denied" and "violates row-level security"
    for table in tables:
        name = sql.Identifier(table)
        _scope(app, MINE)
        row = _row(app, table, THEIRS)
        with pytest.raises(denied):
            _insert(app, table, row)
        app.rollback()

        for statement in (
            sql.SQL("UPDATE {} SET merchant_id = merchant_id WHERE merchant_id = 'theirs'"),
            sql.SQL("UPDATE {} SET merchant_id = 'mine' WHERE merchant_id = 'theirs'"),
            sql.SQL("DELETE FROM {} WHERE merchant_id = 'theirs'"),
        ):
            _scope(app, MINE)
            with contextlib.suppress(denied):  # it may not do that to this table at all
                assert app.execute(statement.format(name)).rowcount == 0, table
            app.rollback()

        _scope(app, MINE)
        with pytest.raises(denied):  # nor give away its own
            app.execute(
                sql.SQL("UPDATE {} SET merchant_id = 'theirs' WHERE merchant_id = 'mine'").format(
                    name
                )
            )
        app.rollback()
        with pytest.raises(denied):
            app.execute(sql.SQL("TRUNCATE {} CASCADE").format(name))
        app.rollback()
    with psycopg.connect(admin_of_module) as admin:
        for table in tables:
            assert (_count(admin, table, MINE), _count(admin, table, THEIRS)) == (1, 1), table


def test_an_upsert_onto_anothers_row_is_refused(
    app: psycopg.Connection, admin_of_module: str, tables: list[str]
) -> None:
    """ON CONFLICT meets rows that the policy hides."""
    _scope(app, MINE)
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute("""
            INSERT INTO storefront_key (key, merchant_id, label) VALUES ('theirs', 'mine', 'taken')
            ON CONFLICT (key) DO UPDATE SET merchant_id = 'mine', label = 'taken'
        """)


def test_merchants_are_read_by_the_poller_and_written_by_themselves(
    app: psycopg.Connection, tables: list[str]
) -> None:
    everyone = app.execute("SELECT id FROM merchant ORDER BY id").fetchall()
    assert everyone == [(MINE,), (THEIRS,)]
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute("INSERT INTO merchant (id, name) VALUES ('new', 'New')")
    app.rollback()
    assert app.execute("UPDATE merchant SET name = 'x'").rowcount == 0
    assert app.execute("DELETE FROM merchant").rowcount == 0

    _scope(app, MINE)
    assert app.execute("SELECT id FROM merchant").fetchall() == [(MINE,)]
    assert app.execute("UPDATE merchant SET name = 'x'").rowcount == 1
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute("UPDATE merchant SET id = 'other'")
    app.rollback()


def test_what_is_only_added_to_cannot_be_changed(
    app: psycopg.Connection, tables: list[str]
) -> None:
    assert set(tables) >= APPENDED
    for table in sorted(APPENDED):
        for statement in ("UPDATE {} SET actor = 'nobody'", "DELETE FROM {}"):
            _scope(app, MINE)
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
                app.execute(sql.SQL(statement).format(sql.Identifier(table)))  # type: ignore[arg-type]
            app.rollback()


def test_partitions_are_reached_through_the_event_log_only(
    app: psycopg.Connection, module_owner_url: str, tables: list[str]
) -> None:
    for statement in (
        "SELECT * FROM event_20170101",
        "DELETE FROM event_20170101",
        "INSERT INTO event_20170101 SELECT * FROM event",
    ):
        _scope(app, MINE)
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            app.execute(statement)
        app.rollback()
    with psycopg.connect(module_owner_url) as owner:  # nor by the owner's oversight
        _scope(owner, MINE)
        assert owner.execute("SELECT count(*) FROM event_20170101").fetchone() == (0,)
        assert owner.execute("SELECT count(*) FROM event").fetchone() == (1,)


@pytest.mark.parametrize(
    "statement",
    [
        "SET row_security = off; SELECT * FROM item",
        "SET ROLE vitrine_owner",
        "SET SESSION AUTHORIZATION vitrine_owner",
        "ALTER TABLE item DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE item NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY merchant_scope ON item",
        "CREATE POLICY mine ON item USING (true)",
        "ALTER ROLE vitrine_app BYPASSRLS",
        "GRANT SELECT ON event_20170101 TO vitrine_app",
        "CREATE TABLE public.mine (id int)",
        "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "COPY item FROM '/etc/passwd'",
        "COPY item TO '/tmp/item'",
        "UPDATE alembic_version SET version_num = 'x'",
        "ALTER FUNCTION ensure_event_partitions(date[]) RESET ALL",
    ],
)
def test_the_wall_cannot_be_taken_down(
    app: psycopg.Connection, tables: list[str], statement: str
) -> None:
    _scope(app, MINE)
    with pytest.raises((errors.InsufficientPrivilege, errors.FeatureNotSupported)):
        app.execute(statement)  # type: ignore[arg-type]


def test_a_function_in_a_condition_is_not_shown_hidden_rows(
    app: psycopg.Connection, tables: list[str]
) -> None:
    """A cheap function would be called first, if PostgreSQL did not hold the policy before it."""
    app.execute("""
        CREATE FUNCTION pg_temp.tell(merchant text) RETURNS boolean LANGUAGE plpgsql
        COST 0.0000001 AS $$ BEGIN
            IF merchant = 'theirs' THEN RAISE EXCEPTION 'seen: %', merchant; END IF;
            RETURN true;
        END $$
    """)
    _scope(app, MINE)
    for table in tables:
        query = sql.SQL("SELECT count(*) FROM {} WHERE pg_temp.tell(merchant_id)")
        assert app.execute(query.format(sql.Identifier(table))).fetchone() == (1,), table


def test_functions_with_the_owners_rights_have_a_fixed_path(admin_of_module: str) -> None:
    with psycopg.connect(admin_of_module) as connection:
        rows = connection.execute("""
            SELECT p.oid::regprocedure::text, p.proconfig,
                   has_function_privilege('public', p.oid, 'EXECUTE')
            FROM pg_proc p
            WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace
        """).fetchall()
    assert sorted(row[0] for row in rows) == [
        "drop_event_partition(date)",
        "ensure_event_partitions(date[])",
    ]
    for name, settings, public in rows:
        assert "search_path=pg_catalog, pg_temp" in settings, name
        assert not public, name


def test_a_temporary_table_does_not_take_the_event_logs_place(
    app: psycopg.Connection, tables: list[str]
) -> None:
    app.execute("CREATE TEMPORARY TABLE event (occurred_at timestamptz)")
    app.execute("SELECT ensure_event_partitions('{2017-01-02}')")
    found = app.execute(
        "SELECT inhparent::regclass::text FROM pg_inherits"
        " WHERE inhrelid = 'public.event_20170102'::regclass"
    ).fetchone()
    assert found == ("public.event",)


async def test_naming_a_merchant_by_hand_does_not_outlive_the_transaction(
    module_database_url: str, tables: list[str]
) -> None:
    """SQL that runs as the server may name any merchant: the wall is against a forgotten
    condition, not against foreign SQL. But nothing named by hand reaches the next transaction."""
    database = connect(module_database_url, pool=1)
    query = sa.text("SELECT merchant_id FROM item")
    try:
        async with database.merchant(MerchantId(MINE)) as connection:
            await connection.execute(sa.text("SET vitrine.merchant = 'theirs'"))
            assert (await connection.execute(query)).scalars().all() == [THEIRS]
        async with database.merchant(MerchantId(MINE)) as connection:  # the same connection
            assert (await connection.execute(query)).scalars().all() == [MINE]
        async with database.system() as connection:
            assert (await connection.execute(query)).scalars().all() == []
    finally:
        await database.close()
