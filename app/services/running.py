"""The port through which a request has a model run."""

from __future__ import annotations

import enum
from collections.abc import Awaitable
from typing import Protocol

from app.services.snapshot import ServedModel
from vitrine_sdk import Candidates, Context


class Failure(enum.StrEnum):
    """Why a strategy gave nothing that can be used."""

    UNFITTED = "unfitted"  # no model of it is published, or it could not be loaded
    LATE = "late"  # the deadline passed
    RAISED = "raised"  # an exception
    INVALID = "invalid"  # an answer against the contract
    BUSY = "busy"  # too many runs of it at once
    OPEN = "open"  # it failed again and again and is not asked for a while
    DOWN = "down"  # its process ended and is being started again


Outcome = Candidates | Failure


class Runner(Protocol):
    def run(
        self, model: ServedModel, context: Context, limit: int, deadline: float
    ) -> Outcome | Awaitable[Outcome]:
        """Candidates that keep the contract, or why there are none. Never raises.

        Args:
            deadline: on the event loop's clock.
        """
        ...
