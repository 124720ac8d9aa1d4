"""Opens published models: the artefact, verified, handed to the strategy that fitted it."""

from __future__ import annotations

import asyncio

from app.domain.configuration import PublishedModel
from app.domain.errors import Conflict
from app.domain.pod import StrategyConfiguration
from app.plugins.artefacts import ArtefactStore
from app.plugins.discovery import Strategies
from app.services.serving import LoadedModel


class ArtefactModelLoader:
    """Implements `app.services.serving.ModelLoader`."""

    def __init__(self, store: ArtefactStore, strategies: Strategies) -> None:
        self._store = store
        self._strategies = strategies

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
        return await asyncio.to_thread(self._load, configuration, published)

    def _load(self, configuration: StrategyConfiguration, published: PublishedModel) -> LoadedModel:
        named = f"model version {published.number} of {configuration.id!r}"
        installed = self._strategies.get(configuration.strategy)
        if installed is None:
            raise Conflict(f"{named}: strategy {configuration.strategy!r} is not installed")
        strategy = installed.usable()
        artefact = self._store.open(published.location, published.sha256)
        manifest = artefact.manifest
        if manifest.strategy != installed.name:
            raise Conflict(f"{named} was fitted by {manifest.strategy!r}: train again")
        if manifest.format != installed.format:
            raise Conflict(
                f"{named} has format {manifest.format}, and {installed.distribution} "
                f"{installed.version} reads {installed.format}: train again"
            )
        config = installed.configuration(manifest.config)
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
        )
