"""Supervised server processes, whatever they serve. It imports no application, so that a supervisor
of something small is small."""

from __future__ import annotations

from collections.abc import Callable

from app.cli.server_process import Stopping
from app.cli.server_process import run as run_process
from app.cli.supervisor import Supervisor, Worker
from app.http.server import Place, Service
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output
from app.telemetry.shared_metrics import share


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
                lambda place: build(settings, place), place, worker.inherited, stopping
            )
        finally:
            output.close()

    return Supervisor(
        body,
        settings.workers,
        settings.host,
        settings.port,
        stopping,
        on_ready,
        spare=settings.spare_worker,
    ).run()
