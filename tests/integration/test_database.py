"""Transactions, and what happens when PostgreSQL does not do as it should."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa

from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId
from app.postgres import tables
from app.postgres.database import Database, connect, copy, libpq_url, raw, stage

SHOP = MerchantId("shop")


@pytest.fixture
async def shop(database: Database) -> MerchantId:
    async with database.merchant(SHOP) as connection:
        await connection.execute(tables.merchant.insert().values(id=SHOP, name="Shop"))
    return SHOP


async def _sections(database: Database) -> list[str]:
    async with database.merchant(SHOP) as connection:
        rows = await connection.execute(sa.select(tables.section.c.name).order_by("name"))
        return list(rows.scalars())


def _section(name: str) -> sa.Insert:
    return tables.section.insert().values(merchant_id=SHOP, name=name)


async def test_a_block_is_committed_whole_or_not_at_all(
    database: Database, shop: MerchantId
) -> None:
    async with database.merchant(shop) as connection:
        await connection.execute(_section("kept"))

    async def fail() -> None:
        async with database.merchant(shop) as connection:
            await connection.execute(_section("lost"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await _sections(database) == ["kept"]


async def test_a_transaction_needs_a_merchant_or_says_that_it_has_none(database: Database) -> None:
    with pytest.raises(ValueError, match="needs a merchant"):
        async with database.merchant(MerchantId("")):
            pass


async def test_rows_are_staged_by_copy_and_moved_on(database: Database, shop: MerchantId) -> None:
    item = tables.item.c
    columns = [item.merchant_id, item.section, item.id, item.name, item.data, item.version]
    names = [column.name for column in columns]
    async with database.merchant(shop) as connection:
        await stage(connection, "staged item", columns)
        await copy(
            connection,
            "staged item",
            names,
            ((shop, "Products", str(n), f"Item {n}", f'{{"n": {n}}}', 1) for n in range(5000)),
        )
        moved = await connection.execute(
            tables.item.insert().from_select(
                names,
                sa.select(*map(sa.literal_column, names)).select_from(sa.table("staged item")),
            )
        )
        assert moved.rowcount == 5000
    async with database.merchant(shop) as connection:
        data = await connection.scalar(sa.select(item.data).where(item.id == "4999"))
        assert data == {"n": 4999}
        assert await connection.scalar(sa.text("SELECT to_regclass('\"staged item\"')")) is None


async def test_copy_into_a_table_itself_is_refused(database: Database, shop: MerchantId) -> None:
    """Why `stage` is there: should PostgreSQL learn it one day, this tells."""
    async with database.merchant(shop) as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        with pytest.raises(Exception, match="COPY FROM not supported with row-level security"):
            await driver.copy_records_to_table(
                "section", columns=["merchant_id", "name"], records=[(shop, "x")]
            )
        await connection.rollback()


async def test_a_slow_statement_is_unavailable_and_leaves_the_connection_usable(
    database_url: str,
) -> None:
    database = connect(database_url, pool=1, statement_timeout=0.05)
    try:
        with pytest.raises(Unavailable):
            async with database.system() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(30)"))
        async with database.system(statement_timeout=0) as connection:  # none, for this one
            await connection.execute(sa.text("SELECT pg_sleep(0.1)"))
        async with database.system() as connection:
            assert await connection.scalar(sa.text("SHOW statement_timeout")) == "50ms"
    finally:
        await database.close()


async def test_a_full_pool_is_unavailable(database_url: str) -> None:
    database = connect(database_url, pool=1, pool_timeout=0.05)
    try:
        async with database.system():
            with pytest.raises(Unavailable):
                await database.ping()
        await database.ping()
    finally:
        await database.close()


async def test_a_lost_connection_is_unavailable_and_replaced(
    database: Database, admin_url: str
) -> None:

    async def lose() -> None:
        async with database.system() as connection:
            pid = await connection.scalar(sa.text("SELECT pg_backend_pid()"))
            with psycopg.connect(admin_url) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            await connection.execute(sa.text("SELECT 1"))

    with pytest.raises(Unavailable) as caught:
        await lose()
    assert "pid" not in caught.value.message
    await database.ping()


async def test_what_is_polled_is_of_no_merchant_in_no_transaction(
    database: Database, shop: MerchantId, admin_url: str
) -> None:
    async with database.merchant(shop) as connection:  # the pool's connection has had one
        await connection.execute(_section("a"))
    assert [row["id"] for row in await database.poll("SELECT id FROM merchant")].count(shop) == 1
    assert await database.poll("SELECT * FROM section") == []
    (first,), (second,) = [await database.poll("SELECT pg_backend_pid(), now()") for _ in range(2)]
    assert first[0] == second[0]
    assert first[1] < second[1], "a transaction's time stands still"
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.poll("SELECT 1/0")
    with psycopg.connect(admin_url) as admin:
        pid = (await database.poll("SELECT pg_backend_pid()"))[0][0]
        polling = asyncio.create_task(database.poll("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.1)
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        with pytest.raises(Unavailable):
            await polling
    assert [tuple(row) for row in await database.poll("SELECT 1")] == [(1,)]


async def test_connections_that_die_while_idle_are_not_handed_out(
    database: Database, admin_url: str
) -> None:
    """After a restart of PostgreSQL the first request of each connection must not fail."""

    async def pid() -> int:
        async with database.system() as connection:
            return int((await connection.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one())

    before = await pid()
    with psycopg.connect(admin_url) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [before])
    for _ in range(20):  # until the loop has read the end of the socket
        await asyncio.sleep(0.01)
    assert await pid() != before


async def test_a_connection_to_a_demoted_primary_is_given_up(
    database_url: str, shop: MerchantId
) -> None:
    database = connect(database_url, pool=1)
    pids = []

    async def write(*, demoted: bool) -> None:
        async with database.merchant(shop) as connection:
            pids.append(await connection.scalar(sa.text("SELECT pg_backend_pid()")))
            if demoted:
                await connection.execute(sa.text("SET TRANSACTION READ ONLY"))
            await connection.execute(_section("a"))

    try:
        with pytest.raises(Unavailable):
            await write(demoted=True)
        await write(demoted=False)
    finally:
        await database.close()
    assert pids[0] != pids[1]


async def test_a_migration_under_a_running_server_passes(
    database_url: str, owner_url: str, shop: MerchantId
) -> None:
    database = connect(database_url, pool=1)

    async def read() -> int:
        async with database.system() as connection:
            return len((await connection.execute(sa.text("SELECT * FROM merchant"))).one())

    try:
        columns = await read()
        with psycopg.connect(owner_url) as owner:
            owner.execute("ALTER TABLE merchant ADD COLUMN more text")
        with pytest.raises(Unavailable):
            await read()
        assert await read() == columns + 1
    finally:
        await database.close()


async def test_a_network_connection_notices_that_its_peer_is_gone(database_url: str) -> None:
    """Over TCP, by way of a relay to the socket that the tests' PostgreSQL may listen on."""
    parts = urlsplit(database_url)
    directory = parse_qs(parts.query).get("host", [""])[0]
    if not directory.startswith("/"):
        pytest.skip("the tests' PostgreSQL is not on a Unix socket")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_unix_connection(f"{directory}/.s.PGSQL.5432")
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    database = connect(
        f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}?sslmode=disable", pool=1
    )
    try:
        async with database.system() as connection:
            driver = await raw(connection)
            peer = driver._transport.get_extra_info("socket")
            assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
    finally:
        await database.close()
        server.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://nobody@127.0.0.1:1/nothing",
        "postgresql://nobody@/nothing?host=/nowhere",
        "postgresql://nobody@name.invalid/nothing",
    ],
)
async def test_an_absent_server_is_unavailable(url: str) -> None:
    database = connect(url, connect_timeout=5)
    with pytest.raises(Unavailable) as caught:
        await database.ping()
    assert "nobody" not in caught.value.message
    await database.close()


async def test_a_deadlock_is_unavailable_for_one_of_the_two(
    database: Database, shop: MerchantId
) -> None:
    async with database.merchant(shop) as connection:
        await connection.execute(_section("a"))
        await connection.execute(_section("b"))
    met = asyncio.Barrier(2)

    async def touch(first: str, second: str) -> bool:
        section = tables.section
        try:
            async with database.merchant(shop) as connection:
                await connection.execute(section.update().where(section.c.name == first).values(
                    catalogue_version=1))  # fmt: skip
                await met.wait()
                await connection.execute(section.update().where(section.c.name == second).values(
                    catalogue_version=1))  # fmt: skip
        except Unavailable:
            return False
        return True

    assert sorted(await asyncio.gather(touch("a", "b"), touch("b", "a"))) == [False, True]


async def test_a_wrong_statement_is_a_defect_and_not_unavailable(
    database: Database, shop: MerchantId
) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="division by zero"):
        async with database.system() as connection:
            await connection.execute(sa.text("SELECT 1/0"))
    async with database.merchant(shop) as connection:
        await connection.execute(_section("a"))
    with pytest.raises(sa.exc.IntegrityError):
        async with database.merchant(shop) as connection:
            await connection.execute(_section("a"))
    with pytest.raises(FileNotFoundError):  # of the caller's own work within the block
        async with database.system():
            raise FileNotFoundError


def test_the_drivers_name_in_a_url_is_understood() -> None:
    assert libpq_url("postgresql+asyncpg://u@h/d?sslmode=require") == (
        "postgresql://u@h/d?sslmode=require"
    )
    with pytest.raises(ValueError, match="postgresql://"):
        libpq_url("mysql://u@h/d")
