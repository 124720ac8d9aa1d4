"""A section's items as the columns that a fit learns from."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import msgspec
import numpy as np
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.catalogue import FacetValue, Item, ItemId, Section, Variation
from app.domain.item_features import GroupTree, features
from app.domain.merchant import MerchantId
from app.postgres.database import raw
from app.postgres.tables import item_group
from vitrine_sdk import Facet, Items

_ROWS_AT_ONCE: Final = 2000

# By id, so that equal catalogues give equal positions.
_ITEMS: Final = """
SELECT i.id, i.name, i.data, i.version, date_part('epoch', i.created_at)::bigint AS created,
       (SELECT jsonb_agg(jsonb_build_object('id', v.id, 'item_id', v.item_id, 'data', v.data)
                         ORDER BY v.id)
          FROM variation v
         WHERE v.merchant_id = i.merchant_id AND v.section = i.section AND v.item_id = i.id
           AND NOT v.deleted) AS variations
  FROM item i
 WHERE i.merchant_id = $1 AND i.section = $2 AND NOT i.deleted
 ORDER BY i.id COLLATE "C"
"""

# Attributes that have columns of their own.
_NO_FACETS: Final = frozenset({"group_id", "price"})


class _Coder:
    """Collects one attribute of the items, in the form of `vitrine_sdk.Facet`."""

    def __init__(self, before: int) -> None:
        """`before`: how many items came that have no value."""
        self._codes: dict[str, int] = {}
        self._taken = array("i")
        self._ends = array("q", [0]) * (before + 1)

    def add(self, values: Iterable[FacetValue]) -> None:
        codes = self._codes
        for value in values:
            text = value if isinstance(value, str) else _text(value)
            self._taken.append(codes.setdefault(text, len(codes)))
        self._ends.append(len(self._taken))

    def pad(self, items: int) -> None:
        """As many items as there are by now; those that came without a value have none."""
        if (missing := items + 1 - len(self._ends)) > 0:
            self._ends.extend(array("q", [len(self._taken)]) * missing)

    @property
    def tells_apart(self) -> bool:
        """Whether some items share a value, as they do by a facet and not by a name of their own
        (a URL, a code)."""
        return 2 * len(self._codes) <= len(self._taken)

    def facet(self, items: int) -> Facet:
        self.pad(items)
        return Facet(
            values=list(self._codes),
            offsets=np.array(self._ends, np.int64),
            codes=np.array(self._taken, np.int32),
        )


async def read_items(connection: AsyncConnection, merchant: MerchantId, section: Section) -> Items:
    """The section's items, a chunk at a time.

    `facets` has every attribute that filters see and that items share: an attribute whose values
    are mostly of one item alone is a name, not a facet, and is left out.
    """
    tree = await _tree(connection, merchant, section)
    ids: list[str] = []
    names: list[str] = []
    available, price, created = array("b"), array("f"), array("q")
    groups = _Coder(0)
    facets: dict[str, _Coder] = {}
    async for row in _rows(connection, merchant, section):
        variations = msgspec.convert(row["variations"] or (), tuple[Variation, ...])
        item = features(
            Item(id=ItemId(row["id"]), name=row["name"], data=row["data"]),
            variations,
            tree,
        )
        for name, values in item.attributes.items():
            if name not in _NO_FACETS:
                coder = facets.get(name)
                if coder is None:
                    coder = facets[name] = _Coder(len(ids))
                coder.pad(len(ids))
                coder.add(values)
        groups.add(item.attributes.get("group_id", ()))
        ids.append(item.id)
        names.append(item.name)
        available.append(item.available)
        price.append(float("nan") if item.price is None else item.price)
        created.append(row["created"])
    return Items(
        ids=ids,
        names=names,
        available=np.array(available, np.bool_),
        price=np.array(price, np.float32),
        created=np.array(created, np.int64),
        groups=groups.facet(len(ids)),
        facets={
            name: coder.facet(len(ids))
            for name, coder in sorted(facets.items())
            if coder.tells_apart
        },
    )


async def _rows(
    connection: AsyncConnection, merchant: MerchantId, section: Section
) -> AsyncIterator[Any]:
    driver = await raw(connection)
    cursor = await driver.cursor(_ITEMS, merchant, section)
    while rows := await cursor.fetch(_ROWS_AT_ONCE):
        for row in rows:
            yield row


async def _tree(connection: AsyncConnection, merchant: MerchantId, section: Section) -> GroupTree:
    query = sa.select(item_group.c.id, item_group.c.parent_id).where(
        item_group.c.merchant_id == merchant,
        item_group.c.section == section,
        sa.not_(item_group.c.deleted),
    )
    return GroupTree({row.id: row.parent_id for row in await connection.execute(query)})


def _text(value: float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if float(value).is_integer() else repr(value)
