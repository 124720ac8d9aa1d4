"""The demo shop's own catalogue: one SQLite file, made once, read by every server process."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

PAGE_SIZE: Final = 24
_MATCHES: Final = 2_400  # of a search, that are counted

_SCHEMA: Final = """
CREATE TABLE item (id TEXT PRIMARY KEY, rank INTEGER NOT NULL, name TEXT NOT NULL,
                   document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE item_group (id TEXT PRIMARY KEY, name TEXT NOT NULL, parent_id TEXT) WITHOUT ROWID;
CREATE TABLE membership (group_id TEXT NOT NULL, rank INTEGER NOT NULL, item_id TEXT NOT NULL,
                         PRIMARY KEY (group_id, rank)) WITHOUT ROWID;
CREATE INDEX item_rank ON item (rank, name);
CREATE INDEX item_group_parent ON item_group (parent_id);
"""


class ShopItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A product as the shop's pages show it."""

    id: str
    name: str
    price: float | None = None
    estimated: bool = False  # the price was not in the data
    brand: str | None = None
    size: str | None = None
    department: str | None = None
    category: str | None = None
    type: str | None = None


class ShopGroup(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    parent_id: str | None = None


class SqliteShopCatalogue:
    """Satisfies `app.http.shop_page.ShopCatalogue`."""

    def __init__(self, path: Path) -> None:
        self._uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        self._local = threading.local()

    def item(self, item_id: str) -> bytes | None:
        found = self._all("SELECT document FROM item WHERE id = ?", item_id)
        if not found:
            return None
        groups = self._all(
            "SELECT g.id, g.name, g.parent_id FROM membership m JOIN item_group g"
            " ON g.id = m.group_id WHERE m.item_id = ?"
            " AND m.rank = (SELECT rank FROM item WHERE id = ?)",
            item_id,
            item_id,
        )
        document: dict[str, Any] = msgspec.json.decode(found[0][0])
        return msgspec.json.encode(document | {"trail": _trail(groups)})

    def groups(self) -> bytes:
        rows = self._all(
            "SELECT id, name FROM item_group g WHERE parent_id IS NULL"
            " AND EXISTS (SELECT 1 FROM membership WHERE group_id = g.id)"
            " ORDER BY (SELECT count(*) FROM membership WHERE group_id = g.id) DESC LIMIT 30"
        )
        return msgspec.json.encode([{"id": id_, "name": name} for id_, name in rows])

    def group(self, group_id: str, page: int) -> bytes | None:
        own = self._all("SELECT id, name, parent_id FROM item_group WHERE id = ?", group_id)
        if not own:
            return None
        _, name, parent_id = own[0]
        parent = self._all("SELECT id, name FROM item_group WHERE id = ?", parent_id)
        children = self._all(
            "SELECT id, name FROM item_group g WHERE parent_id = ?"
            " AND EXISTS (SELECT 1 FROM membership WHERE group_id = g.id) ORDER BY name",
            group_id,
        )
        total = self._all("SELECT count(*) FROM membership WHERE group_id = ?", group_id)[0][0]
        products = self._all(
            "SELECT i.document FROM membership m JOIN item i ON i.id = m.item_id"
            " WHERE m.group_id = ? ORDER BY m.rank LIMIT ? OFFSET ?",
            group_id,
            PAGE_SIZE,
            (page - 1) * PAGE_SIZE,
        )
        return msgspec.json.encode(
            {
                "id": group_id,
                "name": name,
                "parent": _named(parent[0]) if parent else None,
                "children": [_named(child) for child in children],
                **_listing(total, page, products),
            }
        )

    def search(self, term: str, page: int) -> bytes:
        words = [
            "%" + word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
            for word in term.split()[:8]
        ]
        rows = self._all(
            "SELECT id FROM item WHERE "  # noqa: S608  # only our own words
            + " AND ".join([r"name LIKE ? ESCAPE '\'"] * len(words))
            + " ORDER BY rank LIMIT ?",
            *words,
            _MATCHES,
        )
        shown = [id_ for (id_,) in rows[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]]
        places = ", ".join("?" * len(shown))
        products = self._all(
            f"SELECT document FROM item WHERE id IN ({places}) ORDER BY rank",  # noqa: S608  # only ?
            *shown,
        )
        return msgspec.json.encode(_listing(len(rows), page, products))

    def _all(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:  # one a thread; they end with the process
            connection = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
            self._local.connection = connection
        return connection.execute(statement, parameters).fetchall()


def write_shop_catalogue(
    path: Path, items: Iterable[tuple[ShopItem, tuple[str, ...]]], groups: Iterable[ShopGroup]
) -> None:
    """Make the file anew, atomically: a file that is there is whole.

    Args:
        items: what sells best first, each with the ids of its groups, ancestors included.
    """
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(temporary)) as connection:
        connection.executescript(_SCHEMA)
        connection.executemany(
            "INSERT INTO item_group VALUES (?, ?, ?)",
            ((group.id, group.name, group.parent_id) for group in groups),
        )
        for chunk in _chunks(items):
            connection.executemany(
                "INSERT INTO item VALUES (?, ?, ?, ?)",
                [(i.id, rank, i.name, msgspec.json.encode(i).decode()) for rank, i, _ in chunk],
            )
            connection.executemany(
                "INSERT INTO membership VALUES (?, ?, ?)",
                [(group, rank, item.id) for rank, item, in_ in chunk for group in in_],
            )
        connection.execute("CREATE INDEX membership_item ON membership (item_id)")
        connection.execute("ANALYZE")
        connection.commit()
    temporary.replace(path)


def _chunks(
    items: Iterable[tuple[ShopItem, tuple[str, ...]]],
) -> Iterator[list[tuple[int, ShopItem, tuple[str, ...]]]]:
    chunk = []
    for rank, (item, groups) in enumerate(items):
        chunk.append((rank, item, tuple(dict.fromkeys(groups))))
        if len(chunk) == 5_000:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _named(row: tuple[Any, ...]) -> dict[str, str]:
    return {"id": row[0], "name": row[1]}


def _trail(groups: list[tuple[Any, ...]]) -> list[dict[str, str]]:
    """One way from a root to a leaf, whatever the order of the rows and however many ways."""
    by_parent: dict[str | None, tuple[Any, ...]] = {}
    ids = {id_ for id_, _, _ in groups}
    for row in groups:
        by_parent.setdefault(row[2] if row[2] in ids else None, row)
    trail: list[dict[str, str]] = []
    parent: str | None = None
    while parent in by_parent and len(trail) < len(groups):
        trail.append(_named(by_parent[parent]))
        parent = by_parent[parent][0]
    return trail


def _listing(total: int, page: int, products: list[tuple[Any, ...]]) -> dict[str, Any]:
    return {
        "total": total,
        "page": page,
        "pages": max(1, -(-total // PAGE_SIZE)),
        "products": [msgspec.Raw(document.encode()) for (document,) in products],
    }
