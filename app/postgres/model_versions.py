"""Model versions: which artefacts there are, and which of them serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import Conflict, NotFound
from app.domain.gate import Verdict
from app.domain.merchant import MerchantId
from app.domain.model import Manifest, ModelState, ModelVersion
from app.domain.webhook import WebhookEvent
from app.postgres import audit
from app.postgres.configuration import editing
from app.postgres.database import Database
from app.postgres.tables import model_version as table
from app.postgres.webhooks import announce


class ModelVersionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def serving(self, merchant: MerchantId, configuration_id: str) -> ModelVersion | None:
        """The published version, if there is one."""
        query = sa.select(table).where(
            table.c.merchant_id == merchant,
            table.c.configuration_id == configuration_id,
            table.c.state == ModelState.PUBLISHED.value,
        )
        async with self._database.merchant(merchant) as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else _version(row)

    async def next_number(self, merchant: MerchantId, configuration_id: str) -> int:
        query = sa.select(sa.func.coalesce(sa.func.max(table.c.number), 0) + 1).where(
            table.c.merchant_id == merchant, table.c.configuration_id == configuration_id
        )
        async with self._database.merchant(merchant) as connection:
            return int(await connection.scalar(query) or 1)

    async def add(
        self,
        merchant: MerchantId,
        *,
        number: int,
        location: str,
        sha256: str,
        manifest: Manifest,
        verdict: Verdict | None = None,
        actor: str,
    ) -> ModelVersion:
        """A fitted version; nothing serves it yet.

        Raises:
            Conflict: the number is taken.
        """
        values = {
            "merchant_id": merchant,
            "configuration_id": manifest.configuration_id,
            "section": manifest.section,
            "number": number,
            "state": ModelState.FITTED.value,
            "location": location,
            # The manifest's own checksum lies beside it: it cannot be within.
            "manifest": {**msgspec.to_builtins(manifest), "sha256": sha256},
            "metrics": {} if verdict is None else {"gate": msgspec.to_builtins(verdict)},
        }
        insert = pg.insert(table).values(values).on_conflict_do_nothing().returning(table)
        async with self._database.merchant(merchant) as connection:
            row = (await connection.execute(insert)).mappings().one_or_none()
            if row is None:
                raise Conflict(f"model version {number} exists already")
            version = _version(row)
            await audit.record(
                connection,
                merchant,
                actor,
                "model.fit",
                _subject(version),
                after={"metrics": manifest.metrics, "gate": verdict},
            )
            return version

    async def page(
        self,
        merchant: MerchantId,
        *,
        configuration_id: str | None = None,
        before_id: int | None = None,
        limit: int,
    ) -> Sequence[ModelVersion]:
        """Newest first, those with an id below `before_id`."""
        query = (
            sa.select(table)
            .where(table.c.merchant_id == merchant)
            .order_by(table.c.id.desc())
            .limit(limit)
        )
        if configuration_id is not None:
            query = query.where(table.c.configuration_id == configuration_id)
        if before_id is not None:
            query = query.where(table.c.id < before_id)
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_version(row) for row in rows]

    async def get(self, merchant: MerchantId, version_id: int) -> ModelVersion:
        """
        Raises:
            NotFound: there is no such version.
        """
        async with self._database.merchant(merchant) as connection:
            return await _one(connection, merchant, table.c.id == version_id, str(version_id))

    async def find(self, merchant: MerchantId, configuration_id: str, number: int) -> ModelVersion:
        """
        Raises:
            NotFound: there is no such version.
        """
        async with self._database.merchant(merchant) as connection:
            return await _one(
                connection,
                merchant,
                sa.and_(table.c.configuration_id == configuration_id, table.c.number == number),
                f"{number} of {configuration_id!r}",
            )

    async def before(self, merchant: MerchantId, configuration_id: str) -> ModelVersion:
        """The version that served before the one that serves now.

        Raises:
            NotFound: none serves, or none served before it.
        """
        published = (
            sa.select(table.c.number)
            .where(
                table.c.merchant_id == merchant,
                table.c.configuration_id == configuration_id,
                table.c.state == ModelState.PUBLISHED.value,
            )
            .scalar_subquery()
        )
        query = (
            sa.select(table)
            .where(
                table.c.merchant_id == merchant,
                table.c.configuration_id == configuration_id,
                table.c.state == ModelState.RETIRED.value,
                table.c.number < published,
            )
            .order_by(table.c.number.desc())
            .limit(1)
        )
        async with self._database.merchant(merchant) as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound(
                f"strategy configuration {configuration_id!r} has no version before the one that "
                "serves"
            )
        return _version(row)

    async def publish(
        self,
        merchant: MerchantId,
        version_id: int,
        *,
        actor: str,
        action: str,
        instead_of: int | None = None,
    ) -> ModelVersion:
        """Let a version serve in place of the one that does, in one step for every process.

        Args:
            action: for the audit log: "model.publish" or "model.rollback".
            instead_of: id of the version that must be serving; None: whichever is.

        Raises:
            NotFound: there is no such version.
            Conflict: another version than `instead_of` serves.
        """
        async with editing(self._database, merchant) as connection:
            version = await _one(connection, merchant, table.c.id == version_id, str(version_id))
            retire = (
                sa.update(table)
                .where(
                    table.c.merchant_id == merchant,
                    table.c.configuration_id == version.configuration_id,
                    table.c.state == ModelState.PUBLISHED.value,
                )
                .values(state=ModelState.RETIRED.value)
                .returning(table.c.id, table.c.number)
            )
            retired = (await connection.execute(retire)).one_or_none()
            if instead_of is not None and (retired is None or retired.id != instead_of):
                raise Conflict("another version was published meanwhile: look again")
            update = (
                sa.update(table)
                .where(table.c.merchant_id == merchant, table.c.id == version_id)
                .values(state=ModelState.PUBLISHED.value, published_at=sa.func.now())
                .returning(table)
            )
            row = (await connection.execute(update)).mappings().one()
            await audit.record(
                connection,
                merchant,
                actor,
                action,
                _subject(version),
                before=None if retired is None else {"number": retired.number},
                after={"number": version.number},
            )
            await announce(
                connection,
                merchant,
                WebhookEvent.MODEL_PUBLISHED,
                {
                    "id": version.id,
                    "configuration_id": version.configuration_id,
                    "number": version.number,
                    "instead_of": None if retired is None else retired.number,
                },
            )
            return _version(row)

    async def forget(self, merchant: MerchantId, keep: int) -> Sequence[ModelVersion]:
        """Delete the rows of old versions; these. Kept are, of each configuration, the one that
        serves, the `keep` newest, and the `keep` newest that a rollback could reach."""
        rank = (
            sa.func.row_number()
            .over(partition_by=table.c.configuration_id, order_by=table.c.number.desc())
            .label("rank")
        )
        served = (
            sa.func.row_number()
            .over(
                partition_by=[table.c.configuration_id, table.c.state],
                order_by=table.c.number.desc(),
            )
            .label("rank_in_state")
        )
        ranked = (
            sa.select(table.c.id, table.c.state, rank, served)
            .where(table.c.merchant_id == merchant)
            .subquery()
        )
        old = sa.select(ranked.c.id).where(
            ranked.c.rank > keep,
            sa.or_(
                ranked.c.state == ModelState.FITTED.value,
                sa.and_(ranked.c.state == ModelState.RETIRED.value, ranked.c.rank_in_state > keep),
            ),
        )
        delete = (
            sa.delete(table)
            .where(table.c.merchant_id == merchant, table.c.id.in_(old))
            .returning(table)
        )
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(delete)).mappings().all()
        return [_version(row) for row in rows]

    async def locations(self, merchant: MerchantId) -> frozenset[str]:
        """Where the artefacts of all versions lie."""
        query = sa.select(table.c.location).where(table.c.merchant_id == merchant)
        async with self._database.merchant(merchant) as connection:
            return frozenset(await connection.scalars(query))


async def _one(
    connection: AsyncConnection, merchant: MerchantId, which: sa.ColumnElement[bool], named: str
) -> ModelVersion:
    query = sa.select(table).where(table.c.merchant_id == merchant, which)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no model version {named}")
    return _version(row)


def _subject(version: ModelVersion) -> str:
    return f"{version.configuration_id}/{version.number}"


def _version(row: Any) -> ModelVersion:
    published = row["published_at"]
    return ModelVersion(
        id=row["id"],
        configuration_id=row["configuration_id"],
        section=row["section"],
        number=row["number"],
        state=ModelState(row["state"]),
        location=row["location"],
        sha256=row["manifest"]["sha256"],
        manifest=msgspec.convert(row["manifest"], Manifest),
        verdict=msgspec.convert(row["metrics"].get("gate"), Verdict | None),
        fitted_at=row["fitted_at"].timestamp(),
        published_at=None if published is None else published.timestamp(),
    )
