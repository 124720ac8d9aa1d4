"""What a merchant has published, read whole; and the lock and step that every change takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.configuration import MerchantConfiguration, PublishedModel
from app.domain.errors import NotFound
from app.domain.merchant import (
    Credential,
    Merchant,
    MerchantId,
    Role,
    StorefrontKey,
    TrackingSettings,
)
from app.domain.pod import Pod, StrategyConfiguration
from app.domain.rule import PublishedRules
from app.postgres.database import Database
from app.postgres.published_rules import PublishedRulesReader
from app.postgres.tables import merchant as merchant_table

log = structlog.get_logger(module=__name__)

_LOAD: Final = sa.text("""
SELECT m.name,
       m.settings,
       m.configuration_version AS version,
       (SELECT coalesce(jsonb_agg(jsonb_build_object(
                 'key', k.key, 'merchant', k.merchant_id, 'allowed_origins', k.allowed_origins
               ) ORDER BY k.key), '[]')
          FROM storefront_key k
         WHERE k.merchant_id = m.id AND k.revoked_at IS NULL) AS keys,
       (SELECT coalesce(jsonb_agg(jsonb_build_object(
                 'id', t.id, 'role', t.role, 'digest', encode(t.digest, 'hex'),
                 'expires_at', date_part('epoch', t.expires_at)
               ) ORDER BY t.id), '[]')
          FROM token t
         WHERE t.merchant_id = m.id AND t.revoked_at IS NULL
           AND (t.expires_at IS NULL OR t.expires_at > now())) AS tokens,
       (SELECT coalesce(jsonb_agg(p.definition ORDER BY p.id), '[]')
          FROM pod p WHERE p.merchant_id = m.id) AS pods,
       (SELECT coalesce(jsonb_agg(jsonb_build_object(
                 'id', s.id, 'strategy', s.strategy, 'section', s.section, 'config', s.config,
                 'mode', s.mode
               ) ORDER BY s.id), '[]')
          FROM strategy_configuration s WHERE s.merchant_id = m.id) AS strategies,
       (SELECT coalesce(jsonb_agg(jsonb_build_object(
                 'id', v.id, 'configuration_id', v.configuration_id, 'section', v.section,
                 'number', v.number, 'location', v.location,
                 'sha256', v.manifest ->> 'sha256'
               ) ORDER BY v.id), '[]')
          FROM model_version v
         WHERE v.merchant_id = m.id AND v.state = 'published') AS models
  FROM merchant m
 WHERE m.id = :merchant
""")


class ConfigurationReader:
    """The source of the serving processes' snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rules = PublishedRulesReader()

    async def versions(self) -> Mapping[MerchantId, int]:
        """Every merchant's current configuration version."""
        rows = await self._database.poll("SELECT id, configuration_version FROM merchant")
        return {MerchantId(id_): version for id_, version in rows}

    async def load(self, merchant: MerchantId) -> MerchantConfiguration | None:
        """All that the merchant has published, at one version; None: there is no such merchant."""
        # Of one moment: a publication is seen whole or not at all.
        async with self._database.merchant(merchant, snapshot=True) as connection:
            result = await connection.execute(_LOAD, {"merchant": merchant})
            row = result.mappings().one_or_none()
            if row is None:
                return None
            rules = await self._rules.read(connection, merchant)
        return _configuration(merchant, row, rules)


def _configuration(
    merchant: MerchantId, row: sa.RowMapping, rules: tuple[PublishedRules, ...]
) -> MerchantConfiguration:
    pods = [pod for one in row["pods"] if (pod := readable_pod(merchant, one)) is not None]
    strategies = msgspec.convert(row["strategies"], tuple[StrategyConfiguration, ...])
    models = msgspec.convert(row["models"], tuple[PublishedModel, ...])
    return MerchantConfiguration(
        merchant=Merchant(
            id=merchant,
            name=row["name"],
            configuration_version=row["version"],
            tracking=msgspec.convert(row["settings"].get("tracking", {}), TrackingSettings),
        ),
        keys=msgspec.convert(row["keys"], tuple[StorefrontKey, ...]),
        credentials=tuple(
            Credential(
                id=token["id"],
                merchant=merchant,
                role=Role(token["role"]),
                digest=bytes.fromhex(token["digest"]),
                expires_at=token["expires_at"],
            )
            for token in row["tokens"]
        ),
        pods={pod.id: pod for pod in pods},
        strategies={strategy.id: strategy for strategy in strategies},
        models={model.configuration_id: model for model in models},
        rules=rules,
    )


def stored_pod(definition: Mapping[str, Any]) -> Pod:
    """A pod as its row has it. What a later version of the program wrote beside what this one
    knows is left out: both may run at once during a deployment.

    Raises:
        msgspec.ValidationError: the rest is none that this version can serve.
    """
    known = Pod.__struct_fields__
    return msgspec.convert(
        {name: value for name, value in definition.items() if name in known}, Pod
    )


def readable_pod(merchant: MerchantId, definition: Mapping[str, Any]) -> Pod | None:
    """One pod that cannot be read must not hold up all that the merchant publishes."""
    try:
        return stored_pod(definition)
    except msgspec.ValidationError as error:
        log.error("pod_unreadable", merchant=merchant, pod=definition.get("id"), reason=str(error))
        return None


async def bump(connection: AsyncConnection, merchant: MerchantId) -> int:
    """Step the merchant's configuration version, within the transaction of the change; the new
    version. Its row stays locked until the end, so that one change of a merchant's configuration
    follows another.

    Raises:
        NotFound: there is no such merchant.
    """
    version: int | None = await connection.scalar(
        sa.update(merchant_table)
        .where(merchant_table.c.id == merchant)
        .values(configuration_version=merchant_table.c.configuration_version + 1)
        .returning(merchant_table.c.configuration_version)
    )
    if version is None:
        raise NotFound(f"there is no merchant {merchant!r}")
    return version


@asynccontextmanager
async def editing(database: Database, merchant: MerchantId) -> AsyncIterator[AsyncConnection]:
    """A transaction that changes the merchant's published configuration: the version is stepped,
    and other changes wait, so that what is checked within it stays true until it ends."""
    async with database.merchant(merchant) as connection:
        await bump(connection, merchant)
        yield connection
