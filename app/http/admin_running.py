"""`/admin/v1/running`: how a merchant's strategies run now, in the process that answers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec
from aiohttp import web

from app.domain.breaker import BreakerState
from app.domain.merchant import MerchantId
from app.domain.pod import RunMode
from app.http import admin_wire as wire
from app.http.caller import caller
from app.http.operation import Operation
from app.services.serving import ServingProblem
from app.services.snapshot import ServingSnapshot

RUNNING: Final = "/admin/v1/running"


class RunningStrategy(msgspec.Struct, kw_only=True):
    configuration_id: str
    strategy: str
    mode: RunMode
    model_number: int | None  # of the version that serves; None: none does
    breaker: BreakerState
    problem: str | None  # why what is published does not serve


class Running(msgspec.Struct, kw_only=True):
    process: int  # which of the server processes answers: each has a state of its own
    configuration_version: int
    strategies: Sequence[RunningStrategy]


class Breakers(Protocol):
    def breakers(self) -> Mapping[tuple[MerchantId, str], BreakerState]:
        """Those that are not closed, by merchant and strategy configuration."""
        ...


class Served(Protocol):
    def merchants(self) -> Mapping[MerchantId, ServingSnapshot]: ...

    def problems(self) -> Sequence[ServingProblem]: ...


class AdminRunning:
    def __init__(self, serving: Served, runner: Breakers) -> None:
        self._serving = serving
        self._runner = runner

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                RUNNING,
                "getRunning",
                wire.TAG,
                "How the strategies run in the process that answers",
                self.running,
                roles=wire.READERS,
                responses={200: Running},
                description="The version that serves, the state of its breaker (`open`: it failed"
                " again and again, and others answer instead), and why one does not serve. Each"
                " server process has a state of its own.",
            ),
        )

    async def running(self, request: web.Request) -> web.Response:
        merchant = caller(request).merchant
        snapshot = self._serving.merchants()[merchant]
        breakers = self._runner.breakers()
        problems = {p.subject: p.reason for p in self._serving.problems() if p.merchant == merchant}
        return wire.answer(
            Running(
                process=os.getpid(),
                configuration_version=snapshot.configuration.merchant.configuration_version,
                strategies=[
                    RunningStrategy(
                        configuration_id=id_,
                        strategy=configuration.strategy,
                        mode=configuration.mode,
                        model_number=(
                            model.published.number if (model := snapshot.models.get(id_)) else None
                        ),
                        breaker=breakers.get((merchant, id_), BreakerState.CLOSED),
                        problem=problems.get(id_),
                    )
                    for id_, configuration in sorted(snapshot.configuration.strategies.items())
                ],
            )
        )
