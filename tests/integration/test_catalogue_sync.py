"""Redis follows PostgreSQL, a process follows Redis, and both come back by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.catalogue import DEFAULT_SECTION, ItemId, Section
from app.domain.errors import Unavailable
from app.domain.item_index import ItemIndexes
from app.domain.rendered import RenderedItems
from app.postgres.catalogue import Catalogue
from app.postgres.database import connect
from app.redis.connection import RedisConnection
from app.redis.item_features import RedisItemFeatures
from app.services.catalogue_follow import Follower
from app.services.catalogue_sync import Projector
from app.services.catalogue_verify import Verifier
from tests.catalogue_shop import CatalogueShop, open_shop, shown


@pytest.fixture
async def shop(
    module_database_url: str,
    module_redis_url: str,
    create_merchant: Callable[..., Any],
    tmp_path: Path,
) -> AsyncIterator[CatalogueShop]:
    async with open_shop(
        module_database_url, module_redis_url, create_merchant, tmp_path
    ) as opened:
        yield opened


@pytest.fixture
async def away() -> AsyncIterator[RedisConnection]:
    """A Redis that is not there."""
    connection = RedisConnection("unix:///nowhere/redis.sock")
    yield connection
    await connection.close()


def expected(features: dict[str, Any]) -> dict[str, tuple[bool, float | None]]:
    return {item.id: (item.available, item.price) for item in features.values()}


async def flush(shop: CatalogueShop) -> None:
    await shop.redis.client.flushdb()


async def test_an_emptied_redis_comes_back_equal_to_postgresql(shop: CatalogueShop) -> None:
    await shop.put(*({"id": f"i{n}", "data": {"price": n}} for n in range(2_500)))
    await shop.call("DELETE", "/v2/items", {"items": [{"id": "i7"}]})
    await shop.put({"id": "x"}, section="Other ü:{}")
    wanted = await shop.in_postgres()
    assert len(wanted) == 2_499
    await flush(shop)
    assert await shop.in_redis() == {}
    await shop.projector.round()
    assert await shop.in_redis() == wanted
    other = Section("Other ü:{}")
    assert await shop.in_redis(other) == await shop.in_postgres(other) != {}


async def test_what_no_version_tells_is_found_and_mended(shop: CatalogueShop) -> None:
    await shop.put(*({"id": f"i{n}", "data": {"price": n}} for n in range(600)))
    follower, indexes = shop.follower()
    await follower.poll()
    wanted = await shop.in_postgres()
    old = (await shop.in_redis())["i1"]
    await shop.put({"id": "i1", "data": {"price": 99}})
    wanted = await shop.in_postgres()

    # A process that was stopped with the lock writes what is old; a key is lost; one is too much.
    ghost = wanted["i2"].__class__(id=ItemId("ghost"), version=1, name="Ghost")
    await shop.cache.write(shop.id, DEFAULT_SECTION, [old, ghost], [ItemId("i3"), ItemId("i4")])
    await follower.poll()
    await shop.projector.round()
    assert await shop.in_redis() != wanted  # the version says that all is well
    assert await shop.verifier.verify(shop.id, DEFAULT_SECTION) == 4
    assert await shop.in_redis() == wanted
    assert await shop.verifier.verify(shop.id, DEFAULT_SECTION) == 0
    await follower.poll()
    assert shown(indexes.get(shop.id, DEFAULT_SECTION)) == expected(wanted)

    often = Verifier(shop.catalogue, shop.cache, every_seconds=0)
    await shop.cache.write(shop.id, DEFAULT_SECTION, [old])
    await often.round()
    assert await shop.in_redis() == wanted


async def test_a_projection_that_was_broken_off_is_done_again(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, indexes = shop.follower()
    await shop.put({"id": "a"}, {"id": "b"})
    await follower.poll()

    write = shop.cache.write
    parts = 0

    async def fail(*args: Any, **more: Any) -> None:
        nonlocal parts
        parts += 1
        if parts == 2:
            raise Unavailable("gone")
        await write(*args, **more)

    monkeypatch.setattr(shop.cache, "write", fail)
    await shop.put(*({"id": f"n{n}", "data": {"price": 1}} for n in range(1_500)))
    assert parts == 2  # the write was answered as done: it is, in PostgreSQL
    half = len(await shop.in_redis())
    assert 2 < half < 1_502
    for _ in range(3):
        await follower.poll()
    index = indexes.get(shop.id, DEFAULT_SECTION)
    assert index.version == 1
    assert set(shown(index)) == {"a", "b"}  # of the half, nothing is seen
    await shop.projector.round()
    await follower.poll()
    assert shown(index) == expected(await shop.in_postgres())
    assert len(shown(index)) == 1_502


async def test_a_process_follows_changes(shop: CatalogueShop) -> None:
    follower, indexes = shop.follower()
    index = indexes.get(shop.id, DEFAULT_SECTION)
    assert not follower.ready
    await shop.put({"id": "a", "data": {"price": 1}}, {"id": "b"})
    await follower.poll()
    assert follower.ready
    assert shown(index) == {"a": (True, 1.0), "b": (True, None)}
    await shop.put({"id": "c"}, {"id": "a", "data": {"price": 2, "active": False}})
    await shop.call("DELETE", "/v2/items", {"items": [{"id": "b"}]})
    await follower.poll()
    assert shown(index) == {"a": (False, 2.0), "c": (True, None)}
    assert index.version == await shop.version() == 3


async def test_changes_come_by_the_stream_and_not_by_loading_anew(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, indexes = shop.follower()
    await shop.put(*({"id": f"i{n}"} for n in range(50)))
    await follower.poll()

    def refused(*_: Any) -> Any:
        raise AssertionError("everything is read anew")

    monkeypatch.setattr(shop.cache, "scan", refused)
    monkeypatch.setattr(shop.catalogue, "snapshot", lambda *_: refused())
    reader = Follower(indexes, shop.cache, shop.catalogue)
    assert reader is not follower
    snapshot = Catalogue(shop.database)
    writer = Projector(snapshot, shop.cache)
    shop.projector._source = writer._source
    await shop.put({"id": "i1", "data": {"price": 5}}, {"id": "new"})
    await follower.poll()
    index = indexes.get(shop.id, DEFAULT_SECTION)
    assert shown(index)["i1"] == (True, 5.0)
    assert "new" in shown(index)


async def test_a_gap_in_the_stream_is_bridged(shop: CatalogueShop) -> None:
    follower, indexes = shop.follower()
    await shop.put({"id": "a"}, {"id": "b"})
    await follower.poll()
    await shop.put({"id": "c"})
    await shop.call("DELETE", "/v2/items", {"items": [{"id": "a"}]})
    changes = f"vitrine:changes:{shop.id}:Products"
    assert await shop.redis.client.delete(changes) == 1  # trimmed away
    await shop.put({"id": "d"})
    await follower.poll()
    index = indexes.get(shop.id, DEFAULT_SECTION)
    assert sorted(shown(index)) == ["b", "c", "d"]
    await shop.put({"id": "e"})
    await follower.poll()
    assert sorted(shown(index)) == ["b", "c", "d", "e"]


async def test_a_large_change_comes_in_parts_from_redis(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More ids than one entry of the stream names and than one reading of it takes; and a step
    whose beginning was trimmed away is none."""
    for name in ("app.redis.item_features.IDS_A_CHANGE", "app.redis.item_features._AT_ONCE"):
        monkeypatch.setattr(name, 3)
    follower, indexes = shop.follower()
    index = indexes.get(shop.id, DEFAULT_SECTION)
    await shop.put(*({"id": f"i{n}"} for n in range(100)))
    await follower.poll()
    snapshot = shop.catalogue.snapshot

    def refused(*_: Any) -> Any:
        raise AssertionError("PostgreSQL is read")

    async def change(price: int) -> None:
        monkeypatch.setattr(shop.catalogue, "snapshot", snapshot)  # for the projector
        items = ({"id": f"i{n}", "data": {"price": price}} for n in range(20, 100))
        await shop.put(*items, *({"id": f"new-{n}"} for n in range(20)))

    await change(5)
    await shop.call("DELETE", "/v2/items", {"items": [{"id": f"i{n}"} for n in range(9)]})
    monkeypatch.setattr(shop.catalogue, "snapshot", refused)
    await follower.poll()
    monkeypatch.setattr(shop.catalogue, "snapshot", snapshot)
    assert shown(index) == expected(await shop.in_postgres())
    version = index.version
    await change(6)
    stream = f"vitrine:changes:{shop.id}:Products"
    entries = await shop.redis.client.xrange(stream)
    new = [name for name, fields in entries if int(fields[b"version"]) == version + 1]
    assert len(new) > 20
    kept = new[-3].decode()
    await shop.redis.client.xtrim(stream, minid=kept, approximate=False)
    await follower.poll()
    assert shown(index) == expected(await shop.in_postgres())


async def test_an_import_too_large_to_be_named_is_followed(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.catalogue_sync.MAX_NAMED", 3)
    follower, indexes = shop.follower()
    await shop.put({"id": "a"}, {"id": "b"})
    await follower.poll()
    await shop.put(*({"id": f"i{n}"} for n in range(10)))
    await shop.call("DELETE", "/v2/items", {"items": [{"id": "a"}]})
    await follower.poll()
    index = indexes.get(shop.id, DEFAULT_SECTION)
    assert shown(index) == expected(await shop.in_postgres())


async def test_while_redis_is_away_postgresql_is_followed(
    shop: CatalogueShop, away: RedisConnection
) -> None:
    await shop.put({"id": "a"})
    indexes = ItemIndexes(RenderedItems(1 << 20))
    cache = RedisItemFeatures(away)
    follower = Follower(indexes, cache, shop.catalogue, source_seconds=0)
    await follower.poll()
    index = indexes.get(shop.id, DEFAULT_SECTION)
    assert follower.ready
    assert set(shown(index)) == {"a"}
    await shop.put({"id": "b"})
    await shop.call("DELETE", "/v2/items", {"items": [{"id": "a"}]})
    await follower.poll()
    assert set(shown(index)) == {"b"}

    # It comes back, with changes that the process knows and one that it does not.
    follower._cache = shop.cache
    await shop.put({"id": "c"})
    await follower.poll()
    assert shown(index) == expected(await shop.in_postgres())
    assert sorted(shown(index)) == ["b", "c"]


async def test_redis_emptied_under_a_process(shop: CatalogueShop) -> None:
    follower, indexes = shop.follower()
    follower._source_seconds = 0
    index = indexes.get(shop.id, DEFAULT_SECTION)
    await shop.put({"id": "a"}, {"id": "b"})
    await follower.poll()
    revision = index.revision
    await flush(shop)
    await follower.poll()
    await shop.projector.round()
    await follower.poll()
    assert index.revision == revision  # it had all of it: nothing is loaded anew
    await flush(shop)
    await shop.put({"id": "c"})
    await follower.poll()
    await shop.put({"id": "d"})
    await follower.poll()
    assert sorted(shown(index)) == ["a", "b", "c", "d"]


async def test_both_away(away: RedisConnection) -> None:
    database = connect("postgresql://vitrine_app@127.0.0.1:1/none", pool=1, connect_timeout=0.5)
    indexes = ItemIndexes(RenderedItems(1 << 20))
    follower = Follower(indexes, RedisItemFeatures(away), Catalogue(database))
    await follower.poll()
    assert not follower.ready
    assert follower.waits_for() == ["the list of the catalogue's sections"]
    with pytest.raises(Unavailable):
        await Projector(Catalogue(database), RedisItemFeatures(away)).round()
    await database.close()


async def test_a_database_restored_to_an_earlier_time(shop: CatalogueShop) -> None:
    follower, indexes = shop.follower()
    follower._source_seconds = 0
    await shop.put({"id": "a"})
    await shop.put({"id": "b"})
    await follower.poll()
    await shop.query("DELETE FROM item WHERE id = 'b' RETURNING id")
    await shop.query("UPDATE section SET catalogue_version = 1 RETURNING name")
    await shop.projector.round()
    assert set(await shop.in_redis()) == {"a"}
    await follower.poll()
    assert set(shown(indexes.get(shop.id, DEFAULT_SECTION))) == {"a"}


async def test_a_change_that_was_not_told_is_found_by_the_number_of_items(
    shop: CatalogueShop,
) -> None:
    follower, indexes = shop.follower()
    await shop.put({"id": "a"}, {"id": "b"})
    await follower.poll()
    a = (await shop.in_redis())["a"]
    untold = a.__class__(id=ItemId("untold"), version=2, name="Untold")
    await shop.cache.write(shop.id, DEFAULT_SECTION, [untold])
    await shop.cache.publish(
        shop.id, DEFAULT_SECTION, base=1, version=2, items=3, ids=[ItemId("a")]
    )
    await follower.poll()
    index = indexes.get(shop.id, DEFAULT_SECTION)
    assert set(shown(index)) == {"a", "b", "untold"}
    assert index.version == 2


async def test_a_step_that_changes_no_item_is_followed_by_the_stream(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, indexes = shop.follower()
    await shop.put({"id": "a"})
    await follower.poll()
    await shop.call("POST", "/v1/item_groups", {"item_groups": [{"id": "g", "name": "G"}]})

    def refused(*_: Any) -> Any:
        raise AssertionError("PostgreSQL is asked")

    monkeypatch.setattr(shop.catalogue, "snapshot", refused)
    await follower.poll()
    assert indexes.get(shop.id, DEFAULT_SECTION).version == 2


async def test_only_one_projects_at_a_time(shop: CatalogueShop) -> None:
    await shop.put({"id": "a"})
    holder = await shop.cache.lock(shop.id, DEFAULT_SECTION)
    assert holder is not None
    await shop.put({"id": "b"})  # answered, though somebody else holds the lock
    assert set(await shop.in_redis()) == {"a"}
    assert await shop.projector.project(shop.id, DEFAULT_SECTION) is False
    await shop.cache.unlock(shop.id, DEFAULT_SECTION, "somebody else")
    assert await shop.projector.project(shop.id, DEFAULT_SECTION) is False
    await shop.cache.unlock(shop.id, DEFAULT_SECTION, holder)
    assert await shop.projector.project(shop.id, DEFAULT_SECTION) is True
    assert set(await shop.in_redis()) == {"a", "b"}


async def test_only_one_compares_at_a_time(shop: CatalogueShop) -> None:
    await shop.put({"id": "a"})
    for to in ("project", "verify"):  # who would mend must have both
        holder = await shop.cache.lock(shop.id, DEFAULT_SECTION, to)
        assert holder is not None
        assert await shop.verifier.verify(shop.id, DEFAULT_SECTION) is None
        await shop.cache.unlock(shop.id, DEFAULT_SECTION, holder, to)
    assert await shop.verifier.verify(shop.id, DEFAULT_SECTION) == 0


async def test_a_comparison_holds_no_projection_up(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.put({"id": "a"}, {"id": "b"})
    versions = shop.cache.versions
    overtaken = False

    async def overtake(*args: Any) -> list[int | None]:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            await shop.put({"id": "a", "data": {"price": 5}})
            assert await shop.in_redis() == await shop.in_postgres()
        return await versions(*args)

    monkeypatch.setattr(shop.cache, "versions", overtake)
    # What was projected meanwhile is nothing to mend.
    assert await shop.verifier.verify(shop.id, DEFAULT_SECTION) == 0
    assert overtaken
    assert await shop.in_redis() == await shop.in_postgres()


async def test_who_lost_the_lock_publishes_nothing(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.put({"id": "a"})
    write = shop.cache.write

    async def overtaken(*args: Any, **more: Any) -> None:
        await write(*args, **more)
        await shop.redis.client.set(f"vitrine:projecting:{shop.id}:Products", "another")

    monkeypatch.setattr(shop.cache, "write", overtaken)
    await shop.put({"id": "b"})
    state = await shop.cache.state(shop.id, DEFAULT_SECTION)
    assert state is not None
    assert state.version == 1


async def test_two_merchants_are_kept_apart(
    shop: CatalogueShop, module_database_url: str, create_merchant: Callable[..., Any]
) -> None:
    other = await create_merchant(module_database_url, "other-shop")
    shop.keys.add(other)
    await shop.put({"id": "a"})
    mine, shop.merchant = shop.merchant, other
    await shop.put({"id": "b"})
    assert set(await shop.in_redis()) == {"b"}
    follower, indexes = shop.follower()
    await follower.poll()
    assert set(shown(indexes.get(mine.id, DEFAULT_SECTION))) == {"a"}
    assert set(shown(indexes.get(other.id, DEFAULT_SECTION))) == {"b"}
    await shop.call("GET", "/v2/items", status=401, key=mine.key)


async def test_writes_projections_and_followers_at_the_same_time(shop: CatalogueShop) -> None:
    followers = [shop.follower() for _ in range(3)]
    running = [asyncio.create_task(follower.run()) for follower, _ in followers]

    async def write(worker: int) -> None:
        for step in range(4):
            items = [{"id": f"i{n}", "data": {"price": worker * 100 + step}} for n in range(10)]
            await shop.put(*items)
            await shop.call("DELETE", "/v2/items", {"items": [{"id": f"i{worker}"}]})

    await asyncio.gather(*(write(worker) for worker in range(4)))
    await shop.projector.round()
    version = await shop.version()
    async with asyncio.timeout(20):
        while any(
            indexes.get(shop.id, DEFAULT_SECTION).version < version for _, indexes in followers
        ):
            await asyncio.sleep(0.02)
    for task in running:
        task.cancel()
    wanted = await shop.in_postgres()
    assert await shop.in_redis() == wanted
    for _, indexes in followers:
        assert shown(indexes.get(shop.id, DEFAULT_SECTION)) == expected(wanted)
