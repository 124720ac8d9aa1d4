"""Publications while requests run: none sees a mixture, none an error, and each is there soon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.domain.rule import RuleSet
from app.postgres.database import Database
from app.postgres.rule_sets import RuleSetStore
from tests.ruled_shop import RuledShop, open_shop, supermarket

SLOTS = 6
POLL_SECONDS = 0.01


@pytest.fixture
async def shop(database: Database, merchant: Any, tmp_path: Path) -> AsyncIterator[RuledShop]:
    async with open_shop(database, merchant, tmp_path, supermarket()) as shop:
        yield shop


def generation(shop: RuledShop, number: int) -> RuleSet:
    """Pins on each slot and exclusions that all tell the same generation: a list with parts of two
    would show it. The items are those from 20 on, each in one generation of twenty."""
    first = 20 + number % 20 * SLOTS
    ids = [shop.items[first + n].id for n in range(SLOTS)]
    rules = [
        {"id": f"pin{n}", "then": [{"type": "pin", "item_id": id_, "slot": n + 1}]}
        for n, id_ in enumerate(ids)
    ]
    return msgspec.convert({"rules": rules}, RuleSet)


async def publish_and_ask(shop: RuledShop, publications: int) -> None:
    store = RuleSetStore(shop.database)
    order = {item.id: place for place, item in enumerate(shop.items)}
    await store.create(shop.merchant, "main", "", generation(shop, 0), "test")
    done = asyncio.Event()
    seen: set[int] = set()
    asked = 0

    async def follow() -> None:
        while not done.is_set():
            await shop.serving.refresh()
            await asyncio.sleep(POLL_SECONDS)

    async def ask(pod: str) -> None:
        nonlocal asked
        while not done.is_set():
            ids = await shop.ids(pod, num_results=SLOTS)
            asked += 1
            places = [order[item_id] for item_id in ids]
            if places[0] < 20:
                assert places == list(range(SLOTS)), "no rules yet"
                continue
            assert (places[0] - 20) % SLOTS == 0
            assert places == list(range(places[0], places[0] + SLOTS)), "a mixture"
            seen.add(places[0])

    async def publish() -> None:
        for number in range(publications):
            await store.replace(
                shop.merchant, "main", lambda _, n=number: ("", generation(shop, n)), None, "test"
            )
            await store.publish(shop.merchant, "main", None, "test", "", lambda *_: None)
        await shop.serving.refresh()
        last = await shop.ids("home", num_results=SLOTS)
        assert order[last[0]] == 20 + (publications - 1) % 20 * SLOTS
        done.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        for pod in ("home", "pdp"):
            tasks.create_task(ask(pod))
        tasks.create_task(publish())
    assert asked > publications / 10
    assert len(seen) > 1, "requests ran while rules changed"
    versions = await store.versions(shop.merchant, "main", before=None, limit=1)
    assert versions[0].number == publications


async def test_publications_while_requests_run(shop: RuledShop) -> None:
    await publish_and_ask(shop, 60)


@pytest.mark.slow
async def test_a_thousand_publications_while_requests_run(shop: RuledShop) -> None:
    await publish_and_ask(shop, 1_000)
