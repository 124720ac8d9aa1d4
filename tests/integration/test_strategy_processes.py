"""Strategies in processes of their own: whatever one does, there is an answer, and the server's
memory does not move."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from app.domain.breaker import BreakerState
from app.domain.catalogue import DEFAULT_SECTION
from app.domain.configuration import PublishedModel
from app.domain.event import Shopper
from app.domain.pod import RunMode, StrategyConfiguration
from app.domain.recommendation import RecommendationRequest
from app.plugins import strategy_process
from app.plugins.process_link import NotLoaded
from app.plugins.process_runner import ChildModel, StrategyProcesses
from app.services.answer import Answer
from app.services.running import Failure
from app.services.serving import LoadedModel
from tests.recommending_shop import SHOP, RecommendingShop, in_order
from vitrine_sdk import Context, EventType, History

ITEMS = 12
RESULTS = 4

pytestmark = pytest.mark.usefixtures("third_party_strategies")


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    np.save(tmp_path / "order.npy", np.arange(ITEMS, dtype=np.int32)[::-1].copy())
    return tmp_path


Start = Callable[..., Awaitable[tuple[ChildModel, Any]]]


@contextlib.asynccontextmanager
async def starting(artefact: Path, **options: Any) -> AsyncIterator[Start]:
    processes = StrategyProcesses(**{"memory_mib": 256, "patience": 0.3, **options})

    async def start(**config: Any) -> tuple[ChildModel, Any]:
        return await processes.start(
            "unruly",
            strategy="unruly",
            config=config,
            locate=lambda: artefact,
            arrays=("order",),
            items=ITEMS,
        )

    yield start
    await processes.close()


async def gone(process: psutil.Process) -> None:
    """Returns when it has ended, whether it has been reaped or not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


@pytest.fixture
async def start(artefact: Path) -> AsyncIterator[Start]:
    async with starting(artefact) as start:
        yield start


@pytest.fixture(autouse=True)
def _quick_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy_process, "FIRST_PAUSE", 0.01)


async def shop_with(model: ChildModel, loaded: Any, **options: Any) -> RecommendingShop:
    """Its pod asks the model first, and then one that takes the items as they come."""
    shop = RecommendingShop(ITEMS, **{"budget": 0.4, "sample_rate": 0.0, **options})
    shop.strategy("rest", in_order(ITEMS))
    shop.published.models["unruly/1"] = LoadedModel(
        model=model, needs=loaded.needs, reasons=loaded.reasons, item_ids=shop.ids
    )
    configuration = StrategyConfiguration(id="unruly", strategy="unruly", mode=RunMode.PROCESS)
    published = PublishedModel(
        id=9, configuration_id="unruly", section=DEFAULT_SECTION, number=1,
        location="unruly/1", sha256="",
    )  # fmt: skip
    shop.publish(
        strategies={**shop.configuration.strategies, "unruly": configuration},
        models={**shop.configuration.models, "unruly": published},
    )
    shop.pod("pod", "unruly", "rest", num_results=RESULTS, fill=False)
    await shop.serving.refresh()
    return shop


async def ask(shop: RecommendingShop, term: str | None = None) -> Answer:
    request = RecommendationRequest(pod_id="pod", shopper=Shopper(client_id="c"), term=term)
    return await shop.service.recommend(shop.serving.merchants()[SHOP], request)


async def back(model: ChildModel, before: int | None) -> None:
    """Waits for a successor of the process `before`."""
    async with asyncio.timeout(60):
        while model.pid in (None, before):
            await asyncio.sleep(0.01)


def far() -> float:
    return asyncio.get_running_loop().time() + 60


async def test_it_answers_with_what_it_was_told(start: Start) -> None:
    model, loaded = await start()
    assert (loaded.needs.history, loaded.needs.eligible, loaded.reasons) == (20, True, ("told",))
    assert model.pid not in (None, os.getpid())
    answer = await model.ask(Context(now=1), 3, far())
    assert answer.items.tolist() == [11, 10, 9]
    assert answer.scores.tolist() == [1.0, 0.75, 0.5]
    assert answer.reasons.tolist() == [0, 0, 0]
    history = History(
        np.array([7, 8], np.int32),
        np.array([EventType.VIEW, EventType.CART], np.int8),
        np.array([0.5, 9.0], np.float32),
    )
    context = Context(now=1, seeds=np.array([5, 3], np.int32), history=history, term="seeds")
    assert (await model.ask(context, 9, far())).items.tolist() == [5, 3, 7, 8]
    eligible = np.zeros(ITEMS, np.bool_)
    eligible[[2, 11]] = True
    answer = await model.ask(Context(now=1, eligible=eligible), 5, far())
    assert answer.items.tolist() == [11, 2]


async def test_requests_take_turns(start: Start) -> None:
    model, _ = await start()
    asked = [model.ask(Context(now=1), 1 + n % 5, far()) for n in range(20)]
    answers = await asyncio.gather(*asked)
    assert [len(answer) for answer in answers] == [1 + n % 5 for n in range(20)]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"load": "raise"}, "ValueError: array 'model' is missing"),
        ({"load": "exit"}, "its process ended while it loaded"),
        ({"load": "memory"}, "out of memory"),
        ({"load": "somehow"}, "/config/load"),
    ],
)
async def test_what_cannot_be_loaded_is_refused_with_the_reason(
    start: Start, config: dict[str, str], reason: str
) -> None:
    with pytest.raises(NotLoaded, match=reason):
        await start(**config)


async def test_loading_has_an_end(artefact: Path) -> None:
    async with starting(artefact, start_seconds=0.1) as start:
        with pytest.raises(NotLoaded, match="loading took longer than"):
            await start(load="hang")


@pytest.mark.parametrize(
    "term", ["raise", "leave", "nan", "rows", "twice", "nothing", "environment"]
)
async def test_a_wrong_answer_falls_through_and_the_process_stays(start: Start, term: str) -> None:
    model, loaded = await start()
    shop = await shop_with(model, loaded, budget=20.0)
    assert (await ask(shop)).strategies == ("unruly",) * RESULTS
    before = psutil.Process().memory_info().rss
    pid = model.pid
    answer = await ask(shop, term)
    assert answer.items == ("i0", "i1", "i2", "i3")
    assert answer.fallback in (Failure.RAISED, Failure.INVALID)
    assert psutil.Process().memory_info().rss - before < 48 << 20  # ten million rows are 90 MB
    assert (await ask(shop)).items == ("i11", "i10", "i9", "i8")
    assert model.pid == pid


@pytest.mark.parametrize("term", ["hang", "loop", "child"])
async def test_who_is_late_is_killed_with_all_that_it_started(start: Start, term: str) -> None:
    model, loaded = await start()
    shop = await shop_with(model, loaded)
    pid = model.pid
    group = psutil.Process(pid)
    answer = await ask(shop, term)
    assert answer.items == ("i0", "i1", "i2", "i3")
    assert answer.fallback == Failure.LATE
    await gone(group)
    with contextlib.suppress(ProcessLookupError):  # until nobody is left in its group
        while True:
            os.killpg(pid, 0)
            await asyncio.sleep(0.01)
    await back(model, pid)
    assert (await ask(shop)).strategies == ("unruly",) * RESULTS


@pytest.mark.parametrize("term", ["die", "crash"])
async def test_one_that_dies_is_started_again(start: Start, term: str) -> None:
    model, loaded = await start()
    shop = await shop_with(model, loaded, budget=20.0)
    pid = model.pid
    answer = await ask(shop, term)
    assert (answer.items, answer.fallback) == (("i0", "i1", "i2", "i3"), Failure.RAISED)
    answer = await ask(shop)  # there is none now, or the new one
    assert (answer.fallback, answer.strategies) in (
        (Failure.DOWN, ("rest",) * RESULTS),
        (None, ("unruly",) * RESULTS),
    )
    await back(model, pid)
    assert (await ask(shop)).fallback is None


async def test_a_leak_is_the_childs_own_and_ends_with_it(start: Start) -> None:
    model, loaded = await start()
    shop = await shop_with(model, loaded, budget=20.0)
    before = psutil.Process().memory_info().rss
    pid = model.pid
    seen = []
    for _ in range(16):  # 32 MiB each; 256 are allowed
        answer = await ask(shop, "leak")
        assert len(answer.items) == RESULTS
        seen.append(answer.fallback)
        if answer.fallback is not None:
            break
    assert seen[0] is None
    assert seen[-1] == Failure.RAISED
    assert psutil.Process().memory_info().rss - before < 48 << 20
    await back(model, pid)
    assert (await ask(shop, "leak")).fallback is None


async def test_the_breaker_opens_and_the_strategy_is_not_asked(start: Start) -> None:
    model, loaded = await start()
    shop = await shop_with(
        model, loaded, budget=20.0, runner_options={"failures": 2, "pause": 600.0}
    )
    for expected in (Failure.RAISED, Failure.RAISED, Failure.OPEN):
        answer = await ask(shop, "raise")
        assert (answer.fallback, len(answer.items)) == (expected, RESULTS)
    assert shop.runner.breakers() == {(SHOP, "unruly"): BreakerState.OPEN}


async def test_it_ends_when_nobody_refers_to_it(start: Start) -> None:
    model, _ = await start()
    process = psutil.Process(model.pid)
    del model
    gc.collect()
    await gone(process)


async def test_nothing_that_it_prints_disturbs(start: Start) -> None:
    model, _ = await start()
    assert len(await model.ask(Context(now=1, term="print"), 3, far())) == 3


async def test_it_is_told_no_address_and_no_secret(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_DATABASE_URL", "postgresql://user:secret@host/db")
    model, _ = await start()
    refusal = await model.ask(Context(now=1, term="environment"), 3, far())
    assert refusal.detail == "KeyError"


async def test_a_change_of_the_mode_loads_the_model_anew() -> None:
    shop = RecommendingShop(ITEMS)
    shop.strategy("one", in_order(ITEMS))
    await shop.serving.refresh()
    shop.strategy("one", in_order(ITEMS), mode=RunMode.THREAD)
    await shop.serving.refresh()
    assert shop.published.loads == 1  # within this process: nothing to do
    shop.strategy("one", in_order(ITEMS), mode=RunMode.PROCESS)
    await shop.serving.refresh()
    assert shop.published.loads == 2
