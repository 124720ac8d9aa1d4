"""`vitrine migrate`: the database's schema, up and down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.domain.errors import Unavailable
from app.embedded import EmbeddedError, open_stores
from app.postgres.database import connect
from app.postgres.migration import MigrationError, Migrations, current, head
from app.settings import from_environment


@click.group(
    invoke_without_command=True,
    epilog="Example: vitrine migrate            (the same as vitrine migrate up)",
)
@click.pass_context
def migrate(context: click.Context) -> None:
    """Bring the database's schema to what this version needs.

    Connects as the schema's owner, VITRINE_DATABASE_OWNER_URL; without a VITRINE_DATABASE_URL, the
    embedded PostgreSQL is used. The owner must own the database. It makes the role vitrine_app,
    which the server connects as, unless it is there. One process migrates at a time; the others
    wait. A migration that fails changes nothing.
    """
    if context.invoked_subcommand is None:
        context.invoke(up)


@migrate.command(epilog="Example: vitrine migrate up")
@click.argument("revision", default="head")
@click.option("--wait", default=300, show_default=True, help="Seconds to wait for another one.")
@click.option("--lock", default=5, show_default=True, help="Seconds to wait for a table in use.")
def up(revision: str, wait: int, lock: int) -> None:
    """Apply what is missing, up to REVISION (the newest)."""
    with _owner() as url:
        Migrations(url, wait_seconds=wait, lock_seconds=lock, report=click.echo).up(revision)
        click.echo(f"the database is at {_current(url)}")


@migrate.command(epilog="Example: vitrine migrate down foundation")
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--wait", default=300, show_default=True, help="Seconds to wait for another one.")
@click.option("--lock", default=5, show_default=True, help="Seconds to wait for a table in use.")
def down(revision: str, yes: bool, wait: int, lock: int) -> None:
    """Go back to REVISION ("base": before the first). Tables made since then go with their rows."""
    if not yes:
        click.confirm("Tables that later migrations made are deleted. Go on?", abort=True)
    with _owner() as url:
        Migrations(url, wait_seconds=wait, lock_seconds=lock, report=click.echo).down(revision)
        click.echo(f"the database is at {_current(url)}")


@migrate.command("current", epilog="Example: vitrine migrate current")
def show_current() -> None:
    """Show the database's revision, and the one that this version needs.

    Ends with 1 where they differ.
    """
    with _owner() as url:
        found = _current(url)
        click.echo(f"the database is at {found}; this version needs {head()}")
        if found != head():
            raise SystemExit(1)


@migrate.command(epilog="Example: vitrine migrate check")
def check() -> None:
    """Compare the database's tables with the code's. Ends with 1 where they differ."""
    with _owner() as url:
        Migrations(url).check()
        click.echo("the database's tables are as the code says")


@contextmanager
def _owner() -> Iterator[str]:
    """The owner's URL; failures become a line on standard error and the exit code 1."""
    settings = from_environment()
    try:
        if settings.database_owner_url is not None:
            yield settings.database_owner_url
            return
        if settings.database_url is not None:
            raise click.ClickException(
                "VITRINE_DATABASE_URL is set: set VITRINE_DATABASE_OWNER_URL too, to the URL of"
                " the same database as the schema's owner"
            )
        with open_stores(settings, redis=False) as urls:
            if urls.database_owner is None:
                raise click.ClickException("there is no owner's URL")
            yield urls.database_owner
    except (MigrationError, EmbeddedError) as error:
        raise click.ClickException(str(error)) from None


def _current(url: str) -> str:
    async def read() -> str | None:
        database = connect(url, pool=1)
        try:
            async with database.system() as connection:
                return await current(connection)
        finally:
            await database.close()

    try:
        return asyncio.run(read()) or "no revision: it has never been migrated"
    except Unavailable as error:
        raise MigrationError(f"{error.message} ({error.__cause__})") from error
