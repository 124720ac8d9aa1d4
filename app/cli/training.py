"""What the commands of training share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import click

from app.cli.wiring import opened_settings, wire
from app.container import Container
from app.domain.errors import VitrineError
from app.domain.merchant import MerchantId
from app.embedded import EmbeddedError
from app.telemetry import logs
from app.telemetry.output import Output

T = TypeVar("T")

ACTOR: Final = "cli"  # in the audit log

merchant_option = click.option(
    "--merchant", "-m", help="Whose. [default: the only one, where there is just one]"
)


def run(call: Callable[[Container], Awaitable[T]]) -> T:
    """Call with everything wired; what goes wrong becomes a line on standard error, exit code 1."""

    async def wired() -> T:
        container = wire(settings)
        try:
            return await call(container)
        finally:
            await container.database().close()

    try:
        with opened_settings(redis=False) as settings:
            logs.configure(settings.log_level, Output(descriptor=2))
            return asyncio.run(wired())
    except VitrineError as error:
        raise click.ClickException(error.message) from None
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None


async def chosen_merchant(container: Container, given: str | None) -> MerchantId:
    """
    Raises:
        ClickException: there is no such merchant, or several and none was named.
    """
    known = sorted(await container.configuration_reader().versions())
    if given is not None:
        if given not in known:
            raise click.ClickException(f"there is no merchant {given!r}: see vitrine merchant list")
        return MerchantId(given)
    if len(known) == 1:
        return known[0]
    if not known:
        raise click.ClickException("there is no merchant yet: see vitrine merchant create --help")
    raise click.ClickException(f"there are several merchants: name one by --merchant, of {known}")
