"""`/admin/v1/pods`: named placements and their strategy chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from app.domain.pod import Pod
from app.http import admin_wire as wire
from app.http.caller import caller, read_json
from app.http.cursor import PAGE_PARAMETERS, Page, asked_page
from app.http.etag import IF_MATCH, expected_versions
from app.http.idempotency import IDEMPOTENCY_KEY, Idempotency
from app.http.operation import Operation
from app.services.configuration import PodStore

PATH: Final = "/admin/v1/pods"


class AdminPods:
    def __init__(self, pods: PodStore, idempotency: Idempotency) -> None:
        self._pods = pods
        self._idempotency = idempotency

    def operations(self) -> Sequence[Operation]:
        example = Pod(
            id="home_hero",
            display_name="Popular now",
            chain=("popular",),
            num_results=12,
            exclude_bought=True,
        )
        one = f"{PATH}/{{pod_id}}"
        return (
            Operation(
                "GET",
                PATH,
                "listPods",
                wire.TAG,
                "List pods by id",
                self.list,
                roles=wire.READERS,
                parameters=PAGE_PARAMETERS,
                responses={200: Page[Pod]},
            ),
            Operation(
                "POST",
                PATH,
                "createPod",
                wire.TAG,
                "Create a pod",
                self.create,
                roles=wire.MERCHANDISERS,
                parameters=(IDEMPOTENCY_KEY,),
                body=Pod,
                body_example=example,
                responses={201: Pod},
                description="Every part of the chain must be a strategy configuration of the pod's"
                " section. All server processes use the pod within a second.",
            ),
            Operation(
                "GET",
                one,
                "getPod",
                wire.TAG,
                "Read a pod",
                self.get,
                roles=wire.READERS,
                responses={200: Pod},
            ),
            Operation(
                "PUT",
                one,
                "replacePod",
                wire.TAG,
                "Change a pod: the body takes its place",
                self.replace,
                roles=wire.MERCHANDISERS,
                parameters=(IF_MATCH,),
                body=Pod,
                body_example=example,
                responses={200: Pod},
            ),
            Operation(
                "DELETE",
                one,
                "deletePod",
                wire.TAG,
                "Delete a pod",
                self.delete,
                roles=wire.MERCHANDISERS,
                parameters=(IF_MATCH,),
                responses={204: None},
            ),
        )

    async def list(self, request: web.Request) -> web.Response:
        after, limit = asked_page(request, str)
        found = await self._pods.page(caller(request).merchant, after=after, limit=limit + 1)
        page = wire.page_of(found, limit, lambda pod: pod.value.id, lambda pod: pod.value)
        return wire.answer(page)

    async def create(self, request: web.Request) -> web.Response:
        by = caller(request)
        pod = await read_json(request, Pod)

        async def create() -> web.Response:
            made = await self._pods.create(by.merchant, pod, by.token_id)
            return wire.created(made, f"{PATH}/{pod.id}")

        return await self._idempotency.once(request, create)

    async def get(self, request: web.Request) -> web.Response:
        pod_id = request.match_info["pod_id"]
        return wire.answer_version(await self._pods.get(caller(request).merchant, pod_id))

    async def replace(self, request: web.Request) -> web.Response:
        by = caller(request)
        expected = expected_versions(request)
        pod = await read_json(request, Pod)
        wire.same_id(request.match_info["pod_id"], pod.id)
        return wire.answer_version(
            await self._pods.replace(by.merchant, pod, expected, by.token_id)
        )

    async def delete(self, request: web.Request) -> web.Response:
        by = caller(request)
        expected = expected_versions(request)
        await self._pods.delete(by.merchant, request.match_info["pod_id"], expected, by.token_id)
        return web.Response(status=204)
