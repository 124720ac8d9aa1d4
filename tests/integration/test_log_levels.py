"""Levels of loggers, changed while processes run: told, ended by the clock, not outlived."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from app.cli.log_level import log_level
from app.domain.errors import Unavailable
from app.domain.log_levels import LogLevels
from app.redis.connection import RedisConnection
from app.redis.log_levels import LogLevelStore
from app.services import log_levels
from app.services.log_levels import LogLevelFollower
from app.telemetry import logs
from app.telemetry.output import Output
from tests.whole_service import whole_service

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    descriptor = os.open(tmp_path / "lines", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    logs.configure("info", Output(descriptor))
    yield lambda: [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    logs.configure("info")
    os.close(descriptor)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LogLevelStore]:
    connection = RedisConnection(redis_url)
    yield LogLevelStore(connection)
    await connection.close()


def chosen(levels: dict[str, str], set_at: float = 100.0, until: float = 160.0) -> LogLevels:
    return LogLevels(levels=levels, actor="ada@ops", reason="INC-7", set_at=set_at, until=until)


def said(lines: Lines) -> list[str]:
    return [line["event"] for line in lines()]


def test_a_logger_has_its_own_level_and_all_below_it_have(lines: Lines) -> None:
    logs.set_levels({"app.services": "debug", "app.services.train": "error", "": "warning"})
    for module in ("app.services", "app.services.models", "app.services.train", "app.postgres.x"):
        for level in ("debug", "warning", "error"):
            getattr(structlog.get_logger(module=module), level)(f"{module} {level}")
    logging.getLogger("elsewhere").info("elsewhere")
    assert said(lines) == [
        *("app.services debug", "app.services warning", "app.services error"),
        *("app.services.models debug", "app.services.models warning", "app.services.models error"),
        "app.services.train error",
        *("app.postgres.x warning", "app.postgres.x error"),
    ]
    logs.set_levels({})
    structlog.get_logger(module="app.services").debug("no")
    structlog.get_logger(module="app.postgres.x").info("as before")
    assert said(lines)[-1] == "as before"


def test_a_librarys_logger_too_and_it_is_as_before_afterwards(lines: Lines) -> None:
    log = logging.getLogger("sqlalchemy.engine")
    log.info("before")
    logs.set_levels({"sqlalchemy.engine": "info"})
    log.info("SELECT 1")
    logs.set_levels({})
    log.info("after")
    assert said(lines) == ["SELECT 1"]


async def test_what_is_set_is_heeded_told_and_ends_by_the_clock(
    lines: Lines, store: LogLevelStore
) -> None:
    now = 50.0
    follower = LogLevelFollower(store, clock=lambda: now)
    now = 110.0
    await follower.look()
    assert said(lines) == []
    await store.put(chosen({"": "critical", "app.services": "debug"}))
    await follower.look()
    structlog.get_logger(module="app.services.train").debug("seen")
    structlog.get_logger(module="app.process").error("unseen")
    now = 161.0
    await follower.look()
    structlog.get_logger(module="app.services.train").debug("unseen")
    changed, _, back = lines()
    assert [changed["event"], "seen", back["event"]] == said(lines)
    assert changed["event"] == "log_levels_changed"
    assert changed["actor"] == "ada@ops"
    assert changed["reason"] == "INC-7"
    assert changed["levels"] == {"": "critical", "app.services": "debug"}
    assert back["event"] == "log_levels_as_configured"


async def test_a_process_that_starts_later_is_as_configured(
    lines: Lines, store: LogLevelStore
) -> None:
    await store.put(chosen({"": "debug"}))
    await LogLevelFollower(store, clock=lambda: 101.0).look()
    structlog.get_logger(module="app.process").debug("unseen")
    assert lines() == []


async def test_without_redis_what_was_set_ends_at_its_time(lines: Lines) -> None:
    class Away:
        found: LogLevels | None = chosen({"": "debug"})

        async def get(self) -> LogLevels | None:
            if self.found is None:
                raise Unavailable("away")
            return self.found

    now, store = 50.0, Away()
    follower = LogLevelFollower(store, clock=lambda: now)
    now = 110.0
    await follower.look()
    store.found = None
    await follower.look()
    assert said(lines) == ["log_levels_changed"]
    now = 160.0
    await follower.look()
    assert said(lines) == ["log_levels_changed", "log_levels_as_configured"]


def vitrine(redis_url: str, database_url: str, *arguments: str) -> Result:
    environment = {"VITRINE_REDIS_URL": redis_url, "VITRINE_DATABASE_URL": database_url}
    return CliRunner().invoke(log_level, arguments, env=environment)


async def test_the_command_reaches_a_running_server(
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_levels, "SECONDS", 0.02)

    async def until(event: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while event not in said(lines):
                await asyncio.sleep(0.02)
        return next(line for line in lines() if line["event"] == event)

    async with whole_service(database_url, redis_url, tmp_path):
        done = await asyncio.to_thread(
            vitrine, redis_url, database_url, "app.services=debug", "--reason", "INC-8"
        )
        assert done.exit_code == 0, done.output
        assert "app.services\tdebug" in done.output
        changed = await until("log_levels_changed")
        assert changed["reason"] == "INC-8"
        assert "@" in changed["actor"]
        shown = await asyncio.to_thread(vitrine, redis_url, database_url)
        assert "INC-8" in shown.output
        await asyncio.to_thread(vitrine, redis_url, database_url, "--reset")
        await until("log_levels_as_configured")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["app.services=loud", "--reason", "x"], "one of debug, info"),
        (["app.servces=debug", "--reason", "x"], "no module 'app.servces'"),
        (["debug"], "--reason is missing"),
        (["debug", "--reason", "x", "--minutes", "0"], "--minutes"),
        (["debug", "--reason", "x", "--reset"], "not both"),
    ],
)
def test_what_cannot_be_set_is_refused(arguments: list[str], reason: str) -> None:
    done = vitrine("redis://127.0.0.1:1/0", "postgresql://u@127.0.0.1:1/d", *arguments)
    assert done.exit_code == 2
    assert reason in done.output
