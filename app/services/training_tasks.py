"""Training as background work: asked for over HTTP or by the clock, done by the worker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from app.domain.catalogue import Section
from app.domain.errors import FieldError, InvalidInput, Unavailable, VitrineError
from app.domain.merchant import MerchantId
from app.domain.pod import StrategyConfiguration
from app.domain.task import TRAINING, Rejection, Task, TaskStatus
from app.services.ingest_ports import TaskQueue
from app.services.train import StrategyConfigurationSource, Trained, Training

log = structlog.get_logger(module=__name__)

_ENQUEUED_WITHIN: Final = 60.0  # seconds from a task to its job


class TrainingTaskStore(Protocol):
    """Raises (every method): Unavailable."""

    async def create(
        self,
        merchant: MerchantId,
        type: str,  # noqa: A002
        *,
        section: Section | None,
        input: Mapping[str, Any],  # noqa: A002
    ) -> Task: ...

    async def start(self, merchant: MerchantId, task_id: int) -> Task | None: ...

    async def done(
        self,
        merchant: MerchantId,
        task_id: int,
        *,
        counts: Mapping[str, int],
        rejections: Sequence[Rejection] = (),
    ) -> Task: ...

    async def fail(
        self,
        merchant: MerchantId,
        task_id: int,
        *,
        error: str,
        counts: Mapping[str, int],
        rejections: Sequence[Rejection] = (),
    ) -> Task: ...

    async def unfinished(self, merchant: MerchantId, type: str) -> list[Task]: ...  # noqa: A002


class PendingJobs(Protocol):
    async def pending(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The arguments of the jobs of this name that wait or run."""
        ...


class MerchantSource(Protocol):
    async def versions(self) -> Mapping[MerchantId, int]: ...


class TrainingRequests:
    """What a server process needs of training: leaving it to the worker."""

    def __init__(
        self,
        tasks: TrainingTaskStore,
        queue: TaskQueue,
        configurations: StrategyConfigurationSource,
    ) -> None:
        self._tasks = tasks
        self._queue = queue
        self._configurations = configurations

    async def request(
        self,
        merchant: MerchantId,
        configuration_ids: Sequence[str] = (),
        *,
        publish: bool = True,
        actor: str,
    ) -> Task:
        """A queued task that trains.

        Args:
            configuration_ids: which; empty: all of the merchant's.

        Raises:
            InvalidInput: one is not there, or there are none at all.
            Unavailable: the queue is away; nothing is left behind.
        """
        known: dict[str, StrategyConfiguration] = {
            one.id: one for one in await self._configurations.all(merchant)
        }
        wrong = [
            FieldError(
                f"/configuration_ids/{place}",
                f"there is no strategy configuration {name!r}; there are: "
                + (", ".join(sorted(known)) or "none"),
            )
            for place, name in enumerate(configuration_ids)
            if name not in known
        ]
        if not known:
            wrong.append(
                FieldError("/configuration_ids", "there is no strategy configuration to train yet")
            )
        if wrong:
            raise InvalidInput(f"{wrong[0].field}: {wrong[0].message}", wrong)
        chosen = sorted(set(configuration_ids)) or sorted(known)
        task = await self._tasks.create(
            merchant,
            TRAINING,
            section=None,
            input={"configuration_ids": chosen, "publish": publish, "actor": actor},
        )
        try:
            await self._queue.enqueue(TRAINING, {"merchant": merchant, "task_id": task.id})
        except VitrineError as error:
            await self._tasks.fail(merchant, task.id, error=error.message, counts={})
            raise
        return task


class TrainingTasks:
    """What the worker does of it."""

    def __init__(
        self,
        tasks: TrainingTaskStore,
        training: Training,
        requests: TrainingRequests,
        merchants: MerchantSource,
        jobs: PendingJobs,
    ) -> None:
        self._jobs = jobs
        self._tasks = tasks
        self._training = training
        self._requests = requests
        self._merchants = merchants

    async def run(self, merchant: str, task_id: int) -> None:
        """The job `training`. One that has ended already is not done again.

        Raises:
            Unavailable: a store is away; to be tried again.
        """
        mine = MerchantId(merchant)
        task = await self._tasks.start(mine, task_id)
        if task is None or task.status is not TaskStatus.IN_PROGRESS:
            return
        try:
            results = await self._training.train(
                mine,
                task.input["configuration_ids"],
                actor=task.input["actor"],
                publish=task.input["publish"],
            )
        except Unavailable:
            raise
        except VitrineError as error:  # a configuration was deleted meanwhile
            await self._tasks.fail(mine, task_id, error=error.message, counts={})
            return
        except Exception:
            reason = "an error within the server: its log has the reason"
            await self._tasks.fail(mine, task_id, error=reason, counts={})
            raise
        await self._end(mine, task_id, results)

    async def _end(self, merchant: MerchantId, task_id: int, results: Sequence[Trained]) -> None:
        failed = [one for one in results if one.error is not None]
        held = [one for one in results if one.kept_back is not None]
        counts = {"fitted": len(results) - len(failed), "failed": len(failed)}
        if held:
            counts["kept_back"] = len(held)
        rejections = [
            Rejection(reason=one.error or one.kept_back or "", subject=one.configuration_id)
            for one in (*failed, *held)
        ]
        if failed and len(failed) == len(results):
            error = f"{failed[0].configuration_id}: {failed[0].error}"
            await self._tasks.fail(
                merchant, task_id, error=error, counts=counts, rejections=rejections
            )
        else:
            await self._tasks.done(merchant, task_id, counts=counts, rejections=rejections)

    async def close_abandoned(self) -> None:
        """Ends tasks that no job stands for any more: given up after too many attempts, or never
        enqueued, for their process died before."""
        pending = {(job["merchant"], job["task_id"]) for job in await self._jobs.pending(TRAINING)}
        for merchant in await self._merchants.versions():
            for task in await self._tasks.unfinished(merchant, TRAINING):
                young = time.time() - task.created_at < _ENQUEUED_WITHIN
                if not young and (merchant, task.id) not in pending:
                    log.error("training_abandoned", merchant=merchant, task_id=task.id)
                    await self._tasks.fail(
                        merchant, task.id, error="was given up: start it again", counts={}
                    )

    async def train_all(self) -> None:
        """By the clock: a training of everything that each merchant has configured."""
        for merchant in await self._merchants.versions():
            try:
                await self._requests.request(merchant, actor="schedule")
            except InvalidInput:
                log.info("nothing_to_train", merchant=merchant)
