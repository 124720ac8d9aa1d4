"""What merchants configure: pods and strategy configurations. Stated here are the stores that the
admin API needs, and checked here is what only the installed strategies can tell."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from app.domain.audit import AuditEntry
from app.domain.configuration import Versioned
from app.domain.errors import FieldError, InvalidInput
from app.domain.merchant import MerchantId
from app.domain.pod import Pod, RunMode, StrategyConfiguration
from app.domain.strategy import InstalledStrategy


class PodStore(Protocol):
    """`expected` are the versions that the author may have seen; None: any."""

    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[Versioned[Pod]]: ...

    async def get(self, merchant: MerchantId, pod_id: str) -> Versioned[Pod]: ...

    async def create(self, merchant: MerchantId, pod: Pod, actor: str) -> Versioned[Pod]: ...

    async def replace(
        self, merchant: MerchantId, pod: Pod, expected: frozenset[int] | None, actor: str
    ) -> Versioned[Pod]: ...

    async def delete(
        self, merchant: MerchantId, pod_id: str, expected: frozenset[int] | None, actor: str
    ) -> None: ...


class StrategyConfigurationStore(Protocol):
    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[Versioned[StrategyConfiguration]]: ...

    async def get(
        self, merchant: MerchantId, configuration_id: str
    ) -> Versioned[StrategyConfiguration]: ...

    async def create(
        self, merchant: MerchantId, configuration: StrategyConfiguration, actor: str
    ) -> Versioned[StrategyConfiguration]: ...

    async def replace(
        self,
        merchant: MerchantId,
        configuration: StrategyConfiguration,
        expected: frozenset[int] | None,
        actor: str,
    ) -> Versioned[StrategyConfiguration]: ...

    async def delete(
        self,
        merchant: MerchantId,
        configuration_id: str,
        expected: frozenset[int] | None,
        actor: str,
    ) -> None: ...


class AuditLog(Protocol):
    async def page(
        self,
        merchant: MerchantId,
        *,
        before_id: int | None,
        limit: int,
        action: str | None = None,
        subject: str | None = None,
        actor: str | None = None,
    ) -> Sequence[AuditEntry]: ...


class InstalledStrategies(Protocol):
    def __iter__(self) -> Iterator[InstalledStrategy]: ...

    def get(self, name: str) -> InstalledStrategy | None: ...


class StrategyConfigurations:
    """Strategy configurations that the installed strategies accept.

    Args:
        modes: those that the runner of strategies knows.
    """

    def __init__(
        self,
        store: StrategyConfigurationStore,
        strategies: InstalledStrategies,
        modes: Collection[RunMode] = frozenset(RunMode),
    ) -> None:
        self._store = store
        self._strategies = strategies
        self._modes = modes

    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[Versioned[StrategyConfiguration]]:
        return await self._store.page(merchant, after=after, limit=limit)

    async def get(
        self, merchant: MerchantId, configuration_id: str
    ) -> Versioned[StrategyConfiguration]:
        return await self._store.get(merchant, configuration_id)

    async def create(
        self, merchant: MerchantId, configuration: StrategyConfiguration, actor: str
    ) -> Versioned[StrategyConfiguration]:
        """
        Raises:
            InvalidInput: the strategy is unknown or broken, or refuses the config.
            Conflict: there is a configuration of that id.
        """
        return await self._store.create(merchant, self._complete(configuration), actor)

    async def replace(
        self,
        merchant: MerchantId,
        configuration: StrategyConfiguration,
        expected: frozenset[int] | None,
        actor: str,
    ) -> Versioned[StrategyConfiguration]:
        """
        Raises:
            InvalidInput: the strategy is unknown or broken, or refuses the config; or another
                strategy or section is named than before.
            NotFound: there is no such configuration.
            PreconditionFailed: it has another version than those expected.
        """
        return await self._store.replace(merchant, self._complete(configuration), expected, actor)

    async def delete(
        self,
        merchant: MerchantId,
        configuration_id: str,
        expected: frozenset[int] | None,
        actor: str,
    ) -> None:
        """
        Raises:
            Conflict: a pod's chain names it.
        """
        await self._store.delete(merchant, configuration_id, expected, actor)

    def _complete(self, configuration: StrategyConfiguration) -> StrategyConfiguration:
        """With the strategy's defaults written out: what is kept stays what it is when a later
        version of the strategy has other defaults."""
        strategy = self._strategies.get(configuration.strategy)
        if strategy is None:
            known = ", ".join(one.name for one in self._strategies) or "none"
            raise InvalidInput.field(
                "/strategy",
                f"no strategy {configuration.strategy!r} is installed; there are: {known}",
            )
        if strategy.strategy is None:
            detail = f"{strategy.name!r} is installed but broken: {strategy.reason}"
            raise InvalidInput("/strategy: " + detail, (FieldError("/strategy", detail),))
        if configuration.mode not in self._modes:
            modes = ", ".join(sorted(self._modes))
            raise InvalidInput.field(
                "/mode", f"{configuration.mode.value!r} is not available; there are: {modes}"
            )
        config: Mapping[str, object] = msgspec.to_builtins(
            strategy.configuration(configuration.config)
        )
        return msgspec.structs.replace(configuration, config=dict(config))
