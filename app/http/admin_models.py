"""`/admin/v1/models` and `/admin/v1/trainings`: train, publish, roll back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from aiohttp import web

from app.domain.errors import NotFound
from app.domain.model import ModelVersion
from app.domain.task import Task
from app.http import admin_wire as wire
from app.http.caller import caller, read_json
from app.http.cursor import PAGE_PARAMETERS, Page, asked_page
from app.http.idempotency import IDEMPOTENCY_KEY, Idempotency
from app.http.operation import Operation, Parameter
from app.services.models import Models
from app.services.training_tasks import TrainingRequests

MODELS: Final = "/admin/v1/models"

_ID: Final = Parameter("model_id", int, "path", "`id` of the model version")


class TrainingRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    configuration_ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)] = ()
    """Strategy configurations; none: all."""
    publish: bool = True
    """Let what was fitted serve at once. False: it waits for `publish`."""


class AdminModels:
    def __init__(
        self, models: Models, trainings: TrainingRequests, idempotency: Idempotency
    ) -> None:
        self._idempotency = idempotency
        self._models = models
        self._trainings = trainings

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                MODELS,
                "listModels",
                wire.TAG,
                "List model versions, newest first",
                self.list,
                roles=wire.READERS,
                parameters=(
                    Parameter("configuration_id", description="Only of this configuration."),
                    *PAGE_PARAMETERS,
                ),
                responses={200: Page[ModelVersion]},
            ),
            Operation(
                "GET",
                f"{MODELS}/{{model_id}}",
                "getModel",
                wire.TAG,
                "Read a model version: where it came from and what was measured",
                self.get,
                roles=wire.READERS,
                parameters=(_ID,),
                responses={200: ModelVersion},
            ),
            Operation(
                "POST",
                f"{MODELS}/{{model_id}}/publish",
                "publishModel",
                wire.TAG,
                "Let a model version serve",
                self.publish,
                roles=wire.ADMINISTRATORS,
                parameters=(_ID,),
                responses={200: ModelVersion},
                description="All server processes use it within a second, without a pause. One"
                " that serves already stays.",
            ),
            Operation(
                "POST",
                "/admin/v1/strategy-configurations/{configuration_id}/rollback",
                "rollBackModel",
                wire.TAG,
                "Let the version serve that did before the present one",
                self.roll_back,
                roles=wire.ADMINISTRATORS,
                responses={200: ModelVersion},
            ),
            Operation(
                "POST",
                "/admin/v1/trainings",
                "createTraining",
                wire.TAG,
                "Train strategy configurations in the background",
                self.train,
                roles=wire.ADMINISTRATORS,
                parameters=(IDEMPOTENCY_KEY,),
                body=TrainingRequest,
                body_required=False,
                body_example=TrainingRequest(configuration_ids=("popular",)),
                responses={202: Task},
                description="The answer's task tells how it goes: `GET /v1/tasks/{id}`.",
            ),
        )

    async def list(self, request: web.Request) -> web.Response:
        after, limit = asked_page(request, int)
        found = await self._models.page(
            caller(request).merchant,
            configuration_id=request.query.get("configuration_id"),
            before_id=after,
            limit=limit + 1,
        )
        page = wire.page_of(found, limit, lambda version: version.id, lambda version: version)
        return wire.answer(page)

    async def get(self, request: web.Request) -> web.Response:
        return wire.answer(await self._found(request))

    async def publish(self, request: web.Request) -> web.Response:
        by = caller(request)
        version = await self._found(request)
        return wire.answer(await self._models.publish(by.merchant, version, by.token_id))

    async def roll_back(self, request: web.Request) -> web.Response:
        by = caller(request)
        configuration_id = request.match_info["configuration_id"]
        return wire.answer(await self._models.roll_back(by.merchant, configuration_id, by.token_id))

    async def train(self, request: web.Request) -> web.Response:
        by = caller(request)
        wanted = (
            await read_json(request, TrainingRequest) if await request.read() else TrainingRequest()
        )

        async def train() -> web.Response:
            task = await self._trainings.request(
                by.merchant, wanted.configuration_ids, publish=wanted.publish, actor=by.token_id
            )
            return wire.answer(task, 202, {"Location": f"/v1/tasks/{task.id}"})

        return await self._idempotency.once(request, train)

    async def _found(self, request: web.Request) -> ModelVersion:
        text = request.match_info["model_id"]
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise NotFound(f"there is no model version {text!r}")
        return await self._models.get(caller(request).merchant, int(text))
