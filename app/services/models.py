"""Model versions: publish, roll back, and clear away what nobody needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import structlog

from app.domain.merchant import MerchantId
from app.domain.model import ModelState, ModelVersion

log = structlog.get_logger(module=__name__)

_ORPHAN_SECONDS: Final = 24 * 3600  # an artefact without a row may be on its way to one


class ModelVersions(Protocol):
    async def page(
        self,
        merchant: MerchantId,
        *,
        configuration_id: str | None = None,
        before_id: int | None = None,
        limit: int,
    ) -> Sequence[ModelVersion]: ...

    async def get(self, merchant: MerchantId, version_id: int) -> ModelVersion: ...

    async def find(
        self, merchant: MerchantId, configuration_id: str, number: int
    ) -> ModelVersion: ...

    async def before(self, merchant: MerchantId, configuration_id: str) -> ModelVersion: ...

    async def publish(
        self,
        merchant: MerchantId,
        version_id: int,
        *,
        actor: str,
        action: str,
        instead_of: int | None = None,
    ) -> ModelVersion: ...

    async def forget(self, merchant: MerchantId, keep: int) -> Sequence[ModelVersion]: ...

    async def locations(self, merchant: MerchantId) -> frozenset[str]: ...


class Artefacts(Protocol):
    def check(self, location: str, sha256: str) -> None:
        """
        Raises:
            Conflict: it is missing, altered or unreadable.
        """
        ...

    def configurations(self, merchant: str) -> Sequence[str]: ...

    def locations(self, merchant: str, configuration_id: str) -> Mapping[int, str]: ...

    def age(self, location: str) -> float: ...

    def delete(self, location: str) -> None: ...

    def clear_abandoned(self) -> int: ...


class Models:
    """
    Args:
        keep: versions of a configuration that stay, beside the one that serves; at least 1, so
            that a rollback has somewhere to go.
    """

    def __init__(self, versions: ModelVersions, artefacts: Artefacts, *, keep: int = 5) -> None:
        self._versions = versions
        self._artefacts = artefacts
        self._keep = max(1, keep)

    async def page(
        self,
        merchant: MerchantId,
        *,
        configuration_id: str | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> Sequence[ModelVersion]:
        """Newest first, those with an id below `before_id`."""
        return await self._versions.page(
            merchant, configuration_id=configuration_id, before_id=before_id, limit=limit
        )

    async def get(self, merchant: MerchantId, version_id: int) -> ModelVersion:
        return await self._versions.get(merchant, version_id)

    async def publish(
        self, merchant: MerchantId, version: ModelVersion, actor: str
    ) -> ModelVersion:
        """Let a version serve, in every process. One that serves already stays.

        Raises:
            NotFound: there is no such version.
            Conflict: its artefact is missing, altered or unreadable.
        """
        if version.state is ModelState.PUBLISHED:
            return version
        await self._check(version)
        return await self._versions.publish(
            merchant, version.id, actor=actor, action="model.publish"
        )

    async def publish_number(
        self, merchant: MerchantId, configuration_id: str, number: int, actor: str
    ) -> ModelVersion:
        """The same, by the number that people see."""
        version = await self._versions.find(merchant, configuration_id, number)
        return await self.publish(merchant, version, actor)

    async def roll_back(
        self, merchant: MerchantId, configuration_id: str, actor: str
    ) -> ModelVersion:
        """Let the version serve that did before the present one.

        Raises:
            NotFound: there is none.
            Conflict: its artefact is missing, altered or unreadable.
        """
        version = await self._versions.before(merchant, configuration_id)
        await self._check(version)
        return await self._versions.publish(
            merchant, version.id, actor=actor, action="model.rollback"
        )

    async def _check(self, version: ModelVersion) -> None:
        """A version that no server could open is refused here, not found out by them."""
        await asyncio.to_thread(self._artefacts.check, version.location, version.sha256)

    async def clear_away(self, merchant: MerchantId) -> int:
        """Forget old versions and delete the artefacts that no version names; how many went."""
        forgotten = await self._versions.forget(merchant, self._keep)
        known = await self._versions.locations(merchant)
        count = await asyncio.to_thread(
            self._delete, merchant, [version.location for version in forgotten], known
        )
        if count:
            log.info("artefacts_deleted", merchant=merchant, count=count)
        return count

    def _delete(self, merchant: MerchantId, forgotten: Sequence[str], known: frozenset[str]) -> int:
        for location in forgotten:
            self._artefacts.delete(location)
        count = len(forgotten) + self._artefacts.clear_abandoned()
        for configuration_id in self._artefacts.configurations(merchant):
            for location in self._artefacts.locations(merchant, configuration_id).values():
                if location not in known and self._artefacts.age(location) > _ORPHAN_SECONDS:
                    self._artefacts.delete(location)
                    count += 1
        return count
