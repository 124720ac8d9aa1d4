"""Strategy configurations: what is fitted, and what pods' chains name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.configuration import Versioned
from app.domain.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from app.domain.merchant import MerchantId
from app.domain.pod import StrategyConfiguration
from app.postgres import audit
from app.postgres.configuration import editing
from app.postgres.database import Database
from app.postgres.tables import model_version, pod
from app.postgres.tables import strategy_configuration as table


class StrategyConfigurationStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self, merchant: MerchantId) -> Sequence[StrategyConfiguration]:
        query = sa.select(table).where(table.c.merchant_id == merchant).order_by(table.c.id)
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_configuration(row).value for row in rows]

    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[Versioned[StrategyConfiguration]]:
        """By id, those after `after`."""
        query = (
            sa.select(table)
            .where(table.c.merchant_id == merchant)
            .order_by(table.c.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(table.c.id > after)
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_configuration(row) for row in rows]

    async def get(
        self, merchant: MerchantId, configuration_id: str
    ) -> Versioned[StrategyConfiguration]:
        """
        Raises:
            NotFound: there is no such configuration.
        """
        async with self._database.merchant(merchant) as connection:
            return await _get(connection, merchant, configuration_id)

    async def create(
        self, merchant: MerchantId, configuration: StrategyConfiguration, actor: str
    ) -> Versioned[StrategyConfiguration]:
        """
        Raises:
            Conflict: there is one of that id.
        """
        async with editing(self._database, merchant) as connection:
            insert = (
                pg.insert(table)
                .values(merchant_id=merchant, **msgspec.to_builtins(configuration))
                .on_conflict_do_nothing()
                .returning(table)
            )
            row = (await connection.execute(insert)).mappings().one_or_none()
            if row is None:
                raise Conflict(
                    f"there is a strategy configuration {configuration.id!r} already: "
                    "change it with PUT"
                )
            await audit.record(
                connection,
                merchant,
                actor,
                "strategy_configuration.create",
                configuration.id,
                after=configuration,
            )
            return _configuration(row)

    async def replace(
        self,
        merchant: MerchantId,
        configuration: StrategyConfiguration,
        expected: frozenset[int] | None,
        actor: str,
    ) -> Versioned[StrategyConfiguration]:
        """The model that is published keeps serving, with the configuration that it was fitted
        with, until the next training.

        Args:
            expected: the versions that the author may have seen; None: any.

        Raises:
            NotFound: there is no such configuration.
            PreconditionFailed: it has another version.
            InvalidInput: strategy or section differ, which would orphan its models.
        """
        async with editing(self._database, merchant) as connection:
            before = await _expect(connection, merchant, configuration.id, expected)
            for name in ("strategy", "section"):
                old = getattr(before.value, name)
                if getattr(configuration, name) != old:
                    raise InvalidInput.field(
                        f"/{name}",
                        f"is {old!r} and cannot be changed, for the models that were fitted: "
                        "create another configuration",
                    )
            update = (
                sa.update(table)
                .where(table.c.merchant_id == merchant, table.c.id == configuration.id)
                .values(
                    config=configuration.config,
                    mode=configuration.mode.value,
                    version=table.c.version + 1,
                    updated_at=sa.func.now(),
                )
                .returning(table)
            )
            row = (await connection.execute(update)).mappings().one()
            await audit.record(
                connection,
                merchant,
                actor,
                "strategy_configuration.change",
                configuration.id,
                before=before.value,
                after=configuration,
            )
            return _configuration(row)

    async def delete(
        self,
        merchant: MerchantId,
        configuration_id: str,
        expected: frozenset[int] | None,
        actor: str,
    ) -> None:
        """Its model versions go with it; their artefacts at the next clearing.

        Raises:
            NotFound: there is no such configuration.
            PreconditionFailed: it has another version.
            Conflict: a pod's chain names it.
        """
        async with editing(self._database, merchant) as connection:
            before = await _expect(connection, merchant, configuration_id, expected)
            users = await connection.scalars(
                sa.select(pod.c.id)
                .where(
                    pod.c.merchant_id == merchant,
                    pod.c.definition["chain"].has_key(configuration_id),
                )
                .order_by(pod.c.id)
            )
            if named := list(users):
                raise Conflict(
                    f"strategy configuration {configuration_id!r} is in the chain of "
                    f"{', '.join(named)}: take it out there first"
                )
            for owned, column in ((model_version, "configuration_id"), (table, "id")):
                await connection.execute(
                    sa.delete(owned).where(
                        owned.c.merchant_id == merchant, owned.c[column] == configuration_id
                    )
                )
            await audit.record(
                connection,
                merchant,
                actor,
                "strategy_configuration.delete",
                configuration_id,
                before=before.value,
            )


async def _get(
    connection: AsyncConnection, merchant: MerchantId, configuration_id: str
) -> Versioned[StrategyConfiguration]:
    query = sa.select(table).where(table.c.merchant_id == merchant, table.c.id == configuration_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no strategy configuration {configuration_id!r}")
    return _configuration(row)


async def _expect(
    connection: AsyncConnection,
    merchant: MerchantId,
    configuration_id: str,
    expected: frozenset[int] | None,
) -> Versioned[StrategyConfiguration]:
    found = await _get(connection, merchant, configuration_id)
    if expected is not None and found.version not in expected:
        raise PreconditionFailed(
            f"strategy configuration {configuration_id!r} was changed meanwhile: read it again "
            "and repeat the change"
        )
    return found


def _configuration(row: Any) -> Versioned[StrategyConfiguration]:
    return Versioned(
        value=msgspec.convert(
            {name: row[name] for name in ("id", "strategy", "section", "config", "mode")},
            StrategyConfiguration,
        ),
        version=row["version"],
        created_at=row["created_at"].timestamp(),
        updated_at=row["updated_at"].timestamp(),
    )
