"""`vitrine serve`: the HTTP service."""

from __future__ import annotations

from collections.abc import Callable

import click
import msgspec

from app.cli.server_process import Stopping
from app.cli.server_process import run as run_process
from app.cli.supervisor import Supervisor, Worker
from app.embedded import EmbeddedError, StoreUrls, open_stores
from app.http.server import Place, Service
from app.settings import Settings, from_environment
from app.telemetry import logs
from app.telemetry.metrics import Metrics, share


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
    from app.process import build_service  # it imports everything

    try:
        with open_stores(settings) as urls:
            code = serve_forever(with_stores(settings, urls), build_service)
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None
    raise SystemExit(int(code))


def with_stores(settings: Settings, urls: StoreUrls) -> Settings:
    """Settings in which both stores have an address."""
    return msgspec.structs.replace(
        settings,
        database_url=urls.database,
        database_owner_url=urls.database_owner,
        redis_url=urls.redis,
    )


def serve_forever(
    settings: Settings,
    build: Callable[[Settings, Place], Service],
    on_ready: Callable[[str], None] = lambda _url: None,
) -> int:
    """Supervise `settings.workers` processes that each serve what `build` makes. Returns an
    `supervisor.Exit`. `on_ready` is called with the address once all of them serve."""
    logs.configure(settings.log_level)
    stopping = Stopping(settings.grace_seconds, settings.drain_seconds)

    def body(worker: Worker) -> int:
        output = logs.configure(settings.log_level)
        output.start()
        share(worker.metrics_directory, worker.files)
        place = Place(output, Metrics(), worker.metrics_directory, worker.slot)
        try:
            return run_process(
                lambda place: build(settings, place),
                place,
                worker.listening,
                stopping,
                parent=worker.parent,
                ready=worker.tell_ready,
            )
        finally:
            output.close()

    return Supervisor(
        body, settings.workers, settings.host, settings.port, stopping, on_ready
    ).run()
