"""`vitrine serve`: the HTTP service."""

from __future__ import annotations

import click
import msgspec

from app.cli.serving import serve_forever
from app.cli.usable import ensure_usable
from app.cli.wiring import opened_settings
from app.embedded import EmbeddedError
from app.process import build_service
from app.settings import from_environment


@click.command()
@click.option("--host", help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--workers", type=click.IntRange(min=1), help="Server processes on the port.")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Answer HTTP until SIGTERM or Ctrl-C.

    SIGTERM lets requests that were begun come to their end; SIGUSR1 replaces the workers one after
    the other without a refused request. Exit codes: 0 stopped in order, 1 could not start, 2 wrong
    settings, 3 the address cannot be had.
    """
    given = {"host": host, "port": port, "workers": workers}
    settings = msgspec.structs.replace(
        from_environment(), **{name: value for name, value in given.items() if value is not None}
    )
    ensure_usable(settings)
    try:
        with opened_settings(settings) as opened:
            code = serve_forever(opened, build_service)
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None
    raise SystemExit(int(code))
