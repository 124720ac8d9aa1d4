"""`vitrine serve` with parts of its telemetry taken out, to see what each costs. Bench only.

python ops/bench/serve_without.py logs,metrics,traces --port 8000
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import app.http.application as application
import app.http.direct as direct
import app.http.middleware as middleware
from app.telemetry.metrics import Metrics


def nothing(*_: Any, **__: Any) -> None:
    pass


class _Silent:
    """Stands for a metric, with its labels bound or not."""

    inc = dec = set = observe = fold = staticmethod(nothing)
    count = 0

    def labels(self, *_: Any, **__: Any) -> _Silent:
        return self


def without(parts: set[str]) -> None:
    if "logs" in parts:

        def no_writer(*_: Any) -> Callable[..., None]:
            return nothing

        middleware.canonical_writer = no_writer  # type: ignore[assignment]
        direct.canonical_writer = no_writer  # type: ignore[assignment]
    if "metrics" in parts:
        before = Metrics.__init__

        def silent(self: Metrics, *, counted: bool = False) -> None:  # noqa: ARG001
            before(self, counted=False)

        Metrics.__init__ = silent  # type: ignore[method-assign]
        Metrics.route = lambda *_: nothing  # type: ignore[method-assign]
        Metrics.tally = Metrics.timings = lambda *_: _Silent()  # type: ignore[method-assign, assignment, return-value]
    if "traces" in parts:
        build = application.build

        def untraced(*given: Any, **named: Any) -> Any:
            return build(*given, **{**named, "tracer": None})

        application.build = untraced


def main() -> None:
    without(set(sys.argv.pop(1).split(",")))
    from app.cli import main as vitrine  # only now: it binds what was taken out

    sys.argv.insert(1, "serve")
    vitrine()


if __name__ == "__main__":
    main()
