"""Training: a shop's data in, a published model version out.

The fit runs in a process of its own. Whatever happens to it, the version that is published stays
published until another one takes its place in a single transaction.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

import structlog

from app.domain.catalogue import Section
from app.domain.configuration import MerchantConfiguration
from app.domain.errors import Conflict, InvalidInput, NotFound, VitrineError
from app.domain.gate import Verdict
from app.domain.merchant import MerchantId
from app.domain.model import Manifest, ModelVersion
from app.domain.pod import StrategyConfiguration
from app.domain.strategy import InstalledStrategy
from vitrine_sdk import TrainingData

log = structlog.get_logger(module=__name__)

SEED: Final = 20171231
"""The seed of every fit that is not told another one."""

Progress = Callable[[str], None]
"""Is told what is being done, in words for the operator."""


class FitFailed(VitrineError):
    """A fit crashed, was killed, was late, or made something unusable. Nothing was changed."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """A merchant's data of one section, ready to fit on."""

    data: TrainingData
    section: Section
    catalogue_version: int
    unknown_items: int  # events whose item is not, or no longer, in the catalogue


@dataclass(frozen=True, slots=True)
class Staged:
    """A fitted artefact that is not in the store's place yet."""

    directory: Path
    manifest: Manifest
    sha256: str  # of the manifest
    verdict: Verdict | None = None  # of the gate; None: there was nothing to judge against


@dataclass(frozen=True, slots=True)
class Trained:
    """What became of one configuration."""

    configuration_id: str
    version: ModelVersion | None = None
    error: str | None = None  # why there is no version

    @property
    def kept_back(self) -> str | None:
        """Why the gate did not let it serve; None: it did."""
        verdict = None if self.version is None else self.version.verdict
        return None if verdict is None or verdict.passed else verdict.reason


class TrainingDataSource(Protocol):
    async def read(
        self, merchant: MerchantId, section: Section, until: float, progress: Progress
    ) -> TrainingSet:
        """Everything of the section up to `until` (Unix seconds) that may be learned from."""
        ...


class PreparedFit(Protocol):
    async def fit(
        self,
        configuration: StrategyConfiguration,
        strategy: InstalledStrategy,
        seed: int,
        serving: ModelVersion | None,
        *,
        calibrate: bool = False,
        counts: str | None = None,
    ) -> Staged:
        """Fit in a child process, and judge what came of it against the version that serves.

        Args:
            calibrate: find out, too, what its scores mean in clicks and purchases.
            counts: where counts are kept from fit to fit, a relative path: of a strategy that is
                additive, only what is new is counted. None: all is.

        Raises:
            FitFailed: with the reason; nothing is left behind.
        """
        ...


class Fitter(Protocol):
    def prepare(self, training_set: TrainingSet) -> AbstractAsyncContextManager[PreparedFit]:
        """Lay the data down where child processes read it; cleared away on leaving."""
        ...


class ArtefactPlaces(Protocol):
    def put(self, staged: Path, location: str) -> None: ...

    def location(self, merchant: str, configuration_id: str, number: int) -> str: ...


class ModelVersionStore(Protocol):
    async def serving(self, merchant: MerchantId, configuration_id: str) -> ModelVersion | None: ...

    async def next_number(self, merchant: MerchantId, configuration_id: str) -> int: ...

    async def add(
        self,
        merchant: MerchantId,
        *,
        number: int,
        location: str,
        sha256: str,
        manifest: Manifest,
        verdict: Verdict | None,
        actor: str,
    ) -> ModelVersion:
        """
        Raises:
            Conflict: the number is taken.
        """
        ...


class Observer(Protocol):
    """Counts. `app.telemetry` has no part in what happens here."""

    def trained(
        self, merchant: str, configuration: str, strategy: str, outcome: str, seconds: float
    ) -> None:
        """Outcomes: published, kept_back, fitted (waits to be published), failed."""
        ...


class StrategyConfigurationSource(Protocol):
    async def all(self, merchant: MerchantId) -> Sequence[StrategyConfiguration]: ...


class Published(Protocol):
    async def load(self, merchant: MerchantId) -> MerchantConfiguration | None: ...


class StrategyFinder(Protocol):
    def get(self, name: str) -> InstalledStrategy | None: ...


Publish = Callable[[MerchantId, ModelVersion, str], Awaitable[ModelVersion]]


class Training:
    """
    Args:
        publish: makes a version serve: `Models.publish_fitted`.
        run_in_thread: for what blocks on disk or network (`asyncio.to_thread`).
        observer: is told of each configuration's training.
        published: whose pods say by their objective what is calibrated; None: nothing is.
    """

    def __init__(
        self,
        *,
        source: TrainingDataSource,
        fitter: Fitter,
        artefacts: ArtefactPlaces,
        versions: ModelVersionStore,
        configurations: StrategyConfigurationSource,
        strategies: StrategyFinder,
        publish: Publish,
        run_in_thread: Callable[..., Awaitable[None]],
        observer: Observer | None = None,
        published: Published | None = None,
    ) -> None:
        self._published = published
        self._observer = observer
        self._source = source
        self._fitter = fitter
        self._artefacts = artefacts
        self._versions = versions
        self._configurations = configurations
        self._strategies = strategies
        self._publish = publish
        self._in_thread = run_in_thread

    async def train(
        self,
        merchant: MerchantId,
        configuration_ids: Sequence[str] = (),
        *,
        actor: str,
        publish: bool = True,
        seed: int = SEED,
        until: float | None = None,
        incremental: bool = False,
        progress: Progress = lambda _: None,
    ) -> Sequence[Trained]:
        """Fit configurations on the merchant's data and publish what came of it.

        One that fails is reported in its place and stops none of the others.

        Args:
            configuration_ids: which; empty: all of them.
            actor: who is named in the audit log.
            publish: False: the versions are fitted and wait for `vitrine models publish`.
            until: Unix seconds; learns from no later event. None: now.
            incremental: strategies whose fit is a sum over shoppers count only what is new; their
                models are the same but for rounding.

        Raises:
            NotFound: there is no such configuration.
            Unavailable: a store is away.
        """
        chosen = await self._choose(merchant, configuration_ids)
        until = time.time() if until is None else until
        results: dict[str, Trained] = {}
        ready: dict[Section, list[tuple[StrategyConfiguration, InstalledStrategy]]] = {}
        for configuration in chosen:
            try:
                strategy = self._ready(configuration)
            except InvalidInput as error:
                results[configuration.id] = self._failed(merchant, configuration, error)
                self._tell(merchant, configuration, results[configuration.id], time.monotonic())
            else:
                ready.setdefault(configuration.section, []).append((configuration, strategy))
        valued = await self._valued(merchant)
        for section, pairs in ready.items():
            progress(f"reading the catalogue and the events of section {section}")
            training_set = await self._source.read(merchant, section, until, progress)
            async with self._fitter.prepare(training_set) as prepared:
                del training_set  # the child processes have it on disk
                for configuration, strategy in pairs:
                    began = time.monotonic()
                    progress(f"fitting {configuration.id} ({strategy.name} {strategy.version})")
                    try:
                        version = await self._one(
                            merchant,
                            configuration,
                            strategy,
                            prepared,
                            actor,
                            publish,
                            seed,
                            calibrate=configuration.id in valued,
                            incremental=incremental,
                        )
                    except FitFailed as error:
                        results[configuration.id] = self._failed(merchant, configuration, error)
                        progress(f"{configuration.id} failed: {error.message}")
                    else:
                        results[configuration.id] = Trained(configuration.id, version)
                        progress(_summary(version))
                    self._tell(merchant, configuration, results[configuration.id], began)
        return [results[configuration.id] for configuration in chosen]

    def _tell(
        self,
        merchant: MerchantId,
        configuration: StrategyConfiguration,
        trained: Trained,
        began: float,
    ) -> None:
        if self._observer is None:
            return
        if trained.version is None:
            outcome = "failed"
        elif trained.kept_back is not None:
            outcome = "kept_back"
        else:
            outcome = trained.version.state.value
        self._observer.trained(
            merchant,
            configuration.id,
            configuration.strategy,
            outcome,
            time.monotonic() - began,
        )

    async def _valued(self, merchant: MerchantId) -> set[str]:
        """The configurations whose scores a pod with an objective wants to know the worth of."""
        known = None if self._published is None else await self._published.load(merchant)
        if known is None:
            return set()
        return {id_ for pod in known.pods.values() if pod.objective for id_ in pod.chain}

    async def _choose(
        self, merchant: MerchantId, ids: Sequence[str]
    ) -> Sequence[StrategyConfiguration]:
        known = {one.id: one for one in await self._configurations.all(merchant)}
        missing = [name for name in ids if name not in known]
        if missing:
            raise NotFound(
                f"there is no strategy configuration {missing[0]!r}; there are: "
                + (", ".join(sorted(known)) or "none")
            )
        return [known[name] for name in dict.fromkeys(ids)] if ids else list(known.values())

    def _ready(self, configuration: StrategyConfiguration) -> InstalledStrategy:
        strategy = self._strategies.get(configuration.strategy)
        if strategy is None:
            raise InvalidInput(f"strategy {configuration.strategy!r} is not installed")
        strategy.configuration(configuration.config)  # also: it is not broken
        return strategy

    async def _one(
        self,
        merchant: MerchantId,
        configuration: StrategyConfiguration,
        strategy: InstalledStrategy,
        prepared: PreparedFit,
        actor: str,
        publish: bool,
        seed: int,
        *,
        calibrate: bool,
        incremental: bool,
    ) -> ModelVersion:
        serving = await self._versions.serving(merchant, configuration.id)
        counts = f"{quote(merchant, safe='')}/{configuration.id}" if incremental else None
        staged = await prepared.fit(
            configuration, strategy, seed, serving, calibrate=calibrate, counts=counts
        )
        version = await self._keep(merchant, staged, actor)
        if not publish:
            return version
        if staged.verdict is not None and not staged.verdict.passed:
            log.warning(
                "model_kept_back",
                merchant=merchant,
                configuration=configuration.id,
                number=version.number,
                reason=staged.verdict.reason,
            )
            return version
        return await self._publish(merchant, version, actor)

    async def _keep(self, merchant: MerchantId, staged: Staged, actor: str) -> ModelVersion:
        """Into the store, then into the table. A number that somebody else took, or that a crash
        between the two left without a row, is passed over."""
        configuration_id = staged.manifest.configuration_id
        number = await self._versions.next_number(merchant, configuration_id)
        while True:
            location = self._artefacts.location(merchant, configuration_id, number)
            try:
                await self._in_thread(self._artefacts.put, staged.directory, location)
                break
            except Conflict:
                number += 1
        return await self._versions.add(
            merchant,
            number=number,
            location=location,
            sha256=staged.sha256,
            manifest=staged.manifest,
            verdict=staged.verdict,
            actor=actor,
        )

    def _failed(
        self, merchant: MerchantId, configuration: StrategyConfiguration, error: VitrineError
    ) -> Trained:
        log.error(
            "training_failed",
            merchant=merchant,
            configuration=configuration.id,
            strategy=configuration.strategy,
            reason=error.message,
        )
        return Trained(configuration.id, error=error.message)


def _summary(version: ModelVersion) -> str:
    metrics: Mapping[str, float] = version.manifest.metrics
    verdict = version.verdict
    gate = "" if verdict is None else f"; gate: {verdict.reason}"
    return (
        f"{version.configuration_id}: version {version.number} {version.state}, "
        f"{metrics.get('items', 0):,.0f} items, {metrics.get('events', 0):,.0f} events, "
        f"{metrics.get('seconds', 0):.1f} s, {metrics.get('peak_mib', 0):,.0f} MiB{gate}"
    )
