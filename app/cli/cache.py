"""`vitrine cache`: what Redis holds, made anew or compared with PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import click

from app.cli.wiring import opened_settings, wire
from app.container import Container
from app.domain.catalogue import Section
from app.domain.errors import VitrineError
from app.domain.merchant import MerchantId
from app.embedded import EmbeddedError
from app.telemetry import logs
from app.telemetry.output import Output

_TRIES = 20  # half a second apart, while another process holds a section


@click.group()
def cache() -> None:
    """What Redis holds. It is made from PostgreSQL, by itself where it is lost; these commands do
    it now."""


_merchant = click.option("--merchant", "-m", help="Only this one's. [default: all]")


@cache.command(epilog="Example: vitrine cache rebuild")
@_merchant
def rebuild(merchant: str | None) -> None:
    """Write everything in Redis anew: item features, and shoppers' recent histories."""

    async def work(container: Container) -> bool:
        async def section(one: MerchantId, section: Section) -> str | None:
            return "rebuilt" if await container.projector().rebuild(one, section) else None

        good = await _each(container, merchant, section)
        for one in sorted(await container.configuration_reader().versions()):
            if merchant is None or one == merchant:
                built = await container.history_rebuild().run(one)
                click.echo(f"{one}\thistories\t{built.shoppers:,} shoppers")
        return good

    _run(work)


@cache.command(epilog="Example: vitrine cache verify")
@_merchant
def verify(merchant: str | None) -> None:
    """Compare item features in Redis with PostgreSQL, item by item, and mend what differs."""

    async def work(container: Container) -> bool:
        async def section(one: MerchantId, section: Section) -> str | None:
            mended = await container.verifier().verify(one, section)
            return None if mended is None else f"{mended:,} mended"

        await container.projector().round()
        return await _each(container, merchant, section)

    _run(work)


async def _each(
    container: Container,
    merchant: str | None,
    call: Callable[[MerchantId, Section], Awaitable[str | None]],
) -> bool:
    """Whether every section was done; says what was, one a line.

    Args:
        call: tells what it did; None: another process is at it.
    """
    good = True
    versions = await container.catalogue().versions()
    chosen = [place for place in versions if merchant in (None, place[0])]
    if merchant is not None and not chosen:
        raise click.ClickException(f"merchant {merchant!r} has no catalogue")
    for one, section in chosen:
        done = await call(one, section)
        for _ in range(_TRIES):
            if done is not None:
                break
            await asyncio.sleep(0.5)
            done = await call(one, section)
        if done is None:
            click.echo(f"{one}\t{section}\tanother process is at it: try again", err=True)
            good = False
            continue
        items = await container.item_features().count(one, section)
        click.echo(f"{one}\t{section}\t{done}\t{items:,} items\tversion {versions[one, section]}")
    return good


def _run(work: Callable[[Container], Awaitable[bool]]) -> None:
    async def wired() -> bool:
        container = wire(settings)
        try:
            return await work(container)
        finally:
            await container.background_redis().close()
            await container.database().close()

    try:
        with opened_settings() as settings:
            logs.configure("warning", Output(descriptor=2))
            good = asyncio.run(wired())
    except VitrineError as error:
        raise click.ClickException(error.message) from None
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None
    if not good:
        raise SystemExit(1)
