"""`vitrine doctor`: looks at everything that Vitrine stands on, and says what to do."""

from __future__ import annotations

import asyncio
import enum
import json
import os
import platform
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import click
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.cli.usable import folders, unusable
from app.domain.errors import Unavailable
from app.embedded import EmbeddedError, StoreUrls, open_stores
from app.plugins.artefact_files import ArtefactError
from app.plugins.artefacts import ArtefactStore
from app.plugins.discovery import discover
from app.postgres.configuration import ConfigurationReader
from app.postgres.database import Database, connect
from app.postgres.migration import current, head
from app.redis.connection import RedisConnection
from app.settings import Settings, SettingsError, from_environment
from vitrine_sdk import kernel

MINIMUM_POSTGRES: Final = 140000  # server_version_num
MINIMUM_REDIS: Final = (6, 2)
SKEW_WARNING, SKEW_FAILURE = 0.5, 5.0  # seconds
FREE_WARNING, FREE_FAILURE = 5 << 30, 1 << 30  # bytes


class Verdict(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    verdict: Verdict
    detail: str  # what was found; never a secret
    mend: str = ""  # what to do about it


def ok(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.OK, detail)


def warning(check: str, detail: str, mend: str) -> Finding:
    return Finding(check, Verdict.WARNING, detail, mend)


def failure(check: str, detail: str, mend: str) -> Finding:
    return Finding(check, Verdict.FAILURE, detail, mend)


@click.command(epilog="Example: vitrine doctor --json")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(as_json: bool) -> None:
    """Check configuration, versions, stores, migrations, clocks, disk and artefacts.

    Changes nothing; embedded servers that are not running are started for as long as it takes.
    Ends with 1 where something fails that Vitrine needs, else with 0.
    """
    worst = Verdict.OK
    for finding in examine():
        if finding.verdict is Verdict.FAILURE or worst is Verdict.OK:
            worst = finding.verdict
        click.echo(_line(finding, as_json))
    if worst is Verdict.FAILURE:
        raise SystemExit(1)


def examine() -> Iterator[Finding]:
    """All findings, each as soon as it is made."""
    yield from _programs()
    try:
        settings = from_environment()
    except SettingsError as error:
        for line in str(error).splitlines():
            yield failure("settings", line, "set it as README.md says, or unset it")
        return
    wrong = list(unusable(settings))
    for line in wrong:
        yield failure("settings", line, "set it as README.md says, or unset it")
    if wrong:
        return
    yield ok("settings", "all variables are known and valid")
    yield from _disk(settings)
    yield from _strategies()
    try:
        with open_stores(settings) as urls:
            yield from asyncio.run(_stores(settings, urls))
    except EmbeddedError as error:
        yield failure("embedded servers", str(error), "as it says")


def _line(finding: Finding, as_json: bool) -> str:
    if as_json:
        return json.dumps(
            {
                "check": finding.check,
                "verdict": finding.verdict,
                "detail": finding.detail,
                "mend": finding.mend,
            },
            ensure_ascii=False,
        )
    mark = {Verdict.OK: "ok     ", Verdict.WARNING: "warning", Verdict.FAILURE: "FAILURE"}
    text = f"{mark[finding.verdict]}  {finding.check}: {finding.detail}"
    return f"{text}\n         -> {finding.mend}" if finding.mend else text


def _programs() -> Iterator[Finding]:
    yield ok(
        "python",
        f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} processors",
    )
    for name in ("vitrine", "vitrine-sdk"):
        try:
            yield ok(name, version(name))
        except PackageNotFoundError:
            yield failure(name, "is not installed", "make install")
    if kernel.MISSING is None:
        yield ok("kernel", "compiled")
    else:
        yield warning(
            "kernel",
            f"not there ({kernel.MISSING}); its twin in Python serves, at up to twice the time",
            "install a C compiler and Python's headers, then vitrine-sdk again",
        )


def _disk(settings: Settings) -> Iterator[Finding]:
    names = {
        "VITRINE_HOME": "home",
        "VITRINE_ARTEFACTS_URL": "artefacts",
        "VITRINE_EVENT_SPOOL": "event spool",
    }
    for variable, place in folders(settings).items():
        name = names[variable]
        existing = next(part for part in (place, *place.parents) if part.exists())
        free = shutil.disk_usage(existing).free
        detail = f"{free / 2**30:.1f} GiB free at {place}"
        mend = "free some, or give it a larger disk: imports and fits write there"
        if free < FREE_FAILURE:
            yield failure(f"disk ({name})", detail, mend)
        elif free < FREE_WARNING:
            yield warning(f"disk ({name})", detail, mend)
        else:
            yield ok(f"disk ({name})", detail)


def _strategies() -> Iterator[Finding]:
    found = discover()
    for broken in found.broken:
        yield warning(
            f"strategy {broken.name}",
            f"of {broken.distribution} {broken.version} is broken: {broken.reason}",
            "mend or uninstall the distribution",
        )
    ready = [f"{one.name} {one.version}" for one in found if one not in found.broken]
    if ready:
        yield ok("strategies", ", ".join(ready))
    else:
        yield failure("strategies", "there is none", "pip install vitrine-popular or another")


async def _stores(settings: Settings, urls: StoreUrls) -> list[Finding]:
    found = [
        *[ok(name, "embedded") for name in urls.embedded],
        *[finding async for finding in _postgres(settings, urls)],
        *[finding async for finding in _redis(settings, urls)],
    ]
    if not any(finding.verdict is Verdict.FAILURE for finding in found):
        async with _opened(urls.database) as database:
            found += [finding async for finding in _artefacts(settings, database)]
    return found


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    database = connect(url, pool=1, statement_timeout=10, application_name="vitrine-doctor")
    try:
        yield database
    finally:
        await database.close()


async def _postgres(settings: Settings, urls: StoreUrls) -> AsyncIterator[Finding]:
    try:
        async with _opened(urls.database) as database, database.system() as connection:
            for check in (_server, _role, _schema, _clock):
                async for finding in check(connection):
                    yield finding
            async for finding in _connections(settings, connection):
                yield finding
    except Unavailable as error:
        yield failure(
            "PostgreSQL",
            f"cannot be used: {error.__cause__}",
            "start it, or correct VITRINE_DATABASE_URL; look at the network and pg_hba.conf",
        )
        return
    if urls.database_owner is None:
        yield warning(
            "owner",
            "VITRINE_DATABASE_OWNER_URL is not set",
            "set it where `vitrine migrate` runs; the server does not need it",
        )
        return
    try:
        async with _opened(urls.database_owner) as database:
            await database.ping()
        yield ok("owner", "can connect")
    except Unavailable as error:
        yield failure(
            "owner", f"cannot connect: {error.__cause__}", "correct VITRINE_DATABASE_OWNER_URL"
        )


async def _server(connection: AsyncConnection) -> AsyncIterator[Finding]:
    number = int((await connection.execute(sa.text("SHOW server_version_num"))).scalar_one())
    detail = (await connection.execute(sa.text("SHOW server_version"))).scalar_one()
    if number < MINIMUM_POSTGRES:
        yield failure("PostgreSQL", detail, "use version 14 or later")
    else:
        yield ok("PostgreSQL", detail)
    standby = (await connection.execute(sa.text("SELECT pg_is_in_recovery()"))).scalar_one()
    if standby:
        yield failure(
            "PostgreSQL", "is a standby, which takes no writes", "name the primary in the URL"
        )


async def _role(connection: AsyncConnection) -> AsyncIterator[Finding]:
    row = (
        await connection.execute(
            sa.text("""
                SELECT current_user AS name, r.rolsuper OR r.rolbypassrls AS above,
                       EXISTS (SELECT FROM pg_tables t WHERE t.schemaname = 'public'
                               AND pg_has_role(current_user, t.tableowner, 'MEMBER')) AS owner
                FROM pg_roles r WHERE r.rolname = current_user
            """)
        )
    ).one()
    if row.above or row.owner:
        what = "passes row-level security by" if row.above else "owns the tables"
        yield failure(
            "role",
            f"the server's role {row.name} {what}: merchants are not kept apart by PostgreSQL",
            "connect as vitrine_app (VITRINE_DATABASE_URL)",
        )
    else:
        yield ok("role", f"{row.name} is held by row-level security")


async def _schema(connection: AsyncConnection) -> AsyncIterator[Finding]:
    found, needed = await current(connection), head()
    if found == needed:
        yield ok("migrations", f"the database is at {found}")
    else:
        yield failure(
            "migrations",
            f"the database is at {found or 'no revision'}, this version needs {needed}",
            "vitrine migrate up",
        )


async def _clock(connection: AsyncConnection) -> AsyncIterator[Finding]:
    async def ask() -> float:
        statement = sa.text("SELECT date_part('epoch', clock_timestamp())")
        return float((await connection.execute(statement)).scalar_one())

    yield await _skew("clock (PostgreSQL)", ask)


async def _skew(check: str, ask: Callable[[], Any]) -> Finding:
    """How far a store's clock is from ours: it answered between the two moments."""
    best, skew = float("inf"), 0.0
    for _ in range(3):
        begun = time.time()
        theirs = await ask()
        ended = time.time()
        if ended - begun < best:
            best, skew = ended - begun, theirs - (begun + ended) / 2
    detail = f"differs by {skew:+.3f} s"
    mend = "synchronise both machines' clocks (chrony): expiry and event times depend on them"
    if abs(skew) > SKEW_FAILURE + best:
        return failure(check, detail, mend)
    if abs(skew) > SKEW_WARNING + best:
        return warning(check, detail, mend)
    return ok(check, detail)


async def _connections(settings: Settings, connection: AsyncConnection) -> AsyncIterator[Finding]:
    statement = sa.text("""
        SELECT current_setting('max_connections')::int
             - current_setting('superuser_reserved_connections')::int
    """)
    allowed = int((await connection.execute(statement)).scalar_one())
    wanted = settings.workers * settings.database_pool
    detail = f"{wanted} at most of {allowed} that PostgreSQL allows"
    if wanted > allowed:
        yield warning(
            "connections",
            detail,
            "lower VITRINE_DATABASE_POOL or VITRINE_WORKERS, or raise max_connections",
        )
    else:
        yield ok("connections", detail)


async def _redis(settings: Settings, urls: StoreUrls) -> AsyncIterator[Finding]:
    store: RedisConnection | None = None
    try:
        store = RedisConnection(urls.redis, cluster=settings.redis_cluster, pool=2, timeout=5)
        client = store.client
        facts: dict[str, Any] = await client.info()
        if settings.redis_cluster and all(isinstance(part, dict) for part in facts.values()):
            facts = next(iter(facts.values()))  # one node's, where each answers for itself
        for finding in _redis_facts(settings, facts):
            yield finding

        async def ask() -> float:
            seconds, microseconds = await client.time()
            return float(seconds) + float(microseconds) / 1e6

        if not settings.redis_cluster:
            yield await _skew("clock (Redis)", ask)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
        yield failure(
            "Redis",
            f"cannot be used: {type(error).__name__}: {error}",
            "start it, or correct VITRINE_REDIS_URL and VITRINE_REDIS_CLUSTER",
        )
    finally:
        if store is not None:
            await store.client.aclose()


def _redis_facts(settings: Settings, facts: dict[str, Any]) -> Iterator[Finding]:
    # Valkey tells the Redis version that it is compatible with.
    found = str(facts["redis_version"])
    if tuple(int(part) for part in found.split(".")[:2]) < MINIMUM_REDIS:
        yield failure("Redis", found, "use Redis 6.2 or later, or Valkey")
    else:
        yield ok("Redis", found)
    if bool(facts.get("cluster_enabled")) != settings.redis_cluster:
        is_not = "is a cluster" if facts.get("cluster_enabled") else "is not a cluster"
        yield failure("Redis", is_not, "set VITRINE_REDIS_CLUSTER accordingly")
    policy, limit = str(facts.get("maxmemory_policy", "")), int(facts.get("maxmemory", 0))
    used = int(facts.get("used_memory", 0))
    detail = f"{used / 2**20:.0f} MiB used" + (f" of {limit / 2**20:.0f}" if limit else "")
    if limit and policy.startswith("allkeys"):
        yield warning(
            "Redis' memory",
            f"{detail}; maxmemory-policy {policy} throws item features away when it is full",
            "set maxmemory-policy to volatile-ttl, which throws old histories away first",
        )
    elif limit and used > 0.9 * limit:
        yield warning("Redis' memory", detail, "give it more memory (maxmemory)")
    else:
        yield ok("Redis' memory", detail)


async def _artefacts(settings: Settings, database: Database) -> AsyncIterator[Finding]:
    """Every published model's artefact, opened and verified as a server does."""
    root = settings.artefacts_url or str(settings.home / "artefacts")
    store = ArtefactStore(root, settings.home / "cache")
    reader = ConfigurationReader(database)
    merchants = models = wrong = 0
    for merchant in await reader.versions():
        configuration = await reader.load(merchant)
        if configuration is None:
            continue  # deleted meanwhile
        merchants += 1
        for model in configuration.models.values():
            models += 1
            try:
                await asyncio.to_thread(store.open, model.location, model.sha256)
            except (ArtefactError, Unavailable) as error:
                wrong += 1
                yield failure(
                    "artefacts",
                    f"{merchant}: {error}",
                    f"vitrine models rollback {merchant} {model.configuration_id}, or train anew",
                )
    if not wrong:
        yield ok("artefacts", f"{models} published, of {merchants} merchants, all as published")
