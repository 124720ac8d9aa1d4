"""`vitrine log-level`: levels of loggers, changed for a while in every process that runs."""

from __future__ import annotations

import asyncio
import getpass
import importlib.util
import socket
import time
from typing import Final

import click

from app.cli.wiring import opened_settings, wire
from app.domain.errors import VitrineError
from app.domain.log_levels import LogLevels
from app.embedded import EmbeddedError
from app.redis.log_levels import LogLevelStore
from app.settings import Settings
from app.telemetry.logs import LEVELS

LONGEST: Final = 24 * 60  # minutes


@click.command(
    "log-level",
    epilog="Example: vitrine log-level app.services=debug sqlalchemy.engine=info"
    " --reason 'INC-7: models do not load' --minutes 30",
)
@click.argument("levels", nargs=-1, metavar="[LOGGER=LEVEL | LEVEL]...")
@click.option("--reason", help="Why; it is told in the log of every process.")
@click.option(
    "--minutes",
    type=click.IntRange(1, LONGEST),
    default=15,
    show_default=True,
    help="After them they are as configured again.",
)
@click.option("--reset", is_flag=True, help="As configured again, now.")
def log_level(levels: tuple[str, ...], reason: str | None, minutes: int, reset: bool) -> None:
    """Change what servers and workers log, without a restart; with nothing said, show it.

    LOGGER is a module or package of Vitrine (the field `module` of a log line: app.services.train)
    or of a library; LEVEL alone is for all others. It replaces what was set before, reaches every
    process within seconds, and ends by itself. Processes that start later are as configured.
    """
    chosen = _parsed(levels)
    if chosen and reset:
        raise click.UsageError("levels or --reset, not both")
    if chosen and not (reason or "").strip():
        raise click.UsageError("--reason is missing: it is told in the log of every process")
    try:
        with opened_settings() as settings:
            click.echo(asyncio.run(_do(settings, chosen, reason or "", minutes, reset)))
    except VitrineError as error:
        raise click.ClickException(error.message) from None
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None


async def _do(
    settings: Settings, levels: dict[str, str], reason: str, minutes: int, reset: bool
) -> str:
    container = wire(settings)
    store: LogLevelStore = container.log_level_store()
    try:
        if reset:
            await store.clear()
        elif levels:
            now = time.time()
            await store.put(
                LogLevels(
                    levels=levels,
                    actor=f"{getpass.getuser()}@{socket.gethostname()}",
                    reason=reason.strip(),
                    set_at=now,
                    until=now + 60 * minutes,
                )
            )
        found = await store.get()
    finally:
        await container.background_redis().close()
    return _told(found)


def _told(found: LogLevels | None) -> str:
    if found is None:
        return "levels are as configured (VITRINE_LOG_LEVEL)"
    left = max(0.0, found.until - time.time()) / 60
    lines = [f"{name or 'all others'}\t{level}" for name, level in sorted(found.levels.items())]
    return "\n".join([*lines, f"for {left:.0f} more minutes, by {found.actor}: {found.reason}"])


def _parsed(levels: tuple[str, ...]) -> dict[str, str]:
    """By logger.

    Raises:
        UsageError: a level or a module of ours that there is not.
    """
    chosen: dict[str, str] = {}
    for text in levels:
        name, equals, level = text.rpartition("=")
        if level not in LEVELS or bool(equals) != bool(name):
            raise click.UsageError(
                f"{text!r}: write LOGGER=LEVEL or LEVEL; a level is one of {', '.join(LEVELS)}"
            )
        if name.partition(".")[0] == "app" and not _is_module(name):
            raise click.UsageError(f"{text!r}: Vitrine has no module {name!r}")
        chosen[name] = level
    return chosen


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
