"""Background jobs, end to end: left by one process, done by a worker, whatever happens to it."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import InvalidInput, Unavailable
from app.domain.merchant import MerchantId
from app.domain.pod import StrategyConfiguration
from app.domain.task import TRAINING, TaskStatus
from app.jobs.queue import JobQueue
from app.jobs.worker import Periodic, Repeated, Worker
from app.plugins.artefacts import ArtefactStore
from app.plugins.discovery import discover
from app.plugins.fitting import ChildFitter
from app.postgres.configuration import ConfigurationReader
from app.postgres.database import Database, raw
from app.postgres.model_versions import ModelVersionStore
from app.postgres.retention import ExpiringRows
from app.postgres.strategy_configurations import StrategyConfigurationStore
from app.postgres.tasks import Tasks
from app.postgres.training_data import TrainingDataReader
from app.services.models import Models
from app.services.retention import Retention
from app.services.train import Training
from app.services.training_tasks import TrainingRequests, TrainingTasks


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[JobQueue]:
    made = JobQueue(database_url, pool=5)
    await made.open()
    yield made
    await made.close()


class Shop:
    def __init__(self, database: Database, queue: JobQueue, merchant: MerchantId, home: Path):
        store = ArtefactStore(str(home / "artefacts"), home / "cache")
        self.merchant = merchant
        self.database = database
        self.tasks = Tasks(database)
        self.configurations = StrategyConfigurationStore(database)
        self.reader = ConfigurationReader(database)
        versions = ModelVersionStore(database)
        self.models = Models(versions, store)
        self.requests = TrainingRequests(self.tasks, queue, self.configurations)
        self.trainings = TrainingTasks(
            self.tasks,
            Training(
                source=TrainingDataReader(database, home / "scratch"),
                fitter=ChildFitter(store, home / "scratch"),
                artefacts=store,
                versions=versions,
                configurations=self.configurations,
                strategies=discover(),
                publish=self.models.publish,
                run_in_thread=asyncio.to_thread,
            ),
            self.requests,
            self.reader,
            queue,
        )

    async def configure(self, name: str, strategy: str, **config: Any) -> None:
        configuration = StrategyConfiguration(id=name, strategy=strategy, config=config)
        await self.configurations.create(self.merchant, configuration, "test")


@pytest.fixture
def shop(
    third_party_strategies: Path, database: Database, queue: JobQueue, merchant: Any, tmp_path: Path
) -> Shop:
    return Shop(database, queue, merchant.id, tmp_path)


async def test_a_training_is_left_for_the_worker_and_done(shop: Shop, queue: JobQueue) -> None:
    await shop.configure("new", "newest")
    await shop.configure("bad", "crashing", how="raise")
    task = await shop.requests.request(shop.merchant, actor="tok_1")
    assert task.status is TaskStatus.QUEUED
    await Worker(queue, {TRAINING: shop.trainings.run}).run(until_idle=True)
    done = await shop.tasks.get(shop.merchant, task.id)
    assert (done.status, done.counts) == (TaskStatus.DONE, {"fitted": 1, "failed": 1})
    (rejection,) = await shop.tasks.rejections(shop.merchant, task.id, limit=10)
    assert rejection.subject == "bad"
    assert "ZeroDivisionError" in rejection.reason
    configuration = await shop.reader.load(shop.merchant)
    assert configuration is not None
    assert list(configuration.models) == ["new"]


async def test_webhooks_are_told_of_the_task_and_the_model(shop: Shop, queue: JobQueue) -> None:
    await shop.configure("new", "newest")
    async with shop.database.merchant(shop.merchant) as connection:
        await (await raw(connection)).execute(
            "INSERT INTO webhook (merchant_id, id, url, secret, events)"
            " VALUES ($1, 'w', 'https://shop.example/', 's', '{}')",
            shop.merchant,
        )
    task = await shop.requests.request(shop.merchant, actor="tok_1")
    await Worker(queue, {TRAINING: shop.trainings.run}).run(until_idle=True)
    async with shop.database.merchant(shop.merchant) as connection:
        rows = await (await raw(connection)).fetch(
            "SELECT event, payload FROM webhook_delivery ORDER BY id"
        )
    told = {row["event"]: row["payload"] for row in rows}
    assert list(told) == ["model.published", "task.done"]
    assert told["model.published"]["number"] == 1
    assert (told["task.done"]["id"], told["task.done"]["status"]) == (task.id, "DONE")


async def test_a_training_of_which_nothing_came_is_failed(shop: Shop, queue: JobQueue) -> None:
    await shop.configure("bad", "crashing", how="raise")
    task = await shop.requests.request(shop.merchant, ["bad"], actor="tok_1")
    await Worker(queue, {TRAINING: shop.trainings.run}).run(until_idle=True)
    done = await shop.tasks.get(shop.merchant, task.id)
    assert done.status is TaskStatus.FAILED
    assert done.error == "bad: fit: ZeroDivisionError: no events"


async def test_an_unknown_configuration_is_refused_when_it_is_asked_for(shop: Shop) -> None:
    await shop.configure("new", "newest")
    with pytest.raises(InvalidInput) as caught:
        await shop.requests.request(shop.merchant, ["new", "nwe"], actor="tok_1")
    assert [error.field for error in caught.value.errors] == ["/configuration_ids/1"]
    assert (await shop.tasks.page(shop.merchant, limit=10))[0] == []


async def test_the_schedule_trains_every_merchant_that_has_something_to_train(
    shop: Shop, queue: JobQueue, database_url: str, create_merchant: Any
) -> None:
    await create_merchant(database_url, "empty")
    await shop.configure("new", "newest")
    await shop.trainings.train_all()
    tasks, _, _ = await shop.tasks.page(shop.merchant, limit=10)
    assert [(task.type, task.input["actor"]) for task in tasks] == [(TRAINING, "schedule")]
    assert (await shop.tasks.page(MerchantId("empty"), limit=10))[0] == []


async def test_a_task_that_no_job_stands_for_is_ended(shop: Shop, queue: JobQueue) -> None:
    await shop.configure("new", "newest")
    lost = await shop.tasks.create(shop.merchant, TRAINING, section=None, input={})
    waiting = await shop.requests.request(shop.merchant, actor="tok_1")
    await shop.trainings.close_abandoned()  # both are young
    assert (await shop.tasks.get(shop.merchant, lost.id)).status is TaskStatus.QUEUED
    async with shop.database.merchant(shop.merchant) as connection:
        await (await raw(connection)).execute(
            "UPDATE task SET created_at = now() - interval '1 hour'"
        )
    await shop.trainings.close_abandoned()
    assert (await shop.tasks.get(shop.merchant, lost.id)).status is TaskStatus.FAILED
    assert (await shop.tasks.get(shop.merchant, waiting.id)).status is TaskStatus.QUEUED


async def test_a_configuration_that_is_deleted_meanwhile_fails_its_task(
    shop: Shop, queue: JobQueue
) -> None:
    await shop.configure("new", "newest")
    task = await shop.requests.request(shop.merchant, actor="tok_1")
    await shop.configurations.delete(shop.merchant, "new", None, "test")
    await Worker(queue, {TRAINING: shop.trainings.run}).run(until_idle=True)
    done = await shop.tasks.get(shop.merchant, task.id)
    assert (done.status, done.error) == (
        TaskStatus.FAILED,
        "there is no strategy configuration 'new'; there are: none",
    )


async def test_what_is_repeated_goes_on_after_a_failure(queue: JobQueue) -> None:
    calls = []
    enough = asyncio.Event()

    async def handler() -> None:
        calls.append(1)
        if len(calls) == 3:
            enough.set()
        raise Unavailable("away") if len(calls) == 1 else ValueError("no")

    worker = Worker(queue, {}, repeated=[Repeated("look", 0.01, handler)])
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        await enough.wait()
    worker.stop()
    await running


async def test_a_queue_that_is_closed_is_unavailable_and_leaves_a_failed_task(
    database: Database, database_url: str, merchant: Any, third_party_strategies: Path
) -> None:
    shop = Shop(database, JobQueue(database_url), merchant.id, Path("unused"))
    await shop.configure("new", "newest")
    with pytest.raises(Unavailable):
        await shop.requests.request(shop.merchant, actor="tok_1")
    tasks, _, _ = await shop.tasks.page(shop.merchant, limit=10)
    assert [task.status for task in tasks] == [TaskStatus.FAILED]


async def test_jobs_of_a_merchant_run_one_after_the_other(queue: JobQueue) -> None:
    running: list[str] = []
    most = {"a": 0, "all": 0}

    async def handler(merchant: str, number: int) -> None:
        running.append(merchant)
        most["a"] = max(most["a"], running.count("a"))
        most["all"] = max(most["all"], len(running))
        done.append((merchant, number))
        await asyncio.sleep(0.05)
        running.remove(merchant)

    done: list[tuple[str, int]] = []
    for number in range(3):
        for merchant in ("a", "b"):
            await queue.enqueue("work", {"merchant": merchant, "number": number})
    worker = Worker(queue, {"work": handler}, concurrency=4)
    for _ in range(3):  # what waited for another comes with the next turn
        await worker.run(until_idle=True)
    assert len(done) == 6
    assert most == {"a": 1, "all": 2}
    assert [number for merchant, number in done if merchant == "a"] == [0, 1, 2]


async def test_a_job_that_meets_an_absent_store_is_tried_again(
    queue: JobQueue, database: Database
) -> None:
    calls = []

    async def handler(merchant: str) -> None:
        calls.append(merchant)
        if len(calls) == 1:
            raise Unavailable("away")

    await queue.enqueue("work", {"merchant": "a"})
    worker = Worker(queue, {"work": handler})
    await worker.run(until_idle=True)
    assert calls == ["a"]
    async with database.system() as connection:  # its pause is over
        driver = await raw(connection)
        assert await driver.fetchval("SELECT status FROM procrastinate_jobs") == "todo"
        await driver.execute("UPDATE procrastinate_jobs SET scheduled_at = now()")
    await worker.run(until_idle=True)
    assert calls == ["a", "a"]


async def test_any_other_failure_is_final(queue: JobQueue, database: Database) -> None:
    async def handler(merchant: str) -> None:
        raise ValueError("no")

    await queue.enqueue("work", {"merchant": "a"})
    await Worker(queue, {"work": handler}).run(until_idle=True)
    async with database.system() as connection:
        status = await (await raw(connection)).fetchval("SELECT status FROM procrastinate_jobs")
    assert status == "failed"


async def test_a_worker_that_stops_lets_a_job_end(queue: JobQueue) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handler(merchant: str) -> None:
        begun.set()
        await asyncio.sleep(0.2)
        ended.set()

    await queue.enqueue("work", {"merchant": "a"})
    worker = Worker(queue, {"work": handler})
    running = asyncio.create_task(worker.run())
    await begun.wait()
    worker.stop()
    await running
    assert ended.is_set()


async def test_a_job_that_outlasts_the_grace_is_the_next_workers(
    queue: JobQueue, database_url: str
) -> None:
    begun = asyncio.Event()
    calls = []

    async def handler(merchant: str) -> None:
        calls.append(merchant)
        begun.set()
        if len(calls) == 1:
            await asyncio.sleep(60)

    await queue.enqueue("work", {"merchant": "a"})
    worker = Worker(queue, {"work": handler}, grace=0.1)
    running = asyncio.create_task(worker.run())
    await begun.wait()
    worker.stop()
    await running
    other = JobQueue(database_url, pool=5)
    await other.open()
    try:
        await Worker(other, {"work": handler}).run(until_idle=True)
    finally:
        await other.close()
    assert calls == ["a", "a"]


async def test_a_dead_workers_job_is_taken_over(
    queue: JobQueue, database_url: str, database: Database
) -> None:
    calls = []

    async def handler(merchant: str) -> None:
        calls.append(merchant)

    await queue.enqueue("work", {"merchant": "a"})
    async with database.system() as connection:  # as if its worker had been killed
        driver = await raw(connection)
        await driver.execute(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour')"
        )
        await driver.execute(
            "UPDATE procrastinate_jobs SET status = 'doing',"
            " worker_id = (SELECT max(id) FROM procrastinate_workers)"
        )
    worker = Worker(queue, {"work": handler})
    await worker._recover()
    await worker.run(until_idle=True)
    assert calls == ["a"]


async def test_what_is_to_be_done_by_the_clock_is_done(queue: JobQueue, database_url: str) -> None:
    calls = []
    called = asyncio.Event()

    async def handler() -> None:
        calls.append(1)
        called.set()

    worker = Worker(queue, {}, [Periodic("each_second", "* * * * * *", handler)])
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        await called.wait()
    worker.stop()
    await running
    assert calls


async def test_a_wrong_schedule_is_said_at_the_start(queue: JobQueue) -> None:
    async def handler() -> None:
        pass

    with pytest.raises(InvalidInput, match="nightly: '61 3 \\* \\* \\*' is no cron expression"):
        Worker(queue, {}, [Periodic("nightly", "61 3 * * *", handler)])


async def test_old_rows_go_and_an_orders_fingerprint_stays(shop: Shop, database: Database) -> None:
    old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40)
    async with database.merchant(shop.merchant) as connection:
        driver = await raw(connection)
        for fingerprint, forever, at in (
            (b"order", True, old),
            (b"old", False, old),
            (b"new", False, old + datetime.timedelta(days=20)),
        ):
            await driver.execute(
                "INSERT INTO event_id VALUES ($1, $2, $3, $4)",
                *(shop.merchant, fingerprint, forever, at),
            )
    days = {"event_id": 30, "served_sample": 30, "idempotency_key": 1, "task": 90}
    await Retention(ExpiringRows(database), shop.models, shop.reader, days).run()
    async with database.merchant(shop.merchant) as connection:
        left = await (await raw(connection)).fetch("SELECT fingerprint FROM event_id ORDER BY 1")
    assert [row[0] for row in left] == [b"new", b"order"]
