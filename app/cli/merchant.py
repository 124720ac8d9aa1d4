"""`vitrine merchant`: merchants, their storefront keys and their tokens."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import click

from app.domain.errors import VitrineError
from app.domain.merchant import IssuedToken, MerchantId, Role
from app.embedded import EmbeddedError, open_stores
from app.postgres.database import connect
from app.postgres.merchants import Merchants
from app.settings import from_environment

T = TypeVar("T")

ACTOR: Final = "cli"  # in the audit log


@click.group(epilog="Example: vitrine merchant create my-shop --name 'My shop'")
def merchant() -> None:
    """Make merchants, and make and revoke their keys and tokens.

    Running servers take a change up within a second.
    """


@merchant.command(epilog="Example: vitrine merchant create my-shop --name 'My shop'")
@click.argument("merchant_id")
@click.option("--name", help="What people read. [default: the id]")
@click.option("--origin", "origins", multiple=True, help="Web origin that may use the key.")
def create(merchant_id: str, name: str | None, origins: tuple[str, ...]) -> None:
    """Make a merchant, with one storefront key and one administrator's token.

    The token is shown now and never again.
    """

    async def make(store: Merchants) -> tuple[str, IssuedToken]:
        made = await store.create(merchant_id, name or merchant_id, actor=ACTOR)
        key = await store.create_key(made.id, allowed_origins=origins, actor=ACTOR)
        issued = await store.create_token(made.id, Role.ADMINISTRATOR, actor=ACTOR)
        return key.key, issued

    key, issued = _run(make)
    click.echo(f"key\t{key}")
    _show(issued)


@merchant.command("list", epilog="Example: vitrine merchant list")
@click.argument("merchant_id", required=False)
def list_(merchant_id: str | None) -> None:
    """List merchants, or the keys and tokens of MERCHANT_ID (never their secrets)."""
    if merchant_id is None:
        for line in _run(_merchants):
            click.echo(line)
        return
    mine = MerchantId(merchant_id)

    async def credentials(store: Merchants) -> list[str]:
        await store.get(mine)
        lines = [
            f"key\t{key.key}\t\t{_state(key.revoked_at, None)}\t{key.label}"
            for key in await store.keys(mine)
        ]
        return lines + [
            f"token\t{token.id}\t{token.role}\t{_state(token.revoked_at, token.expires_at)}"
            f"\t{token.label}"
            for token in await store.tokens(mine)
        ]

    for line in _run(credentials):
        click.echo(line)


@merchant.command(epilog="Example: vitrine merchant key my-shop --origin https://shop.example")
@click.argument("merchant_id")
@click.option("--label", default="", help="A note for people.")
@click.option("--origin", "origins", multiple=True, help="Web origin that may use the key.")
def key(merchant_id: str, label: str, origins: tuple[str, ...]) -> None:
    """Make a storefront key."""
    made = _run(
        lambda store: store.create_key(
            MerchantId(merchant_id), label=label, allowed_origins=origins, actor=ACTOR
        )
    )
    click.echo(f"key\t{made.key}")


@merchant.command(epilog="Example: vitrine merchant token my-shop ingest --days 90")
@click.argument("merchant_id")
@click.argument("role", type=click.Choice([str(role) for role in Role]))
@click.option("--label", default="", help="A note for people.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Valid so long.")
def token(merchant_id: str, role: str, label: str, days: float | None) -> None:
    """Make a token. It is shown now and never again."""
    now = datetime.datetime.now(datetime.UTC).timestamp()
    _show(
        _run(
            lambda store: store.create_token(
                MerchantId(merchant_id),
                Role(role),
                label=label,
                expires_at=None if days is None else now + days * 86400,
                actor=ACTOR,
            )
        )
    )


@merchant.command(
    epilog="Example: vitrine merchant rotate my-shop tok_0123456789abcdef --overlap 1"
)
@click.argument("merchant_id")
@click.argument("token_id")
@click.option("--overlap", default=0.0, show_default=True, help="Hours the old one stays valid.")
def rotate(merchant_id: str, token_id: str, overlap: float) -> None:
    """Make a new token in the place of TOKEN_ID. It is shown now and never again."""
    _show(
        _run(
            lambda store: store.rotate_token(
                MerchantId(merchant_id), token_id, overlap_seconds=overlap * 3600, actor=ACTOR
            )
        )
    )


@merchant.command(epilog="Example: vitrine merchant revoke my-shop tok_0123456789abcdef")
@click.argument("merchant_id")
@click.argument("key_or_token_id")
def revoke(merchant_id: str, key_or_token_id: str) -> None:
    """Revoke a key, or a token by its id, for good."""

    async def end(store: Merchants) -> None:
        mine = MerchantId(merchant_id)
        if key_or_token_id.startswith("key_"):
            await store.revoke_key(mine, key_or_token_id, actor=ACTOR)
        else:
            await store.revoke_token(mine, key_or_token_id, actor=ACTOR)

    _run(end)
    click.echo(f"revoked {key_or_token_id}")


async def _merchants(store: Merchants) -> list[str]:
    lines: list[str] = []
    after = None
    while page := await store.page(after=after):
        lines += [f"{one.id}\t{one.name}" for one in page]
        after = page[-1].id
    return lines


def _run(call: Callable[[Merchants], Awaitable[T]]) -> T:
    """Calls with a store; what goes wrong becomes a line on standard error, exit code 1."""

    async def with_store(url: str) -> T:
        database = connect(url, pool=1)
        try:
            return await call(Merchants(database))
        finally:
            await database.close()

    try:
        with open_stores(from_environment(), redis=False) as urls:
            return asyncio.run(with_store(urls.database))
    except VitrineError as error:
        cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
        raise click.ClickException(f"{error.message}{cause}") from None
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None


def _show(issued: IssuedToken) -> None:
    click.echo(f"token\t{issued.secret}")
    click.echo(f"token id\t{issued.token.id}\t{issued.token.role}")


def _state(revoked_at: float | None, expires_at: float | None) -> str:
    if revoked_at is not None:
        return f"revoked {_day(revoked_at)}"
    return "valid" if expires_at is None else f"valid until {_day(expires_at)}"


def _day(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="minutes")
