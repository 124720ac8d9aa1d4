"""Transactions on PostgreSQL, each within one merchant's rows or within none.

Row-level security hides every row of a table with a `merchant_id` from a transaction that has not
named that merchant. It is the second wall: queries name the merchant as well.

Bulk: PostgreSQL refuses `COPY FROM` into a table with row-level security. So `copy` fills a
temporary table made by `stage`, in the same transaction, and an INSERT ... SELECT moves the rows
on. For less than some thousand rows, INSERT ... SELECT FROM unnest(...) is quicker: a temporary
table costs catalogue rows.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import asyncpg
import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId

_SCOPE: Final = sa.text("SELECT set_config('vitrine.merchant', :merchant, true)")
_SCOPE_AND_TIMEOUT: Final = sa.text(
    "SELECT set_config('vitrine.merchant', :merchant, true),"
    " set_config('statement_timeout', :timeout, true)"
)
_DRIVER_SCOPE: Final = "SELECT set_config('vitrine.merchant', $1, true)"
# After a failover, a connection may still lead to the old primary, which takes no writes now.
_READ_ONLY: Final = "25006"
# SQLSTATE classes and codes that pass by themselves; the same call may succeed a moment later.
_PASSING_CLASSES: Final = frozenset({"08", "40", "53", "57", "58"})
_PASSING_CODES: Final = frozenset({"55P03", _READ_ONLY})  # lock timeout
_KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 15,  # seconds
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 30_000,  # milliseconds
}


class Database:
    """Opens transactions. Shared by all stores of a process; holds no state of its own.

    Args:
        observe: is told of each transaction: seconds, the wait for a connection included, and
            whether PostgreSQL answered.

    Raises (every method, also for what the body of the `async with` raises):
        Unavailable: PostgreSQL is away, overloaded, timed out or gave up on a lock. Where the
            connection broke during the commit, whether it took place is not known.
    """

    def __init__(
        self, engine: AsyncEngine, observe: Callable[[float, bool], None] | None = None
    ) -> None:
        self._engine = engine
        self._observe = observe

    @asynccontextmanager
    async def merchant(
        self,
        merchant: MerchantId,
        *,
        statement_timeout: float | None = None,
        snapshot: bool = False,
    ) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees and writes the rows of one merchant; committed at the end of the
        block, rolled back where it raises.

        Args:
            statement_timeout: seconds for each statement, in place of the engine's; 0: none.
            snapshot: all statements see the same moment (REPEATABLE READ). For reading.
        """
        if not merchant:
            raise ValueError("a merchant's transaction needs a merchant")
        async with self._transaction(merchant, statement_timeout, snapshot) as connection:
            yield connection

    @asynccontextmanager
    async def system(
        self, *, statement_timeout: float | None = None
    ) -> AsyncIterator[AsyncConnection]:
        """A transaction of no merchant: it sees the table `merchant` whole, may call functions,
        and sees no row of any table that has a `merchant_id`."""
        async with self._transaction(MerchantId(""), statement_timeout) as connection:
            yield connection

    @asynccontextmanager
    async def driver(
        self, merchant: MerchantId, *, statement_timeout: float
    ) -> AsyncIterator[asyncpg.Connection]:
        """`merchant`, where nothing but asyncpg's own connection is used: half of what SQLAlchemy
        takes for a transaction. What is raised in it are asyncpg's errors."""
        if not merchant:
            raise ValueError("a merchant's transaction needs a merchant")
        with self._observed(), _translated():
            async with self._engine.connect() as connection:
                driver = await raw(connection)
                try:
                    await driver.execute(
                        f"BEGIN; SET LOCAL statement_timeout = {_milliseconds(statement_timeout)}"
                    )
                    await driver.fetch(_DRIVER_SCOPE, merchant)
                    yield driver
                    await driver.execute("COMMIT")
                except BaseException as error:
                    gone = isinstance(error, asyncpg.InternalClientError) or (  # it is just going
                        driver.is_closed() and isinstance(error, asyncpg.InterfaceError | OSError)
                    )
                    if not await _rolled_back(driver, error):
                        await connection.invalidate()  # the next one is opened anew
                    if gone:
                        raise _unavailable() from error
                    raise

    async def poll(self, query: str) -> list[asyncpg.Record]:
        """The rows of one statement of no merchant (see `system`), for what is asked again and
        again: asyncpg keeps it prepared, and without a transaction it is one round trip where
        SQLAlchemy's way takes four."""
        with self._observed(), _translated():
            async with self._engine.connect() as connection:
                try:
                    rows: list[asyncpg.Record] = await (await raw(connection)).fetch(query)
                except (OSError, asyncpg.InterfaceError) as error:
                    raise _unavailable() from error
                return rows

    async def ping(self) -> None:
        """Asks PostgreSQL for an answer."""
        async with self.system():
            pass

    async def close(self) -> None:
        await self._engine.dispose()

    def connections(self) -> tuple[int, int, int]:
        """Connections in use, idle ones, and how many there may be."""
        pool: Any = self._engine.pool
        return pool.checkedout(), pool.checkedin(), pool.size()

    @contextmanager
    def _observed(self) -> Iterator[None]:
        if self._observe is None:
            yield
            return
        began = time.perf_counter()
        answered = True
        try:
            yield
        except Unavailable:
            answered = False
            raise
        finally:
            self._observe(time.perf_counter() - began, answered)

    @asynccontextmanager
    async def _transaction(
        self, merchant: MerchantId, statement_timeout: float | None, snapshot: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        with self._observed(), _translated():
            async with self._engine.connect() as connection:
                if snapshot:
                    await connection.execution_options(isolation_level="REPEATABLE READ")
                try:
                    if statement_timeout is None:
                        await connection.execute(_SCOPE, {"merchant": merchant})
                    else:
                        await connection.execute(
                            _SCOPE_AND_TIMEOUT,
                            {"merchant": merchant, "timeout": _milliseconds(statement_timeout)},
                        )
                except OSError as error:
                    raise _unavailable() from error
                try:
                    yield connection
                    await connection.commit()
                except sa.exc.DBAPIError as error:
                    if getattr(error.orig, "sqlstate", None) == _READ_ONLY:
                        await connection.invalidate()  # the next one is opened anew
                    raise


def connect(
    url: str,
    *,
    pool: int = 10,
    statement_timeout: float = 30.0,
    pool_timeout: float = 3.0,
    connect_timeout: float = 5.0,
    application_name: str = "vitrine",
    observe: Callable[[float, bool], None] | None = None,
) -> Database:
    """A Database on `url`; connections are opened when needed.

    Args:
        url: postgresql://..., all that libpq understands there (sslmode, host=/socket/directory).
        pool: connections at most.
        statement_timeout: seconds a statement may take, 0: no bound.
        pool_timeout: seconds to wait for a free connection before Unavailable.
        connect_timeout: seconds to open one.
        observe: see Database.
    """
    return Database(
        engine(
            url,
            pool=pool,
            statement_timeout=statement_timeout,
            pool_timeout=pool_timeout,
            connect_timeout=connect_timeout,
            application_name=application_name,
        ),
        observe,
    )


def engine(
    url: str,
    *,
    pool: int,
    statement_timeout: float,
    pool_timeout: float,
    connect_timeout: float,
    application_name: str,
) -> AsyncEngine:
    """The engine below a Database. asyncpg reads the URL itself, so that everything libpq knows
    works in it; SQLAlchemy would pass `sslmode` on as an unknown argument."""
    dsn = libpq_url(url)

    async def open_connection() -> Any:
        try:
            connection = await asyncpg.connect(
                dsn,
                timeout=connect_timeout,
                server_settings={
                    "application_name": application_name,
                    "statement_timeout": _milliseconds(statement_timeout),
                    # A process that hangs within a transaction must not hold its locks for ever.
                    "idle_in_transaction_session_timeout": "300000",
                    "timezone": "UTC",
                },
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise _unavailable() from error
        _notice_silence(connection)
        return connection

    made = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=open_connection,
        pool_size=pool,
        max_overflow=0,
        pool_timeout=pool_timeout,
        pool_use_lifo=True,
        pool_recycle=1800,  # seconds: follow where the name leads to now
        json_serializer=_encode_json,
        json_deserializer=msgspec.json.decode,
    )

    @sa.event.listens_for(made.sync_engine, "checkout")
    def refuse_closed(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
        # asyncpg notices a closed socket without a round trip; the pool then opens a new one.
        if dbapi_connection.driver_connection.is_closed():
            raise sa.exc.DisconnectionError

    return made


def _notice_silence(connection: asyncpg.Connection) -> None:
    """Has the kernel give up on a peer that no longer answers, after half a minute instead of a
    quarter of an hour: statement_timeout is the peer's own clock. asyncpg has no option for it."""
    peer = connection._transport.get_extra_info("socket")  # noqa: SLF001
    if peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def libpq_url(url: str) -> str:
    """`url` without a SQLAlchemy driver name: postgresql+asyncpg:// becomes postgresql://."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("a database URL begins with postgresql://")
    return f"postgresql://{rest}"


async def raw(connection: AsyncConnection) -> asyncpg.Connection:
    """The asyncpg connection below `connection`, within the same transaction. A value for a jsonb
    column is JSON text (str) here."""
    return (await connection.get_raw_connection()).driver_connection


async def _rolled_back(driver: asyncpg.Connection, error: BaseException) -> bool:
    """Whether the connection can be used again. One on which somebody gave up waiting cannot."""
    if (
        not isinstance(error, Exception)
        or driver.is_closed()
        or getattr(error, "sqlstate", None) == _READ_ONLY
    ):
        return False
    try:
        await driver.execute("ROLLBACK")
    except Exception:  # noqa: BLE001  # of any kind, where PostgreSQL dies in this very moment
        return False
    return True


async def stage(connection: AsyncConnection, name: str, columns: Iterable[sa.Column[Any]]) -> None:
    """Makes the temporary table `name` with the columns' names and types, no constraint; it is
    gone at the end of the transaction."""
    quote = connection.dialect.identifier_preparer.quote
    body = ", ".join(
        f"{quote(column.name)} {column.type.compile(dialect=connection.dialect)}"
        for column in columns
    )
    await connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE {quote(name)} ({body}) ON COMMIT DROP"
    )


async def copy(
    connection: AsyncConnection, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY of rows into a temporary table that `stage` made."""
    driver = await raw(connection)
    await driver.copy_records_to_table(
        name, schema_name="pg_temp", columns=list(columns), records=rows, timeout=None
    )


def is_passing(error: BaseException) -> bool:
    """Whether an error is of the store's state rather than of the statement."""
    if isinstance(error, sa.exc.TimeoutError | ConnectionError | TimeoutError):
        return True  # no free connection; socket lost; asyncpg's own deadline
    if isinstance(error, sa.exc.DBAPIError):
        if error.connection_invalidated:
            return True
        if error.orig is not None and isinstance(
            error.orig.__cause__, asyncpg.InvalidCachedStatementError
        ):
            return True  # a migration changed the tables under a prepared statement
        return error.orig is not None and _passing_code(getattr(error.orig, "sqlstate", None))
    if isinstance(error, asyncpg.PostgresError):
        return _passing_code(error.sqlstate)
    return False


def _passing_code(code: str | None) -> bool:
    return code is not None and (code[:2] in _PASSING_CLASSES or code in _PASSING_CODES)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_passing(error):
            raise _unavailable() from error
        raise


def _unavailable() -> Unavailable:
    return Unavailable("the database does not answer now: try again")


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _encode_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
