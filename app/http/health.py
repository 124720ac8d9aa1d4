"""Signs of life: is the process alive, and is it ready to serve?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from app.http.operation import Operation, Security


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that readiness asks for. `missing` answers from what the process knows, without
    waiting: what is missing, in words for an operator, or None."""

    name: str
    missing: Callable[[], str | None]
    required: bool = True  # False: the service answers without it, degraded


class Missing(msgspec.Struct, frozen=True):
    name: str
    detail: str


class ReadinessReport(msgspec.Struct, frozen=True):
    ready: bool
    missing: tuple[Missing, ...]  # what keeps it from serving
    degraded: tuple[Missing, ...]  # what it serves without


class Liveness(msgspec.Struct, frozen=True):
    alive: bool = True


class Readiness:
    """Whether this process may be sent requests. Its server takes `warm` away until it has
    started, and sets `draining` when it stops."""

    def __init__(self, checks: Sequence[Check] = ()) -> None:
        self.checks = tuple(checks)
        self.warm = True
        self.draining = False

    def report(self) -> ReadinessReport:
        missing: list[Missing] = []
        degraded: list[Missing] = []
        if self.draining:
            missing.append(Missing("draining", "the process stops; send requests elsewhere"))
        elif not self.warm:
            missing.append(Missing("warm-up", "the process is starting"))
        for check in self.checks:
            detail = check.missing()
            if detail is not None:
                (missing if check.required else degraded).append(Missing(check.name, detail))
        return ReadinessReport(not missing, tuple(missing), tuple(degraded))


class HealthHandler:
    """`/health/live` and `/health/ready`."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                "/health/live",
                "getLiveness",
                "operations",
                "Whether the process is alive",
                self.live,
                security=Security.NONE,
                responses={200: Liveness},
            ),
            Operation(
                "GET",
                "/health/ready",
                "getReadiness",
                "operations",
                "Whether the process may be sent requests, and what is missing",
                self.ready,
                security=Security.NONE,
                responses={200: ReadinessReport, 503: ReadinessReport},
            ),
        )

    async def live(self, _request: web.Request) -> web.Response:
        return _json(Liveness(), 200)

    async def ready(self, _request: web.Request) -> web.Response:
        report = self._readiness.report()
        return _json(report, 200 if report.ready else 503)


def _json(value: msgspec.Struct, status: int) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
