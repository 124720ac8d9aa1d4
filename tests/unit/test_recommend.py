"""Recommending: the chain, asking for more, prepared lists, and what happens when parts fail."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import msgspec
import numpy as np
import pytest

from app.domain.breaker import Breaker, BreakerState
from app.domain.catalogue import ItemId
from app.domain.event import Shopper
from app.domain.merchant import MerchantId
from app.domain.pod import RunMode
from app.domain.recommendation import RecommendationRequest
from app.domain.selection import Admits, Pool
from app.services.answer import Answer
from app.services.running import Failure
from tests.recommending_shop import (
    SHOP,
    RecommendingShop,
    Scripted,
    after_latest,
    after_seeds,
    candidates,
    in_order,
    product,
)
from vitrine_sdk import (
    NO_CANDIDATES,
    BoolArray,
    Candidates,
    Context,
    EventType,
    IntArray,
    Needs,
    kernel,
)

SHOPPER = Shopper(client_id="c1")


async def ask(
    shop: RecommendingShop, pod: str, *, dependence: str | None = None, **request: Any
) -> Answer:
    await shop.serving.refresh()
    request.setdefault("shopper", SHOPPER)
    return await shop.service.recommend(
        shop.serving.merchants()[SHOP],
        RecommendationRequest(pod_id=pod, **request),
        dependence=dependence,
    )


def response(answer: Answer) -> Any:
    return msgspec.json.decode(answer.body("r"))["response"]


def broken(_context: Context, _limit: int) -> Candidates:
    raise RuntimeError("the strategy's own trouble")


# The chain


async def test_a_later_strategy_fills_only_where_the_pod_says_so() -> None:
    shop = RecommendingShop(30)
    shop.strategy("two", Scripted(lambda _, limit: candidates([5, 3][:limit])))
    shop.strategy("rest", in_order(30))
    shop.pod("filled", "two", "rest", num_results=5)
    shop.pod("unfilled", "two", "rest", num_results=5, fill=False)
    answer = await ask(shop, "filled")
    assert answer.items == ("i5", "i3", "i0", "i1", "i2")
    assert answer.strategies == ("two", "two", "rest", "rest", "rest")
    answer = await ask(shop, "unfilled")
    assert answer.items == ("i5", "i3")
    assert response(answer)["short"] == {"asked": 5, "found": 2, "left_out": {}}


async def test_a_list_is_full_while_enough_qualify() -> None:
    """Only the last ten of two thousand are green enough."""
    shop = RecommendingShop([product(n) for n in range(2000)])
    model = shop.strategy("all", in_order(2000))
    shop.pod("home", "all", num_results=10)
    answer = await ask(shop, "home", filters={"price": ("19910-inf",)})
    assert answer.items == tuple(f"i{n}" for n in range(1990, 2000))
    limits = [limit for _, limit in model.asked]
    assert limits == sorted(set(limits))
    assert limits[-1] == 2000


async def test_unavailable_and_deleted_items_are_not_shown() -> None:
    shop = RecommendingShop(30)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=3)
    shop.change(product(0, available=False), deleted=["i1"])
    answer = await ask(shop, "home")
    assert answer.items == ("i2", "i3", "i4")


async def test_a_request_that_is_late_from_the_beginning_still_gets_a_list() -> None:
    shop = RecommendingShop(30, budget=1e-9)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=3)
    answer = await ask(shop, "home")
    assert answer.items == ("i0", "i1", "i2")


async def test_models_get_what_they_need_and_nothing_else() -> None:
    shop = RecommendingShop(30)
    shop.history.act("c:c1", "i4", EventType.PURCHASE, time.time() - 50)
    shop.history.act("c:c1", "gone", EventType.VIEW, time.time() - 30)
    shop.history.act("c:c1", "i9", EventType.CLICK, time.time() - 10)
    plain = shop.strategy("plain", in_order(30))
    with_history = shop.strategy("history", after_latest(30))
    chooser = shop.strategy(
        "chooser",
        Scripted(lambda _, limit: candidates(range(min(30, limit))), Needs(eligible=True)),
    )
    shop.pod("plain", "plain")
    shop.pod("history", "history")
    shop.pod("chooser", "chooser")
    await ask(shop, "plain", item_ids=(ItemId("i3"), ItemId("unknown"), ItemId("i2")))
    context = plain.asked[0][0]
    assert context.seeds.tolist() == [3, 2]
    assert len(context.history) == 0
    assert shop.history.reads == 0

    await ask(shop, "history")
    context = with_history.asked[0][0]
    assert context.history.items.tolist() == [9, 4], "newest first, known items only"
    assert context.history.types.tolist() == [EventType.CLICK, EventType.PURCHASE]
    assert np.all(np.abs(context.history.ages - [10, 50]) < 5)
    columns = (context.history.items, context.history.types, context.history.ages, context.seeds)
    assert not any(column.flags.writeable for column in columns)

    await ask(shop, "chooser")
    assert chooser.asked[0][0].eligible is None, "nothing chooses: every item"
    await ask(shop, "chooser", filters={"color": ("red",)})
    eligible = chooser.asked[-1][0].eligible
    assert eligible is not None
    assert np.flatnonzero(eligible).tolist() == list(range(0, 30, 3))
    assert not eligible.flags.writeable


# Prepared lists


async def test_a_list_is_prepared_until_something_that_it_looked_at_changes() -> None:
    shop = RecommendingShop(300)
    model = shop.strategy("all", in_order(300))
    shop.pod("home", "all", num_results=3)
    for _ in range(2):
        await ask(shop, "home", dependence="x")
    snapshot = shop.serving.merchants()[SHOP]

    def prepared() -> Answer | None:
        return shop.service.prepared(snapshot, "home", "x")

    assert prepared() is not None
    shop.change(product(299, available=False))
    assert prepared() is not None, "the list never looked at that item"
    shop.change(product(12, available=False))
    assert prepared() is None, "a candidate changed"
    await ask(shop, "home", dependence="x")
    assert len(model.asked) == 3
    assert prepared() is not None
    shop.change(product(0, data={"changed": True}))
    await ask(shop, "home", dependence="x")
    answer = prepared()
    assert answer is not None
    assert response(answer)["results"][0]["data"]["changed"] is True
    shop.pod("another", "all")
    await shop.serving.refresh()
    snapshot = shop.serving.merchants()[SHOP]
    assert prepared() is not None, "another pod was published"
    shop.pod("home", "all", num_results=4)
    await shop.serving.refresh()
    snapshot = shop.serving.merchants()[SHOP]
    assert prepared() is None, "the pod changed"


async def test_a_prepared_list_shows_new_prices_and_is_not_chosen_again() -> None:
    shop = RecommendingShop(30)
    model = shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=3)
    for _ in range(2):
        await ask(shop, "home", dependence="x")
    asked = len(model.asked)
    snapshot = shop.serving.merchants()[SHOP]

    def shown() -> list[tuple[str, float]] | None:
        answer = shop.service.prepared(snapshot, "home", "x")
        if answer is None:
            return None
        items = [result["data"] for result in response(answer)["results"]]
        return [(item["id"], item["price"]) for item in items]

    assert shown() == [("i0", 10.0), ("i1", 20.0), ("i2", 30.0)]
    dearer = [product(n, price=99.0 + n, data={"price": 99.0 + n}) for n in (1, 2, 7)]
    shop.change(*dearer)
    assert shown() == [("i0", 10.0), ("i1", 100.0), ("i2", 101.0)]
    shop.change(product(2, price=5.0, data={"price": 5.0}), product(0))
    assert shown() == [("i0", 10.0), ("i1", 100.0), ("i2", 5.0)]
    assert len(model.asked) == asked
    shop.change(product(1, attributes={"color": ("violet",)}))
    assert shown() is None, "it is another item now"


async def test_a_list_that_depends_on_the_shopper_is_never_prepared() -> None:
    shop = RecommendingShop(30)
    shop.strategy("latest", after_latest(30))
    shop.strategy("all", in_order(30))
    shop.pod("you", "latest", "all")
    shop.pod("unseen", "all", exclude_seen=True)
    for pod in ("you", "unseen"):
        for _ in range(3):
            await ask(shop, pod, dependence="x")
        assert shop.service.prepared(shop.serving.merchants()[SHOP], pod, "x") is None


async def test_a_degraded_list_is_never_prepared() -> None:
    shop = RecommendingShop(30)
    shop.strategy("broken", Scripted(broken))
    shop.strategy("all", in_order(30))
    shop.pod("home", "broken", "all")
    for _ in range(3):
        await ask(shop, "home", dependence="x")
    assert shop.service.prepared(shop.serving.merchants()[SHOP], "home", "x") is None


# Rules


class Only:
    """A ruling that keeps some rows and wants the dearest first."""

    overfetch = 3
    expires = float("inf")
    whole_catalogue = False

    def __init__(self, rows: set[int], cap: int) -> None:
        self.rows = rows
        self.cap = cap

    def keeps(self, rows: IntArray, scores: Any, source: int) -> BoolArray:
        return np.isin(rows, list(self.rows))

    def drops(self, rows: IntArray, source: int) -> None:
        return None  # ask `keeps`

    def arrange(self, pool: Pool, want: int, admits: Admits) -> Pool:
        turned = slice(None, None, -1)
        pool = Pool(
            pool.rows[turned], pool.scores[turned], pool.sources[turned], pool.reasons[turned]
        )
        kept = np.flatnonzero(np.arange(len(pool)) % self.cap == 0)[:want]
        return Pool(
            pool.rows[kept], pool.scores[kept], pool.sources[kept], pool.reasons[kept],
            labels={int(pool.rows[0]): {"sponsored": True}} if len(pool) else {},
        )  # fmt: skip


class Rules:
    def __init__(self, ruling: Only) -> None:
        self.ruling_ = ruling

    def compile(self, *_: Any) -> Rules:
        return self

    def catch_up(self) -> bool:
        return True

    def needs_history(self, _pod: Any) -> int:
        return 0

    def ruling(self, *_: Any) -> Only:
        return self.ruling_


async def test_rules_choose_among_more_and_ask_for_more() -> None:
    shop = RecommendingShop(400)
    model = shop.strategy("all", in_order(400))
    shop.pod("home", "all", num_results=5)
    # Every tenth item stays, and of those every tenth is shown: all 400 must be looked at.
    shop.serving._rulings = Rules(Only(set(range(0, 400, 8)), cap=10))
    answer = await ask(shop, "home")
    assert answer.items == ("i392", "i312", "i232", "i152", "i72")
    assert model.asked[-1][1] == 400
    first, *others = response(answer)["results"]
    assert first["labels"] == {"sponsored": True}
    assert all(result["labels"] == {} for result in others)


# Failing strategies


async def test_a_strategy_that_raises_falls_through_and_its_breaker_opens() -> None:
    shop = RecommendingShop(30, runner_options={"failures": 3, "pause": 60.0})
    model = shop.strategy("broken", Scripted(broken))
    shop.strategy("all", in_order(30))
    shop.pod("home", "broken", "all", num_results=3)
    answers = [await ask(shop, "home") for _ in range(5)]
    assert all(answer.items == ("i0", "i1", "i2") for answer in answers)
    assert [answer.fallback for answer in answers] == ["raised"] * 3 + ["open"] * 2
    assert len(model.asked) == 3
    assert shop.runner.breakers() == {(SHOP, "broken"): BreakerState.OPEN}
    count = shop.metrics.registry.get_sample_value
    failures = "vitrine_strategy_failures_total"
    assert count(failures, {"strategy": "broken", "reason": "raised"}) == 3
    assert count(failures, {"strategy": "broken", "reason": "open"}) == 2


async def test_a_breaker_lets_one_through_after_its_pause_and_closes() -> None:
    answers: list[Any] = [RuntimeError, RuntimeError, candidates([7]), candidates([7])]

    def answer(_context: Context, _limit: int) -> Candidates:
        given = answers.pop(0)
        if given is RuntimeError:
            raise RuntimeError
        assert isinstance(given, Candidates)
        return given

    shop = RecommendingShop(30, runner_options={"failures": 2, "pause": 0.0})
    shop.strategy("flaky", Scripted(answer))
    shop.pod("home", "flaky", num_results=1)
    assert [(await ask(shop, "home")).items for _ in range(4)] == [(), (), ("i7",), ("i7",)]
    assert shop.runner.breakers() == {}


def test_breaker() -> None:
    breaker = Breaker(failures=2, seconds=10)
    breaker.failed(0)
    assert breaker.allows(0)
    breaker.failed(1)
    assert [breaker.state(t) for t in (1, 10.9, 11)] == ["open", "open", "half_open"]
    assert not breaker.allows(10.9)
    assert breaker.allows(11)
    assert not breaker.allows(11), "one attempt at a time"
    breaker.failed(11)
    assert not breaker.allows(20.9)
    assert breaker.allows(21)
    breaker.undecided()
    assert breaker.allows(21)
    breaker.succeeded()
    assert breaker.state(21) == "closed"


def odd(items: Any, scores: Any = None, reasons: Any = None) -> Candidates:
    count = len(items)
    return Candidates(
        np.asarray(items, np.int32) if not isinstance(items, np.ndarray) else items,
        np.linspace(1, 0.5, count).astype(np.float32) if scores is None else scores,
        np.zeros(count, np.uint8) if reasons is None else reasons,
    )


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [1, 2],
        odd([1, 1]),
        odd([-1]),
        odd([30]),
        odd(list(range(25))),
        odd(np.array([1.0, 2.0])),
        odd(np.array([1, 2], np.int64)),
        odd(np.array([[1, 2]], np.int32)),
        odd([1, 2], np.array([np.nan, 0.5], np.float32)),
        odd([1, 2, 3], np.array([1, np.nan, 0.5], np.float32)),
        odd([1, 2], np.array([np.inf, 0.5], np.float32)),
        odd([1, 2], np.array([0.5, 1.0], np.float32)),
        odd([1, 2], np.array([1.0], np.float32)),
        odd([1, 2], np.array([1.0, 0.5], np.float64)),
        odd([1, 2], reasons=np.array([0, 2], np.uint8)),
        odd([1, 2], reasons=np.array([0], np.uint8)),
    ],
)
@pytest.mark.parametrize("checked_by", ["kernel", "twin"])
async def test_an_answer_against_the_contract_is_not_used(
    answer: Any, checked_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if checked_by == "twin":
        monkeypatch.setattr(kernel, "compiled", None)
    shop = RecommendingShop(30)
    shop.strategy("odd", Scripted(lambda *_: answer))
    shop.strategy("all", in_order(30))
    shop.pod("home", "odd", "all", num_results=2)
    got = await ask(shop, "home")
    assert got.items == ("i0", "i1")
    assert got.fallback == Failure.INVALID


async def test_a_hanging_strategy_in_a_thread_is_left_at_the_deadline() -> None:
    free = threading.Event()

    def hang(_context: Context, _limit: int) -> Candidates:
        free.wait(30)
        return NO_CANDIDATES

    shop = RecommendingShop(30, budget=0.3, runner_options={"threads": 2, "failures": 50})
    shop.strategy("hanging", Scripted(hang), mode=RunMode.THREAD)
    shop.strategy("all", in_order(30))
    shop.pod("home", "hanging", "all", num_results=2)
    try:
        # The first two take its places; afterwards it is not asked at all.
        got = [await ask(shop, "home") for _ in range(4)]
        assert [answer.fallback for answer in got] == ["late", "late", "busy", "busy"]
        assert all(answer.items == ("i0", "i1") for answer in got)
    finally:
        free.set()


async def test_a_strategy_in_a_thread_answers_and_may_raise() -> None:
    shop = RecommendingShop(30)
    threads = []

    def answer(_context: Context, limit: int) -> Candidates:
        threads.append(threading.current_thread())
        return candidates(range(limit))

    shop.strategy("threaded", Scripted(answer), mode=RunMode.THREAD)
    shop.strategy("broken", Scripted(broken), mode=RunMode.THREAD)
    shop.pod("home", "broken", "threaded", num_results=2)
    got = [await ask(shop, "home") for _ in range(3)]
    assert all(answer.items == ("i0", "i1") for answer in got)
    assert {answer.fallback for answer in got} == {"raised"}
    assert threads[0] is not threading.main_thread()
    assert len(set(threads)) == 1, "a free thread is used again"


async def test_the_last_good_list_answers_where_all_strategies_fail() -> None:
    fails = False

    def answer(_context: Context, limit: int) -> Candidates:
        if fails:
            raise RuntimeError
        return candidates(range(limit))

    shop = RecommendingShop(30)
    shop.strategy("all", Scripted(answer))
    shop.pod("home", "all", num_results=4)
    await ask(shop, "home")
    fails = True
    shop.change(product(1, available=False))
    got = await ask(shop, "home")
    assert got.items == ("i0", "i2", "i3"), "what may still be shown of it"
    assert got.degraded == ("strategies",)
    assert response(got)["degraded"] == ["strategies"]
    got = await ask(shop, "home", filters={"color": ("red",)})
    assert got.items == ("i0", "i3")


async def test_what_is_remembered_keeps_no_old_model_alive() -> None:
    class Large:
        """Answers with parts of its own arrays."""

        needs = Needs()

        def __init__(self) -> None:
            self.all = candidates(range(30))

        def recommend(self, _context: Context, limit: int) -> Candidates:
            every = self.all
            return Candidates(every.items[:limit], every.scores[:limit], every.reasons[:limit])

    shop = RecommendingShop(30)
    large = Large()
    shop.strategy("all", large)  # type: ignore[arg-type]
    shop.pod("home", "all", num_results=2)
    for _ in range(3):
        await ask(shop, "home", dependence="x")
    assert shop.service.prepared_lists.held_bytes > 0
    kept = [weakref.ref(one) for one in (large, large.all.scores, large.all.reasons)]
    shop.strategy("all", in_order(30), number=2)
    shop.published.models.pop("all/1")
    del large
    await shop.serving.refresh()
    gc.collect()
    assert [one() for one in kept] == [None] * 3


async def test_an_unfitted_strategy_is_passed_over() -> None:
    shop = RecommendingShop(30)
    shop.strategy("all", in_order(30))
    shop.pod("home", "later", "all", num_results=2)
    shop.pod("alone", "later")
    assert (await ask(shop, "home")).fallback == "unfitted"
    got = await ask(shop, "alone")
    assert (got.items, got.fallback) == ((), "unfitted")


# Redis


async def test_redis_away_history_is_what_the_process_remembers() -> None:
    shop = RecommendingShop(30)
    shop.strategy("latest", after_latest(30))
    shop.strategy("all", in_order(30))
    shop.pod("you", "latest", "all", num_results=2)
    shop.history.act("c:c1", "i9")
    assert (await ask(shop, "you")).items == ("i10", "i11")
    shop.history.away = True
    got = await ask(shop, "you")
    assert (got.items, got.degraded) == (("i10", "i11"), ("history",))
    got = await ask(shop, "you", shopper=Shopper(client_id="someone-new"))
    assert (got.items, got.degraded) == (("i0", "i1"), ("history",))


async def test_redis_stalled_costs_a_part_of_the_budget_and_soon_nothing() -> None:
    shop = RecommendingShop(30)
    shop.histories._share = 0.01  # of 5 seconds
    shop.strategy("latest", after_latest(30))
    shop.strategy("all", in_order(30))
    shop.pod("you", "latest", "all", num_results=2)
    shop.history.stalled = True
    got = [await ask(shop, "you") for _ in range(5)]
    assert all(answer.items == ("i0", "i1") for answer in got)
    assert all(answer.degraded == ("history",) for answer in got)
    assert shop.history.reads == 3, "then it is not asked for a while"
    shop.histories._share = 0.5
    shop.history.stalled = False
    shop.histories._breaker._seconds = 0
    got = [await ask(shop, "you")]
    assert got[0].degraded == ()


async def test_items_that_are_not_at_hand_are_fetched_once() -> None:
    shop = RecommendingShop(30, prefill=False)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=3)
    first = await ask(shop, "home")
    assert shop.features.reads == 1
    assert first.head == (await ask(shop, "home")).head
    assert shop.features.reads == 1
    shop.change(product(1, data={"new": 1}))
    shop.index.rendered.drop(shop.index.base + 1)
    got = await ask(shop, "home")
    assert response(got)["results"][1]["data"] == {"id": "i1", "new": 1}
    assert shop.features.reads == 2


async def test_redis_away_lists_are_made_of_what_is_at_hand() -> None:
    shop = RecommendingShop(30, prefill=False)
    shop.strategy("all", in_order(30))
    shop.strategy("similar", after_seeds(30))
    shop.pod("home", "all", num_results=3)
    shop.pod("pdp", "similar", "all", num_results=3)
    await ask(shop, "home")
    await ask(shop, "home", filters={"price": ("90-100",)})  # i8 and i9
    shop.features.away = True
    got = await ask(shop, "pdp", item_ids=(ItemId("i5"),))
    assert got.degraded == ("features",)
    assert got.items == ("i8", "i9", "i0")
    assert response(got)["results"][0]["value"] == "Item 8"
    got = await ask(shop, "home", item_ids=(ItemId("i0"),))
    assert got.items[:2] == ("i1", "i2")


async def test_redis_away_and_nothing_at_hand_the_list_is_bare_not_empty() -> None:
    shop = RecommendingShop(30, prefill=False)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=2)
    shop.features.stalled = True
    shop.service._showing._share = 0.02  # of 5 seconds
    got = await ask(shop, "home")
    assert got.degraded == ("features",)
    assert [result["data"] for result in response(got)["results"]] == [
        {"id": "i0", "price": 10.0},
        {"id": "i1", "price": 20.0},
    ]


async def test_redis_away_hidden_fields_are_what_is_left_out() -> None:
    shop = RecommendingShop(30)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=1)
    got = await ask(shop, "home", hidden_fields=("_cost",))
    assert response(got)["results"][0]["data"]["_cost"] == 0
    shop.features.away = True
    got = await ask(shop, "home", hidden_fields=("_cost",))
    assert got.degraded == ("features",)
    assert response(got)["results"][0]["value"] == "Item 0"


async def test_an_item_that_is_gone_from_redis_is_replaced() -> None:
    shop = RecommendingShop(30, prefill=False)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=3)
    del shop.features.items["i1"]
    assert (await ask(shop, "home")).items == ("i0", "i2")
    assert (await ask(shop, "home", num_results=2)).items == ("i0", "i2")


async def test_what_changed_while_it_was_fetched_is_not_kept() -> None:
    shop = RecommendingShop(30, prefill=False)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=1)
    read = shop.features.features

    async def overtaken(*args: Any) -> Any:
        found = await read(*args)
        shop.change(product(0, data={"newer": True}))
        shop.index.rendered.drop(shop.index.base)
        return found

    shop.features.features = overtaken  # type: ignore[method-assign]
    await ask(shop, "home")
    shop.features.features = read  # type: ignore[method-assign]
    got = await ask(shop, "home")
    assert response(got)["results"][0]["data"]["newer"] is True


# Serving


async def test_a_model_that_cannot_be_loaded_leaves_the_one_before_and_is_reported() -> None:
    shop = RecommendingShop(30)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=1)
    await ask(shop, "home")
    shop.strategy("all", Scripted(lambda *_: candidates([5])), number=2)
    model = shop.published.models.pop("all/2")
    assert (await ask(shop, "home")).items == ("i0",)
    (problem,) = shop.serving.problems()
    assert (problem.merchant, problem.subject) == (SHOP, "all")
    assert "missing" in problem.reason
    shop.published.models["all/2"] = model
    assert (await ask(shop, "home")).items == ("i0",), "not tried at every poll"
    shop.serving._retry_at[SHOP] = 0
    assert (await ask(shop, "home")).items == ("i5",)
    assert shop.serving.problems() == []


async def test_a_request_keeps_its_snapshot_while_another_is_published() -> None:
    shop = RecommendingShop(30)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=1)
    await shop.serving.refresh()
    old = shop.serving.merchants()[SHOP]
    loads = shop.published.loads
    shop.pod("home", "all", num_results=2)
    await shop.serving.refresh()
    assert shop.published.loads == loads, "a model that is unchanged is not loaded again"
    request = RecommendationRequest(pod_id="home")
    new = shop.serving.merchants()[SHOP]
    answers = [await shop.service.recommend(snapshot, request) for snapshot in (old, new)]
    assert [len(answer.items) for answer in answers] == [1, 2]


async def test_configuration_away_everything_serves_on() -> None:
    shop = RecommendingShop(30)
    shop.strategy("all", in_order(30))
    shop.pod("home", "all", num_results=1)
    assert shop.serving.missing() is not None
    await shop.serving.refresh()
    assert shop.serving.missing() is None
    shop.serving._poll_seconds = 0.001
    shop.published.away = True
    following = asyncio.create_task(shop.serving.run())
    while shop.serving.stale() is None:
        await asyncio.sleep(0.001)
    snapshot = shop.serving.merchants()[SHOP]
    got = await shop.service.recommend(snapshot, RecommendationRequest(pod_id="home"))
    assert got.items == ("i0",)
    shop.published.away = False
    shop.pod("home", "all", num_results=2)
    while len(shop.serving.merchants()[SHOP].pods["home"].pod.chain) != 1 or shop.serving.stale():
        await asyncio.sleep(0.001)
    following.cancel()
    assert shop.serving.merchants()[SHOP].pods["home"].pod.num_results == 2


async def test_a_merchant_that_is_gone_is_forgotten() -> None:
    shop = RecommendingShop(3)
    await shop.serving.refresh()
    other = MerchantId("other")
    configuration = shop.published.configurations.pop(SHOP)
    merchant = msgspec.structs.replace(configuration.merchant, id=other)
    shop.published.configurations[other] = msgspec.structs.replace(
        configuration, merchant=merchant, keys=()
    )
    await shop.serving.refresh()
    assert list(shop.serving.merchants()) == [other]
    assert shop.serving.allowed_origins("key-shop") is None


async def test_a_models_items_that_the_catalogue_lacks_come_to_life_later() -> None:
    shop = RecommendingShop(3)
    shop.items.append(product(3))  # the model knows it, the catalogue does not yet
    shop.strategy("all", in_order(4))
    shop.pod("home", "all", num_results=4)
    assert (await ask(shop, "home")).items == ("i0", "i1", "i2")
    shop.change(product(3))
    assert (await ask(shop, "home")).items == ("i0", "i1", "i2", "i3")


async def test_a_list_outlives_models_that_had_no_turn_for_it() -> None:
    shop = RecommendingShop(30)
    shop.strategy("similar", after_seeds(30))
    shop.strategy("popular", in_order(30))
    shop.pod("pdp", "similar", "popular", num_results=2)
    lists = shop.service.prepared_lists

    def backwards() -> Scripted:
        return Scripted(lambda _, limit: candidates(range(29, 29 - min(limit, 30), -1)))

    async def swap(id_: str, model: Scripted, number: int) -> None:
        shop.strategy(id_, model, number=number)
        await shop.serving.refresh()

    async def shown(*seeds: str) -> tuple[tuple[str, ...], bool]:
        """A list, and whether it was ready."""
        snapshot, hits = shop.serving.merchants()[SHOP], lists.hits
        ready = shop.service.prepared(snapshot, "pdp", str(seeds))
        got = ready or await ask(shop, "pdp", item_ids=seeds, dependence=str(seeds))
        return got.items, lists.hits > hits

    await shop.serving.refresh()
    for _ in range(2):
        await shown("i3")
        await shown()
    assert await shown("i3") == (("i4", "i5"), True)
    assert await shown() == (("i0", "i1"), True)
    await swap("popular", backwards(), 2)
    assert await shown("i3") == (("i4", "i5"), True)  # `popular` had no turn
    assert await shown() == (("i29", "i28"), False)  # `similar` had nothing to go by
    await swap("similar", backwards(), 2)
    assert await shown("i3") == (("i29", "i28"), False)
