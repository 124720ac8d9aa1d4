"""The catalogue in PostgreSQL, read: pages for its owner, and single moments for projecting it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.catalogue import (
    Item,
    ItemFeatures,
    ItemGroup,
    ItemId,
    Section,
    Variation,
)
from app.domain.item_features import GroupTree, features
from app.domain.merchant import MerchantId
from app.postgres.database import Database, raw
from app.postgres.tables import item, item_group, section, variation

_ROWS_AT_ONCE: Final = 1000  # fewer would go to Redis one by one: see its buckets
_ROWS_FETCHED: Final = 100  # their JSON is decoded before requests run again: 1 to 2 ms
_FEATURES_AT_ONCE: Final = 50  # made between two requests: 1 to 2 ms


_ITEMS: Final = """
SELECT id, name, suggested_score, data, version, deleted,
       date_part('epoch', created_at)::bigint AS created
  FROM item
 WHERE merchant_id = $1 AND section = $2
"""
_VARIATIONS: Final = """
SELECT id, item_id, name, suggested_score, data
  FROM variation
 WHERE merchant_id = $1 AND section = $2 AND item_id = ANY($3) AND NOT deleted
 ORDER BY item_id, id
"""


class Catalogue:
    """
    Raises (every method):
        Unavailable: PostgreSQL is away.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def versions(self) -> Mapping[tuple[MerchantId, Section], int]:
        """The catalogue version of every section of every merchant."""
        rows = await self._database.poll(
            "SELECT merchant_id, section, version FROM catalogue_versions()"
        )
        return {(MerchantId(r[0]), Section(r[1])): r[2] for r in rows}

    async def version(self, merchant: MerchantId, of: Section) -> int:
        """The catalogue version of a section; 0 where nothing was ever written."""
        query = sa.select(section.c.catalogue_version).where(
            section.c.merchant_id == merchant, section.c.name == of
        )
        async with self._database.merchant(merchant) as connection:
            return (await connection.execute(query)).scalar() or 0

    async def items(
        self,
        merchant: MerchantId,
        of: Section,
        *,
        limit: int,
        offset: int = 0,
        after: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> tuple[list[Item], int]:
        """A page of items by id, and how many there are in all.

        Args:
            limit: how many, after the first `offset`, or after the one with the id `after`.
        """
        rows, total = await self._page(merchant, of, item, (limit, offset, after), ids)
        return [
            Item(
                id=ItemId(row["id"]),
                name=row["name"],
                suggested_score=row["suggested_score"],
                data=row["data"],
                updated_at=row["updated_at"].timestamp(),
            )
            for row in rows
        ], total

    async def variations(
        self,
        merchant: MerchantId,
        of: Section,
        *,
        limit: int,
        offset: int = 0,
        after: str | None = None,
        ids: Sequence[str] | None = None,
        item_id: str | None = None,
    ) -> tuple[list[Variation], int]:
        """A page of variations by id (of one item, where that is said), and how many in all."""
        rows, total = await self._page(
            merchant, of, variation, (limit, offset, after), ids, item_id
        )
        return [
            Variation(
                id=row["id"],
                item_id=ItemId(row["item_id"]),
                name=row["name"] or None,
                suggested_score=row["suggested_score"],
                data=row["data"],
                updated_at=row["updated_at"].timestamp(),
            )
            for row in rows
        ], total

    async def groups(self, merchant: MerchantId, of: Section) -> list[ItemGroup]:
        """All item groups of a section, by id."""
        query = (
            sa.select(item_group)
            .where(
                item_group.c.merchant_id == merchant,
                item_group.c.section == of,
                ~item_group.c.deleted,
            )
            .order_by(item_group.c.id)
        )
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [
            ItemGroup(id=row["id"], name=row["name"], parent_id=row["parent_id"], data=row["data"])
            for row in rows
        ]

    @asynccontextmanager
    async def snapshot(self, merchant: MerchantId, of: Section) -> AsyncIterator[CatalogueSnapshot]:
        """A section at one moment, however long it is read."""
        async with self._database.merchant(
            merchant, statement_timeout=0, snapshot=True
        ) as connection:
            driver = await raw(connection)
            version = await driver.fetchval(
                "SELECT catalogue_version FROM section WHERE merchant_id = $1 AND name = $2",
                merchant,
                of,
            )
            yield CatalogueSnapshot(driver, merchant, of, version or 0)

    async def _page(
        self,
        merchant: MerchantId,
        of: Section,
        table: sa.Table,
        page: tuple[int, int, str | None],
        ids: Sequence[str] | None,
        item_id: str | None = None,
    ) -> tuple[Sequence[Mapping[str, Any]], int]:
        which = [table.c.merchant_id == merchant, table.c.section == of, ~table.c.deleted]
        if ids is not None:
            which.append(table.c.id.in_(ids))
        if item_id is not None:
            which.append(table.c.item_id == item_id)
        query = sa.select(table).where(*which).order_by(table.c.id)
        limit, offset, after = page
        if after is not None:
            query = query.where(table.c.id > after)
        query = query.limit(limit).offset(offset)
        async with self._database.merchant(merchant) as connection:
            rows: Sequence[Any] = (await connection.execute(query)).mappings().all()
            total = await _count(connection, table, which)
        return rows, total


class CatalogueSnapshot:
    """Implements `app.services.catalogue_sync.Snapshot` within a transaction."""

    def __init__(
        self, driver: asyncpg.Connection, merchant: MerchantId, of: Section, version: int
    ) -> None:
        self.version = version
        self._driver = driver
        self._scope = (merchant, of)
        self._tree: GroupTree | None = None

    async def changes(self, since: int) -> AsyncIterator[tuple[list[ItemFeatures], list[ItemId]]]:
        query = f"{_ITEMS} AND version > $3" if since else f"{_ITEMS} AND NOT deleted"
        arguments = (*self._scope, since) if since else self._scope
        async for rows in self._parts(query, *arguments):
            there = [row for row in rows if not row["deleted"]]
            gone = [ItemId(row["id"]) for row in rows if row["deleted"]]
            yield await self._features(there), gone

    async def count(self) -> int:
        found: int = await self._driver.fetchval(
            "SELECT count(*) FROM item WHERE merchant_id = $1 AND section = $2 AND NOT deleted",
            *self._scope,
        )
        return found

    async def versions(self) -> AsyncIterator[list[tuple[ItemId, int]]]:
        query = (
            "SELECT id, version FROM item WHERE merchant_id = $1 AND section = $2 AND NOT deleted"
        )
        async for rows in self._parts(query, *self._scope):
            yield [(ItemId(row["id"]), row["version"]) for row in rows]

    async def features(self, ids: Sequence[str]) -> list[ItemFeatures]:
        rows = await self._driver.fetch(
            f"{_ITEMS} AND NOT deleted AND id = ANY($3)", *self._scope, list(ids)
        )
        return await self._features(rows)

    async def _parts(self, query: str, *arguments: Any) -> AsyncIterator[list[Any]]:
        cursor = await self._driver.cursor(query, *arguments)
        rows: list[Any] = []
        while some := await cursor.fetch(_ROWS_FETCHED):
            rows += some
            if len(rows) >= _ROWS_AT_ONCE:
                yield rows
                rows = []
        if rows:
            yield rows

    async def _features(self, rows: Sequence[Any]) -> list[ItemFeatures]:
        if not rows:
            return []
        if self._tree is None:
            groups = await self._driver.fetch(
                "SELECT id, parent_id FROM item_group"
                " WHERE merchant_id = $1 AND section = $2 AND NOT deleted",
                *self._scope,
            )
            self._tree = GroupTree({row["id"]: row["parent_id"] for row in groups})
        variations: dict[str, list[Variation]] = {}
        for row in await self._driver.fetch(_VARIATIONS, *self._scope, [r["id"] for r in rows]):
            variations.setdefault(row["item_id"], []).append(
                Variation(
                    id=row["id"],
                    item_id=ItemId(row["item_id"]),
                    name=row["name"] or None,
                    suggested_score=row["suggested_score"],
                    data=row["data"],
                )
            )
        found = []
        for number, row in enumerate(rows, start=1):
            found.append(
                features(
                    Item(
                        id=ItemId(row["id"]),
                        name=row["name"],
                        suggested_score=row["suggested_score"],
                        data=row["data"],
                    ),
                    variations.get(row["id"], ()),
                    self._tree,
                    version=row["version"],
                    created=row["created"],
                )
            )
            if not number % _FEATURES_AT_ONCE:
                await asyncio.sleep(0)
        return found


async def _count(connection: AsyncConnection, table: sa.Table, which: Sequence[Any]) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(*which)
    return int((await connection.execute(query)).scalar_one())
