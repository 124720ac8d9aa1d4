"""`vitrine train`, `vitrine models`, and `vitrine worker` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from app.cli import vitrine
from app.domain.pod import StrategyConfiguration
from app.domain.task import TaskStatus
from app.jobs.queue import JobQueue
from app.plugins.fit_job import FitJob
from app.postgres.database import Database, raw
from app.postgres.strategy_configurations import StrategyConfigurationStore
from app.postgres.tasks import Tasks
from app.services.training_tasks import TrainingRequests
from app.telemetry import logs

VITRINE = Path(sys.executable).with_name("vitrine")


class Shop:
    """A merchant with three items, and the environment in which commands find it."""

    def __init__(self, database: Database, merchant: Any, environment: dict[str, str]) -> None:
        self.database = database
        self.merchant = merchant.id
        self.environment = environment

    async def configure(self, name: str, strategy: str, **config: Any) -> None:
        configuration = StrategyConfiguration(id=name, strategy=strategy, config=config)
        store = StrategyConfigurationStore(self.database)
        await store.create(self.merchant, configuration, "test")

    async def run(self, *command: str, code: int = 0) -> Result:
        """A command, in a thread: it has an event loop of its own."""
        done = await asyncio.to_thread(CliRunner().invoke, vitrine, command, env=self.environment)
        assert done.exit_code == code, done.output
        return done


@pytest.fixture
async def shop(
    third_party_strategies: Path,
    database: Database,
    database_url: str,
    redis_url: str,
    merchant: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # this process' stays as it is
    async with database.merchant(merchant.id) as connection:
        driver = await raw(connection)
        await driver.execute("INSERT INTO section VALUES ($1, 'Products', 1)", merchant.id)
        for name in ("a", "b", "c"):
            await driver.execute(
                "INSERT INTO item (merchant_id, section, id, name, version)"
                " VALUES ($1, 'Products', $2, $2, 1)",
                *(merchant.id, name),
            )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VITRINE_")},
        "VITRINE_DATABASE_URL": database_url,
        "VITRINE_REDIS_URL": redis_url,
        "VITRINE_HOME": str(tmp_path / "home"),
    }
    return Shop(database, merchant, environment)


async def test_train_list_publish_and_roll_back(shop: Shop) -> None:
    assert "no strategy configuration" in (await shop.run("train")).stderr
    await shop.configure("new", "newest")
    done = await shop.run("train")
    assert done.stdout.splitlines() == ["new\t1\tpublished"]
    assert "3 items" in done.stderr  # progress
    done = await shop.run("train", "new", "--no-publish")
    assert done.stdout.splitlines() == ["new\t2\tfitted"]
    done = await shop.run("models", "list")
    listed = [line.split("\t")[:3] for line in done.stdout.splitlines()]
    assert listed == [["new", "2", "fitted"], ["new", "1", "published"]]
    done = await shop.run("models", "publish", "new", "2")
    assert done.stdout == "new\t2\tpublished\n"
    done = await shop.run("models", "rollback", "new")
    assert done.stdout == "new\t1\tpublished\n"
    found = json.loads((await shop.run("models", "list", "new", "--json")).stdout)
    assert [one["state"] for one in found] == ["retired", "published"]


async def test_what_goes_wrong_is_a_line_and_a_code(
    shop: Shop, create_merchant: Any, database_url: str
) -> None:
    await shop.configure("bad", "crashing", how="raise")
    await shop.configure("new", "newest")
    done = await shop.run("train", code=1)
    assert done.stdout.splitlines()[-2:] == [
        "bad\tfailed\tfit: ZeroDivisionError: no events",
        "new\t1\tpublished",
    ]
    for command, said in (
        (["train", "nwe"], "there is no strategy configuration 'nwe'"),
        (["models", "rollback", "new"], "no version before"),
        (["models", "publish", "new", "9"], "no model version 9"),
        (["train", "-m", "who"], "no merchant 'who'"),
    ):
        assert said in (await shop.run(*command, code=1)).stderr
    await create_merchant(database_url, "other")
    assert "several merchants" in (await shop.run("train", code=1)).stderr
    await shop.run("models", "list", "-m", "shop")


async def test_the_worker_does_a_training_and_stops_in_order(shop: Shop, database_url: str) -> None:
    await shop.configure("new", "newest")
    tasks = Tasks(shop.database)
    queue = JobQueue(database_url)
    await queue.open()
    worker = await asyncio.create_subprocess_exec(
        *(VITRINE, "worker"), env=shop.environment, stdout=subprocess.PIPE
    )
    try:
        requests = TrainingRequests(tasks, queue, StrategyConfigurationStore(shop.database))
        task = await requests.request(shop.merchant, actor="test")
        async with asyncio.timeout(60):
            while (await tasks.get(shop.merchant, task.id)).status is not TaskStatus.DONE:
                await asyncio.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(worker.communicate(), 60)
        assert worker.returncode == 0
        events = [json.loads(line).get("event") for line in output.splitlines()]
        assert events.count("job_started") == events.count("job_done") == 1
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
        await queue.close()
    listed = await shop.run("models", "list")
    assert listed.stdout.startswith("new\t1\tpublished")


def test_a_fit_ends_with_the_process_that_started_it(
    third_party_strategies: Path, tmp_path: Path
) -> None:
    """As after a kill -9: the pipe is all that tells it."""
    job = FitJob(
        data=str(tmp_path / "a-named-pipe-that-never-speaks"),
        staged=str(tmp_path),
        strategy="crashing",
        config={"how": "hang"},
        seed=1,
    )
    (tmp_path / "a-named-pipe-that-never-speaks").mkdir()
    os.mkfifo(tmp_path / "a-named-pipe-that-never-speaks" / "index.json")  # it waits to read this
    child = subprocess.Popen(
        [sys.executable, "-m", "app.plugins.fit_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode(job) + b"\n")
    child.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    child.stdin.close()
    assert child.wait(30) == 1
    assert child.stdout is not None
    assert child.stdout.read() == b""
    child.stdout.close()
