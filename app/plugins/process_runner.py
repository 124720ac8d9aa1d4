"""Models that run in processes of their own: killed when they are late, and started again.

One child a model and server process, that answers one request at a time; those that wait for their
turn do so until their own deadline. The child maps the artefact by itself, so the server holds
nothing of the model. What it answers is read only up to the length that was asked for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.plugins import process_wire as wire
from app.plugins.process_link import Refusal
from app.plugins.strategy_process import StrategyProcess
from vitrine_sdk import Candidates, Context


class ChildModel:
    """Stands for a model that lives in a process. The process ends when nobody refers to this."""

    __slots__ = ("__weakref__", "_process")

    def __init__(self, process: StrategyProcess) -> None:
        self._process = process
        weakref.finalize(self, process.let_go)

    @property
    def pid(self) -> int | None:
        """None: it is being started again."""
        return self._process.pid

    def recommend(self, context: Context, limit: int) -> Candidates:  # noqa: ARG002
        """Not here: see `ask`."""
        raise RuntimeError("this model runs in a process of its own")

    async def ask(self, context: Context, limit: int, deadline: float) -> Candidates | Refusal:
        """Candidates of the right form, not yet looked at, or why there are none."""
        return await self._process.ask(context, limit, deadline)


class StrategyProcesses:
    """Starts them, and ends those that are left when the server stops.

    Args:
        memory_mib: that each may take, beyond the interpreter and the artefact.
        patience: seconds that a run may take before its process is killed. The request's own
            deadline ends only the waiting, which may have begun long after the others'.
        start_seconds: that loading may take.
    """

    def __init__(
        self,
        *,
        memory_mib: int | None = 1024,
        patience: float = 0.1,
        start_seconds: float = 60.0,
    ) -> None:
        self._memory_mib = memory_mib
        self._patience = patience
        self._start_seconds = start_seconds
        self._running: weakref.WeakSet[StrategyProcess] = weakref.WeakSet()

    async def start(
        self,
        name: str,
        *,
        strategy: str,
        config: Mapping[str, Any],
        locate: Callable[[], Path],
        arrays: tuple[str, ...],
        items: int,
    ) -> tuple[ChildModel, wire.Loaded]:
        """
        Args:
            name: of the strategy configuration, for the log.
            locate: gives the artefact's directory; called in a thread, at each start.

        Raises:
            NotLoaded: the model cannot be loaded, or not in time.
            VitrineError: the artefact cannot be had.
        """
        job = wire.Job(
            strategy=strategy,
            config=dict(config),
            directory="",
            arrays=arrays,
            items=items,
            memory_mib=self._memory_mib,
        )
        process = StrategyProcess(name, job, locate, self._patience, self._start_seconds)
        self._running.add(process)
        loaded = await process.start()
        return ChildModel(process), loaded

    async def close(self) -> None:
        for process in list(self._running):
            await process.close()
