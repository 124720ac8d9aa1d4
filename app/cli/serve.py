"""`vitrine serve`: the HTTP service."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import click
import msgspec

from app.cli.server_process import Stopping
from app.cli.server_process import run as run_process
from app.cli.supervisor import Supervisor, Worker
from app.embedded.servers import EmbeddedServers
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
    from app.container import build_service  # it imports everything

    with stores(settings) as served:
        code = serve_forever(served, build_service)
    raise SystemExit(int(code))


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


@contextlib.contextmanager
def stores(settings: Settings) -> Iterator[Settings]:
    """Settings in which both stores have an address: those that were given, or embedded servers'
    that run as long as the context."""
    if settings.database_url is not None and settings.redis_url is not None:
        yield settings
        return
    with EmbeddedServers(settings.home) as embedded:
        yield msgspec.structs.replace(
            settings,
            database_url=settings.database_url or embedded.database_url,
            database_owner_url=settings.database_owner_url or embedded.database_owner_url,
            redis_url=settings.redis_url or embedded.redis_url,
        )
