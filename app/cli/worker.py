"""`vitrine worker`: trainings, imports and retention, off the server processes."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

import click
from prometheus_client import start_http_server

from app.cli.usable import ensure_usable
from app.cli.wiring import opened_settings, wire
from app.domain.errors import VitrineError
from app.domain.task import TRAINING
from app.embedded import EmbeddedError
from app.jobs.queue import JobQueue
from app.jobs.worker import Periodic, Repeated, Worker
from app.services.catalogue_import import JOB as IMPORT
from app.services.stopping import stop
from app.settings import Settings, from_environment
from app.telemetry import logs
from app.telemetry.embedded_metrics import EmbeddedMetrics
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output

RETENTION_CRON: Final = "17 * * * *"  # hourly, away from the full hour
WEBHOOK_SECONDS: Final = 2.0  # between two looks for messages that are due
DEPTH_SECONDS: Final = 15.0  # between two looks at how many jobs wait


@click.command(epilog="Example: vitrine worker")
@click.option("--until-idle", is_flag=True, help="End when nothing is left to do.")
@click.option(
    "--grace", default=30.0, show_default=True, help="Seconds for running jobs at a stop."
)
def worker(until_idle: bool, grace: float) -> None:
    """Do what takes long until SIGTERM or Ctrl-C: trainings, imports, what is done by the clock.

    Any number of workers may run. At a stop, running jobs may end; what lasts longer is broken off
    and begun again by the next worker, as is a job whose worker was killed.
    """
    chosen = from_environment()
    ensure_usable(chosen)
    try:
        with opened_settings(chosen) as settings:
            output = logs.configure(settings.log_level)
            output.start()
            try:
                asyncio.run(_work(settings, output, until_idle, grace))
            finally:
                output.close()
    except VitrineError as error:
        raise click.ClickException(error.message) from None
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None


async def _work(settings: Settings, output: Output, until_idle: bool, grace: float) -> None:
    metrics = Metrics()
    container = wire(settings, metrics)
    tracer = container.tracer()
    if settings.worker_metrics:
        start_http_server(settings.worker_metrics, settings.host, metrics.registry)
    jobs = settings.worker_jobs
    # A connection for each job's end, one that listens, and those of the clock.
    queue = JobQueue(settings.database_url or "", pool=jobs + 3)
    trainings = container.training_tasks()
    periodic = [
        Periodic("retention", RETENTION_CRON, container.retention().run),
        Periodic("close_abandoned", "*/10 * * * *", trainings.close_abandoned),
        Periodic("recover_imports", "* * * * *", container.import_recovery().run),
    ]
    if settings.train_schedule:
        periodic.append(Periodic("train", settings.train_schedule, trainings.train_all))
    observer = container.job_observer()

    async def measure_depth() -> None:
        observer.waiting(*await queue.depth())

    doing = Worker(
        queue,
        {TRAINING: trainings.run, IMPORT: container.catalogue_import().run_import},
        periodic,
        [
            Repeated("webhooks", WEBHOOK_SECONDS, container.webhook_delivery().run_once),
            Repeated("queue_depth", DEPTH_SECONDS, measure_depth),
        ],
        concurrency=jobs,
        grace=grace,
        observer=observer,
        tracer=tracer,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, doing.stop)
    await queue.open()
    await container.job_queue().open()
    beside = [asyncio.create_task(container.log_levels().run())]
    if settings.embedded_metrics:
        embedded = EmbeddedMetrics(metrics, output, settings.embedded_metrics, "vitrine-worker")
        beside.append(asyncio.create_task(embedded.run()))
    try:
        await doing.run(until_idle=until_idle)
    finally:
        await stop(*beside)
        await container.job_queue().close()
        await queue.close()
        await container.webhook_sender().close()
        await container.background_redis().close()
        await container.database().close()
        if tracer is not None:
            await asyncio.to_thread(tracer.close)
