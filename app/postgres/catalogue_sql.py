"""The statements that merge staged rows into the catalogue, one set a kind of record.

They are made from the fixed names below, never from input: $1 is the merchant, $2 the section, $3
the version that is being made. In all of them `t` is a row of the catalogue, `s` a staged one.
"""
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.catalogue import MAX_DATA_BYTES, Kind

MAX_REFUSALS: Final = 1_000
"""Refused rows that are told one by one; the others are counted."""

STAGED: Final[tuple[sa.Column[Any], ...]] = (
    sa.Column("place", sa.BigInteger),
    sa.Column("file", sa.Text),
    sa.Column("line", sa.BigInteger),
    sa.Column("id", sa.Text),
    sa.Column("name", sa.Text),
    sa.Column("suggested_score", sa.Double),
    sa.Column("parent", sa.Text),
    sa.Column("has_parent", sa.Boolean),
    sa.Column("data", pg.JSONB),
    sa.Column("removed", pg.ARRAY(sa.Text)),
    sa.Column("rejected", sa.Boolean),
)

_MINE: Final = "t.merchant_id = $1 AND t.section = $2"
_LIVE: Final = f"{_MINE} AND NOT t.deleted"
_PATCHED_DATA: Final = "(t.data || s.data) - s.removed"
_TOUCHED: Final = f"UPDATE item t SET version = $3, updated_at = now() WHERE {_LIVE}"

MAKE_SECTION: Final = (
    "INSERT INTO section (merchant_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING"
)
LOCK_SECTION: Final = (
    "SELECT catalogue_version FROM section WHERE merchant_id = $1 AND name = $2 FOR UPDATE"
)
SET_VERSION: Final = (
    "UPDATE section SET catalogue_version = $3 WHERE merchant_id = $1 AND name = $2"
)
GROUP_PARENTS: Final = f"SELECT id, parent_id FROM item_group t WHERE {_LIVE}"

VARIATIONS_OF_DELETED_ITEMS: Final = f"""
UPDATE variation t SET deleted = true, data = '{{}}', version = $3, updated_at = now()
 WHERE {_LIVE} AND t.item_id IN (
       SELECT i.id FROM item i
        WHERE i.merchant_id = $1 AND i.section = $2 AND i.deleted AND i.version = $3)
"""
ITEMS_OF_CHANGED_VARIATIONS: Final = f"""
{_TOUCHED} AND t.version < $3 AND t.id IN (
       SELECT v.item_id FROM variation v
        WHERE v.merchant_id = $1 AND v.section = $2 AND v.version = $3)
"""
ITEMS_THAT_VARIATIONS_LEAVE: Final = f"""
{_TOUCHED} AND t.id IN (
       SELECT v.item_id FROM variation v
         JOIN staged_variation s ON s.id = v.id AND NOT s.rejected
        WHERE v.merchant_id = $1 AND v.section = $2 AND NOT v.deleted AND s.parent <> v.item_id)
"""
ITEMS_OF_GROUPS: Final = (
    f"UPDATE item t SET version = $3 WHERE {_LIVE} AND t.data -> 'group_ids' ?| $4"
)


@dataclass(frozen=True, slots=True)
class Statements:
    """What is done with one kind of record."""

    noun: str
    staged: str  # name of the table of staged rows
    given: str  # how many staged rows count
    there: str  # how many of those are in the catalogue
    put: str  # write them whole -> (created, updated)
    add: str  # the same with those that are not there
    patch: str
    delete: str
    delete_others: str
    delete_all: str
    doomed: str  # (how many are not staged, how many there are)
    # Places of staged rows that cannot be merged:
    repeated: str
    missing: str  # of a patch
    unnamed: str  # missing, and not enough is said to make it
    grown: str  # of a patch: too much data with what is there
    orphaned: str | None  # the parent is not there
    orphaned_of_all: str | None  # the parent is not among those staged

    def set_aside(self, places: str) -> str:
        """Marks the rows that one of the queries above finds, and tells the first of them."""
        return f"""
WITH refused AS (
    UPDATE {self.staged} u SET rejected = true WHERE u.place IN ({places})
    RETURNING u.place, u.file, u.line, u.id, u.parent
)
SELECT *, count(*) OVER () AS total FROM refused ORDER BY place LIMIT {MAX_REFUSALS}
"""


def _statements(
    table: str, noun: str, columns: Mapping[str, tuple[str, str]], parent_table: str | None
) -> Statements:
    """`columns`: for each own column (data aside) its value when put, and when patched."""
    staged = f"staged_{table}"
    counting = f"FROM {staged} s WHERE NOT s.rejected"
    is_there = f"EXISTS (SELECT FROM {table} t WHERE t.id = s.id AND {_LIVE})"
    missing = f"SELECT s.place {counting} AND NOT {is_there}"
    parent_is_staged = f"EXISTS (SELECT FROM {staged} p WHERE p.id = s.parent AND NOT p.rejected)"
    parent_is_there = f"EXISTS (SELECT FROM {parent_table} t WHERE t.id = s.parent AND {_LIVE})"
    orphaned = f"SELECT s.place {counting} AND s.parent IS NOT NULL AND NOT {parent_is_there}"
    own = ", ".join(columns)
    old = ", ".join(f"t.{name}" for name in columns)
    new = ", ".join(f"excluded.{name}" for name in columns)
    patched = ", ".join(patch for _, patch in columns.values())
    tombstone = (
        f"UPDATE {table} t SET deleted = true, data = '{{}}', version = $3, updated_at = now()"
    )

    def put(which: str) -> str:
        return f"""
WITH written AS (
    INSERT INTO {table} AS t (merchant_id, section, id, {own}, data, version, deleted)
    SELECT $1, $2, s.id, {", ".join(value for value, _ in columns.values())}, s.data, $3, false
      {counting} {which}
    ON CONFLICT (merchant_id, section, id) DO UPDATE
       SET {", ".join(f"{name} = excluded.{name}" for name in columns)}, data = excluded.data,
           version = excluded.version, deleted = false, updated_at = now(),
           created_at = CASE WHEN t.deleted THEN now() ELSE t.created_at END
     WHERE t.deleted OR ({old}, t.data) IS DISTINCT FROM ({new}, excluded.data)
    RETURNING t.created_at = now() AS made
)
SELECT count(*) FILTER (WHERE made), count(*) FILTER (WHERE NOT made) FROM written
"""

    return Statements(
        noun=noun,
        staged=staged,
        given=f"SELECT count(*) {counting}",
        there=f"SELECT count(*) {counting} AND {is_there}",
        put=put(""),
        add=put(f"AND NOT {is_there}"),
        patch=f"""
UPDATE {table} t
   SET {", ".join(f"{name} = {patch}" for name, (_, patch) in columns.items())},
       data = {_PATCHED_DATA}, version = $3, updated_at = now()
  FROM {staged} s
 WHERE {_LIVE} AND t.id = s.id AND NOT s.rejected
   AND ({old}, t.data) IS DISTINCT FROM ({patched}, {_PATCHED_DATA})
""",
        delete=f"{tombstone} WHERE {_LIVE} AND t.id IN (SELECT s.id {counting})",
        delete_others=(
            f"{tombstone} WHERE {_LIVE} AND NOT EXISTS (SELECT FROM {staged} s WHERE s.id = t.id)"
        ),
        delete_all=f"{tombstone} WHERE {_LIVE}",
        doomed=(
            f"SELECT count(*) FILTER (WHERE s.id IS NULL), count(*) FROM {table} t"
            f" LEFT JOIN (SELECT DISTINCT id FROM {staged}) s ON s.id = t.id WHERE {_LIVE}"
        ),
        repeated=(
            f"SELECT place FROM (SELECT s.place, row_number() OVER (PARTITION BY s.id"
            f" ORDER BY s.place) AS number {counting}) numbered WHERE number > 1"
        ),
        missing=missing,
        unnamed=f"{missing} AND s.{'name' if table != 'variation' else 'parent'} IS NULL",
        # The first size is quickly read and never more than the second, which has spaces.
        grown=(
            f"SELECT s.place FROM {staged} s JOIN {table} t ON t.id = s.id AND {_LIVE}"
            f" WHERE NOT s.rejected"
            f" AND pg_column_size(t.data) + pg_column_size(s.data) > {MAX_DATA_BYTES // 100}"
            f" AND octet_length(({_PATCHED_DATA})::text) > {MAX_DATA_BYTES * 5 // 4}"
        ),
        orphaned=(
            None
            if parent_table is None
            else orphaned + (f" AND NOT {parent_is_staged}" if parent_table == table else "")
        ),
        orphaned_of_all=(
            None
            if parent_table != table
            else f"SELECT s.place {counting} AND s.parent IS NOT NULL AND NOT {parent_is_staged}"
        ),
    )


STATEMENTS: Final[Mapping[Kind, Statements]] = {
    Kind.ITEMS: _statements(
        "item",
        "item",
        {
            "name": ("s.name", "coalesce(s.name, t.name)"),
            "suggested_score": (
                "s.suggested_score",
                "coalesce(s.suggested_score, t.suggested_score)",
            ),
        },
        None,
    ),
    Kind.VARIATIONS: _statements(
        "variation",
        "variation",
        {
            "name": ("coalesce(s.name, '')", "coalesce(s.name, t.name)"),
            "suggested_score": (
                "s.suggested_score",
                "coalesce(s.suggested_score, t.suggested_score)",
            ),
            "item_id": ("s.parent", "coalesce(s.parent, t.item_id)"),
        },
        "item",
    ),
    Kind.ITEM_GROUPS: _statements(
        "item_group",
        "item group",
        {
            "name": ("s.name", "coalesce(s.name, t.name)"),
            "parent_id": ("s.parent", "CASE WHEN s.has_parent THEN s.parent ELSE t.parent_id END"),
        },
        "item_group",
    ),
}
