"""`/admin/v1/strategies` (what is installed) and `/admin/v1/strategy-configurations`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from app.domain.errors import NotFound
from app.domain.pod import StrategyConfiguration
from app.domain.strategy import InstalledStrategy, StrategyState
from app.http import admin_wire as wire
from app.http.caller import caller, read_json
from app.http.cursor import PAGE_PARAMETERS, Page, asked_page
from app.http.etag import IF_MATCH, expected_versions
from app.http.idempotency import IDEMPOTENCY_KEY, Idempotency
from app.http.operation import Operation
from app.services.configuration import InstalledStrategies, StrategyConfigurations

STRATEGIES: Final = "/admin/v1/strategies"
CONFIGURATIONS: Final = "/admin/v1/strategy-configurations"


class StrategyDescription(msgspec.Struct, kw_only=True):
    name: str
    version: str
    distribution: str
    state: StrategyState
    reason: str | None  # why it is broken
    contract: int | None  # version of the strategy contract that it was written for
    format: int | None  # of its artefacts
    reasons: Sequence[str]  # codes that results carry
    config_schema: Mapping[str, Any]  # JSON Schema of `config`


class StrategyList(msgspec.Struct):
    strategies: Sequence[StrategyDescription]


class AdminStrategies:
    def __init__(
        self,
        strategies: InstalledStrategies,
        configurations: StrategyConfigurations,
        idempotency: Idempotency,
    ) -> None:
        self._idempotency = idempotency
        self._strategies = strategies
        self._configurations = configurations

    def operations(self) -> Sequence[Operation]:
        example = StrategyConfiguration(id="popular", strategy="popular")
        one = f"{CONFIGURATIONS}/{{configuration_id}}"
        return (
            Operation(
                "GET",
                STRATEGIES,
                "listStrategies",
                wire.TAG,
                "List the strategies that are installed, broken ones included",
                self.strategies,
                roles=wire.READERS,
                responses={200: StrategyList},
            ),
            Operation(
                "GET",
                f"{STRATEGIES}/{{name}}",
                "getStrategy",
                wire.TAG,
                "Read one, with the JSON Schema of its configuration",
                self.strategy,
                roles=wire.READERS,
                responses={200: StrategyDescription},
            ),
            Operation(
                "GET",
                CONFIGURATIONS,
                "listStrategyConfigurations",
                wire.TAG,
                "List strategy configurations by id",
                self.list,
                roles=wire.READERS,
                parameters=PAGE_PARAMETERS,
                responses={200: Page[StrategyConfiguration]},
            ),
            Operation(
                "POST",
                CONFIGURATIONS,
                "createStrategyConfiguration",
                wire.TAG,
                "Create a strategy configuration",
                self.create,
                roles=wire.ADMINISTRATORS,
                parameters=(IDEMPOTENCY_KEY,),
                body=StrategyConfiguration,
                body_example=example,
                responses={201: StrategyConfiguration},
                description="`config` is checked against the strategy's JSON Schema; what it does"
                " not say is filled in with the defaults of the installed version. It serves once"
                " it is trained.",
            ),
            Operation(
                "GET",
                one,
                "getStrategyConfiguration",
                wire.TAG,
                "Read a strategy configuration",
                self.get,
                roles=wire.READERS,
                responses={200: StrategyConfiguration},
            ),
            Operation(
                "PUT",
                one,
                "replaceStrategyConfiguration",
                wire.TAG,
                "Change a strategy configuration: the body takes its place",
                self.replace,
                roles=wire.ADMINISTRATORS,
                parameters=(IF_MATCH,),
                body=StrategyConfiguration,
                body_example=example,
                responses={200: StrategyConfiguration},
                description="Strategy and section stay as they are. The model that serves goes on"
                " with the config that it was fitted with, until the next training.",
            ),
            Operation(
                "DELETE",
                one,
                "deleteStrategyConfiguration",
                wire.TAG,
                "Delete a strategy configuration and its models",
                self.delete,
                roles=wire.ADMINISTRATORS,
                parameters=(IF_MATCH,),
                responses={204: None},
                description="Refused while a pod's chain names it.",
            ),
        )

    async def strategies(self, request: web.Request) -> web.Response:
        caller(request)
        return wire.answer(StrategyList([_described(one) for one in self._strategies]))

    async def strategy(self, request: web.Request) -> web.Response:
        caller(request)
        name = request.match_info["name"]
        found = self._strategies.get(name)
        if found is None:
            raise NotFound(f"no strategy {name!r} is installed")
        return wire.answer(_described(found))

    async def list(self, request: web.Request) -> web.Response:
        after, limit = asked_page(request, str)
        found = await self._configurations.page(
            caller(request).merchant, after=after, limit=limit + 1
        )
        page = wire.page_of(found, limit, lambda one: one.value.id, lambda one: one.value)
        return wire.answer(page)

    async def create(self, request: web.Request) -> web.Response:
        by = caller(request)
        configuration = await read_json(request, StrategyConfiguration)

        async def create() -> web.Response:
            made = await self._configurations.create(by.merchant, configuration, by.token_id)
            return wire.created(made, f"{CONFIGURATIONS}/{configuration.id}")

        return await self._idempotency.once(request, create)

    async def get(self, request: web.Request) -> web.Response:
        configuration_id = request.match_info["configuration_id"]
        return wire.answer_version(
            await self._configurations.get(caller(request).merchant, configuration_id)
        )

    async def replace(self, request: web.Request) -> web.Response:
        by = caller(request)
        expected = expected_versions(request)
        configuration = await read_json(request, StrategyConfiguration)
        wire.same_id(request.match_info["configuration_id"], configuration.id)
        return wire.answer_version(
            await self._configurations.replace(by.merchant, configuration, expected, by.token_id)
        )

    async def delete(self, request: web.Request) -> web.Response:
        by = caller(request)
        expected = expected_versions(request)
        await self._configurations.delete(
            by.merchant, request.match_info["configuration_id"], expected, by.token_id
        )
        return web.Response(status=204)


def _described(one: InstalledStrategy) -> StrategyDescription:
    return StrategyDescription(
        name=one.name,
        version=one.version,
        distribution=one.distribution,
        state=one.state,
        reason=one.reason,
        contract=one.contract,
        format=one.format,
        reasons=() if one.strategy is None else one.strategy.reasons,
        config_schema=one.schema,
    )
