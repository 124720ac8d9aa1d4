"""What all tests share: a real PostgreSQL and a real Redis, migrated, quick and private.

| fixture               | scope    | what |
|-----------------------|----------|------|
| `servers`             | session  | `Servers`: both of this worker; `create_database()` |
| `database_url`        | function | URL of a fresh migrated database, as vitrine_app |
| `owner_url`           | function | the same database, as its owner |
| `admin_url`           | function | the same database, as a superuser (sees through row security) |
| `database`            | function | `app.postgres.database.Database` on `database_url` |
| `redis_url`           | function | URL of an empty Redis |
| `merchant`            | function | `TestMerchant` in `database`: `id`, `key`, `secrets[Role]` |
| `module_database_url` | module   | as `database_url`, one database for all tests of the module |
| `module_owner_url`    | module   | as `owner_url`, of that database |
| `module_redis_url`    | module   | emptied at the module's begin; not beside `redis_url` |
| `create_merchant`     | session  | `await create_merchant(database_url, "id") -> TestMerchant` |

By default the servers are embedded ones below .vitrine/, without fsync, one pair a pytest-xdist
worker, kept initialised between runs. With VITRINE_TEST_DATABASE_URL (a role that may create
databases and roles) and VITRINE_TEST_REDIS_URL real ones are used; Redis' databases 0, 1, ... are
then EMPTIED, one a worker.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
from psycopg import sql

from app.domain.merchant import MerchantId, Role
from app.embedded import APP_ROLE, OWNER_ROLE, EmbeddedError, EmbeddedPostgres, EmbeddedRedis
from app.embedded.process import OwnerLock
from app.postgres.database import Database, connect
from app.postgres.merchants import Merchants
from app.postgres.migration import Migrations

ROOT = Path(__file__).resolve().parents[1]
_PREFIX = "vitrine_test"
_PASSWORD = "vitrine-test"  # of the roles on a real server; embedded ones have none


@dataclass(frozen=True)
class TestMerchant:
    """A merchant with one storefront key and one token a role."""

    __test__ = False

    id: MerchantId
    key: str
    secrets: dict[Role, str]

    @property
    def token(self) -> str:
        """The administrator's."""
        return self.secrets[Role.ADMINISTRATOR]


class Servers:
    """This worker's PostgreSQL and Redis."""

    def __init__(self, admin_url: str, redis_url: str, worker: str, *, clean: bool) -> None:
        self._admin_url = admin_url
        self.redis_url = redis_url
        self._names = (f"{_PREFIX}_{worker}_{os.getpid()}_{n}" for n in itertools.count())
        self._template = f"{_PREFIX}_{worker}_template_{_schema_digest()}"
        self._prepare(worker, clean)

    def url(self, role: str | None, database: str) -> str:
        """None: as the superuser."""
        parts = urlsplit(self._admin_url)
        location = parts.netloc
        if role is not None:
            host = location.rpartition("@")[2]
            location = f"{role}@{host}" if not host else f"{role}:{_PASSWORD}@{host}"
        return urlunsplit(parts._replace(netloc=location, path=f"/{database}"))

    def create_database(self, *, migrated: bool = True) -> str:
        """The name of a new database, owned by vitrine_owner."""
        name = next(self._names)
        self._admin(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(name),
                sql.Identifier(self._template if migrated else "template0"),
                sql.Identifier(OWNER_ROLE),
            )
        )
        return name

    def drop_database(self, name: str) -> None:
        self._admin(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def flush_redis(self) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushdb()

    def _prepare(self, worker: str, clean: bool) -> None:
        """Roles, and a migrated template database; one process at a time, for a real server may
        serve several runs at once."""
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(hashtext('vitrine.tests'))")
            known = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
            for role in (OWNER_ROLE, APP_ROLE):
                if role not in known:
                    statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                    connection.execute(statement.format(sql.Identifier(role), _PASSWORD))
            rows = connection.execute(
                "SELECT datname FROM pg_database WHERE starts_with(datname, %s)",
                [f"{_PREFIX}_{worker}_"],
            )
            names = {row[0] for row in rows}
            if clean:  # nobody else is here: what is left is a killed run's
                for name in names - {self._template}:
                    self.drop_database(name)
            if self._template not in names:
                self._make_template()

    def _make_template(self) -> None:
        made = f"{self._template}_unfinished"
        self.drop_database(made)
        self._admin(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(made), sql.Identifier(OWNER_ROLE)
            )
        )
        Migrations(self.url(OWNER_ROLE, made)).up()
        self._admin(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                sql.Identifier(made), sql.Identifier(self._template)
            )
        )

    def _admin(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(statement)


def _schema_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted((ROOT / "migrations").rglob("*")):
        if path.suffix in (".py", ".sql"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _home() -> Path:
    """Where embedded test servers live: another for each account, as they own their files."""
    name = f"test-{os.geteuid()}"
    home = ROOT / ".vitrine" / name
    try:
        home.mkdir(parents=True, exist_ok=True)
    except PermissionError:  # the checkout belongs to somebody else
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vitrine" / name
        home.mkdir(parents=True, exist_ok=True)
    return home


def _start(stack: ExitStack, home: Path) -> tuple[str, str]:
    """Starts a pair of servers in a free slot below `home`; their superuser's and Redis' URL."""
    for number in itertools.count():
        lock = OwnerLock(home / f"slot-{number}.lock")
        if lock.acquire():
            break
    stack.callback(lock.release)
    slot = home / f"slot-{number}"
    postgres = EmbeddedPostgres(slot, durable=False)
    try:
        postgres.start()
    except EmbeddedError:
        # Without fsync, a crash of the machine may have broken it: begin anew, once.
        shutil.rmtree(slot)
        postgres = EmbeddedPostgres(slot, durable=False)
        postgres.start()
    stack.callback(postgres.stop)
    server = EmbeddedRedis(slot, durable=False)
    server.start()
    stack.callback(server.stop)
    return postgres.url("postgres", "postgres"), server.url


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    database_url = os.environ.get("VITRINE_TEST_DATABASE_URL")
    redis_url = os.environ.get("VITRINE_TEST_REDIS_URL")
    real_redis = redis_url is not None
    clean = database_url is None
    with ExitStack() as stack:
        if database_url is None or redis_url is None:
            embedded = _start(stack, _home())
            database_url = database_url or embedded[0]
            redis_url = redis_url or embedded[1]
        if real_redis:
            redis_url = f"{redis_url.rstrip('/')}/{worker.removeprefix('gw')}"
        yield Servers(database_url, redis_url, worker, clean=clean)


@pytest.fixture
def _database_name(servers: Servers) -> Iterator[str]:
    name = servers.create_database()
    yield name
    servers.drop_database(name)


@pytest.fixture
def database_url(servers: Servers, _database_name: str) -> str:
    return servers.url(APP_ROLE, _database_name)


@pytest.fixture
def owner_url(servers: Servers, _database_name: str) -> str:
    return servers.url(OWNER_ROLE, _database_name)


@pytest.fixture
def admin_url(servers: Servers, _database_name: str) -> str:
    return servers.url(None, _database_name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = connect(database_url, pool=5)
    yield made
    await made.close()


@pytest.fixture
def redis_url(servers: Servers) -> str:
    servers.flush_redis()
    return servers.redis_url


@pytest.fixture(scope="module")
def _module_database_name(servers: Servers) -> Iterator[str]:
    name = servers.create_database()
    yield name
    servers.drop_database(name)


@pytest.fixture(scope="module")
def module_database_url(servers: Servers, _module_database_name: str) -> str:
    return servers.url(APP_ROLE, _module_database_name)


@pytest.fixture(scope="module")
def module_owner_url(servers: Servers, _module_database_name: str) -> str:
    return servers.url(OWNER_ROLE, _module_database_name)


@pytest.fixture(scope="module")
def module_redis_url(servers: Servers) -> str:
    servers.flush_redis()
    return servers.redis_url


async def _create_merchant(database_url: str, merchant: str = "shop") -> TestMerchant:
    database = connect(database_url, pool=1)
    try:
        store = Merchants(database)
        made = await store.create(merchant, merchant.title(), actor="test")
        key = await store.create_key(made.id, actor="test")
        secrets = {
            role: (await store.create_token(made.id, role, actor="test")).secret for role in Role
        }
        return TestMerchant(id=made.id, key=key.key, secrets=secrets)
    finally:
        await database.close()


@pytest.fixture(scope="session")
def create_merchant() -> Callable[..., Coroutine[Any, Any, TestMerchant]]:
    return _create_merchant


@pytest.fixture
async def merchant(database_url: str) -> TestMerchant:
    return await _create_merchant(database_url)
