"""`vitrine serve`: the HTTP service."""

from __future__ import annotations

from collections.abc import Callable

import click
import msgspec

from app.cli.server_process import Stopping
from app.cli.server_process import run as run_process
from app.cli.supervisor import Supervisor, Worker
from app.cli.wiring import opened_settings
from app.embedded import EmbeddedError
from app.http.server import Place, Service
from app.process import build_service
from app.settings import Settings, from_environment
from app.telemetry import logs
from app.telemetry.metrics import Metrics, share
from app.telemetry.output import Output


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
    try:
        with opened_settings(settings) as opened:
            code = serve_forever(opened, build_service)
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None
    raise SystemExit(int(code))


def serve_forever(
    settings: Settings,
    build: Callable[[Settings, Place], Service],
    on_ready: Callable[[str], None] = lambda _url: None,
    log: int = 1,
) -> int:
    """Supervise `settings.workers` processes that each serve what `build` makes.

    Args:
        on_ready: called with the address once all of them serve.
        log: file descriptor that log lines are written to.

    Returns:
        A `supervisor.Exit`.
    """
    logs.configure(settings.log_level, Output(log))
    stopping = Stopping(settings.grace_seconds, settings.drain_seconds)

    def body(worker: Worker) -> int:
        output = logs.configure(settings.log_level, Output(log))
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
