"""Opens published models: the artefact, verified, handed to the strategy that fitted it."""

from __future__ import annotations

import asyncio

from app.domain.configuration import PublishedModel
from app.domain.errors import Conflict
from app.domain.model import Manifest
from app.domain.pod import RunMode, StrategyConfiguration
from app.domain.strategy import InstalledStrategy
from app.plugins.artefact_files import (
    ITEMS_OFFSETS,
    ITEMS_UTF8,
    array_names,
    open_arrays,
    touch_pages,
)
from app.plugins.artefacts import ArtefactStore
from app.plugins.discovery import Strategies
from app.plugins.packed_strings import unpack_strings
from app.plugins.process_link import NotLoaded
from app.plugins.process_runner import StrategyProcesses
from app.services.serving import LoadedModel


class ArtefactModelLoader:
    """Implements `app.services.serving.ModelLoader`. Models of the mode `process` are loaded there,
    and not here.

    Args:
        processes: where these are started; None: they are refused.
    """

    def __init__(
        self,
        store: ArtefactStore,
        strategies: Strategies,
        processes: StrategyProcesses | None = None,
    ) -> None:
        self._store = store
        self._strategies = strategies
        self._processes = processes

    async def load(
        self, configuration: StrategyConfiguration, published: PublishedModel
    ) -> LoadedModel:
        """The model, with the config that it was fitted with: one that was changed since counts
        from the next training on.

        Raises:
            Conflict: it cannot be used, with the reason for the operator.
            InvalidInput: the strategy is broken, or refuses the config it was fitted with.
            Unavailable: a remote store is away.
        """
        if configuration.mode is RunMode.PROCESS:
            return await self._load_apart(configuration, published)
        return await asyncio.to_thread(self._load, configuration, published)

    def _load(self, configuration: StrategyConfiguration, published: PublishedModel) -> LoadedModel:
        named = _named(configuration, published)
        installed = self._installed(configuration, named)
        strategy = installed.usable()
        artefact = self._store.open(published.location, published.sha256)
        manifest = artefact.manifest
        _check(installed, manifest, named)
        config = installed.configuration(manifest.config)
        touch_pages(artefact.arrays)
        try:
            model = strategy.load(artefact.arrays, config, manifest.items)
            needs = strategy.needs(config)
        except Exception as error:  # whatever a plugin raises stays its own trouble
            raise Conflict(f"{named} cannot be loaded: {type(error).__name__}: {error}") from error
        return LoadedModel(
            model=model,
            needs=needs,
            reasons=tuple(strategy.reasons),
            item_ids=artefact.item_ids,
            watermark=manifest.watermark,
            calibration=manifest.calibration,
        )

    async def _load_apart(
        self, configuration: StrategyConfiguration, published: PublishedModel
    ) -> LoadedModel:
        named = _named(configuration, published)
        if self._processes is None:
            raise Conflict(f"{named}: this program starts no processes for strategies")
        installed = self._installed(configuration, named)
        directory, manifest = await asyncio.to_thread(
            self._store.verified, published.location, published.sha256
        )
        _check(installed, manifest, named)
        names = array_names(manifest)
        ids = open_arrays(directory, (ITEMS_UTF8, ITEMS_OFFSETS), published.location)
        item_ids = await asyncio.to_thread(unpack_strings, ids[ITEMS_UTF8], ids[ITEMS_OFFSETS])
        if len(item_ids) != manifest.items:
            raise Conflict(f"{named}: {len(item_ids)} ids for {manifest.items} items")
        store = self._store  # not this loader: a model's process must not keep what loaded it
        try:
            model, loaded = await self._processes.start(
                configuration.id,
                strategy=installed.name,
                config=manifest.config,
                locate=lambda: store.verified(published.location, published.sha256)[0],
                arrays=tuple(name for name in names if name not in (ITEMS_UTF8, ITEMS_OFFSETS)),
                items=manifest.items,
            )
        except NotLoaded as error:
            raise Conflict(f"{named} cannot be loaded: {error}") from None
        return LoadedModel(
            model=model,
            needs=loaded.needs,
            reasons=loaded.reasons,
            item_ids=item_ids,
            calibration=manifest.calibration,
        )

    def _installed(self, configuration: StrategyConfiguration, named: str) -> InstalledStrategy:
        installed = self._strategies.get(configuration.strategy)
        if installed is None:
            raise Conflict(f"{named}: strategy {configuration.strategy!r} is not installed")
        return installed


def _named(configuration: StrategyConfiguration, published: PublishedModel) -> str:
    return f"model version {published.number} of {configuration.id!r}"


def _check(installed: InstalledStrategy, manifest: Manifest, named: str) -> None:
    if manifest.strategy != installed.name:
        raise Conflict(f"{named} was fitted by {manifest.strategy!r}: train again")
    if manifest.format != installed.format:
        raise Conflict(
            f"{named} has format {manifest.format}, and {installed.distribution} "
            f"{installed.version} reads {installed.format}: train again"
        )
