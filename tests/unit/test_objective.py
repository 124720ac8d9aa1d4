"""Objectives: calibrated scores are monotone probabilities, and lists are ordered by value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.domain.event import Shopper
from app.domain.objective import (
    ByValue,
    Calibration,
    Curve,
    Objective,
    best_curve,
    curve,
    isotonic,
    valued,
)
from app.domain.recommendation import RecommendationRequest
from app.domain.selection import Pool
from app.services.calibrate import calibrate
from tests.recommending_shop import SHOP, RecommendingShop, Scripted, candidates
from vitrine_sdk import Arrays, Candidates, Config, Context, EventType, Needs, TrainingData
from vitrine_sdk.testing import DAY, NOW, EventRow, ItemRow, shop

SCORES = arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32))


@given(SCORES, st.randoms())
def test_a_curve_never_falls_and_is_a_probability(scores: Any, random: Any) -> None:
    chosen = np.array([random.random() < 0.3 for _ in scores])
    made = curve("score", scores, chosen)
    assert list(made.at) == sorted(set(made.at))
    grid = np.sort(np.concatenate((scores, scores * 3, [0.0])))
    found = made(grid, np.zeros(len(grid)))
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    # The prior is of the mean itself: what is foretold in all is what happened in all.
    counted = made(scores, np.zeros(len(scores)))
    assert counted.min() <= chosen.mean() + 1e-9
    assert counted.max() >= chosen.mean() - 1e-9


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=50))
def test_isotonic_is_the_nearest_never_falling_sequence(pairs: list[tuple[float, float]]) -> None:
    values, weights = (np.array(column) for column in zip(*pairs, strict=True))
    fitted = isotonic(values, weights)
    assert (np.diff(fitted) >= -1e-12).all()
    assert (fitted * weights).sum() == pytest.approx((values * weights).sum())
    # Nearer than a straight line of any slope, which never falls either.
    loss = (weights * (values - fitted) ** 2).sum()
    for slope in (0, 0.01, 0.1):
        line = slope * np.arange(len(values), dtype=np.float64)
        line += (weights * (values - line)).sum() / weights.sum()
        assert loss <= (weights * (values - line) ** 2).sum() + 1e-9


def test_few_observations_are_drawn_to_the_mean() -> None:
    few = curve("score", np.array([0.0, 1.0]), np.array([False, True]))
    many = curve("score", np.repeat([0.0, 1.0], 5000), np.repeat([False, True], 5000))
    low, high = few(np.array([0, 1]), np.zeros(2))
    assert 0.4 < low < 0.5 < high < 0.6
    assert many(np.array([0, 1]), np.zeros(2)) == pytest.approx([0, 1], abs=0.01)


def test_the_truth_is_found_by_what_carries_it() -> None:
    """Of scores that mean nothing across shoppers, the place is taken; else the score."""
    rng = np.random.default_rng(0)
    ranks = np.tile(np.arange(20), 2000)
    scale = np.repeat(rng.lognormal(0, 3, 2000), 20)
    held = np.repeat(np.arange(2000) % 2 == 1, 20)
    chance = 0.3 / (1 + ranks)
    chosen = rng.random(len(ranks)) < chance
    by_place = best_curve((20 - ranks) * scale, ranks, chosen, held)
    assert by_place is not None
    assert by_place.of == "rank"
    assert by_place(np.zeros(20), np.arange(20)) == pytest.approx(chance[:20], abs=0.03)
    score = rng.random(len(ranks))
    by_score = best_curve(score, ranks, rng.random(len(ranks)) < score / 4, held)
    assert by_score is not None
    assert by_score.of == "score"
    assert by_score(np.array([0.2, 0.8]), np.zeros(2)) == pytest.approx([0.05, 0.2], abs=0.02)
    assert best_curve(score, ranks, np.zeros(len(ranks), np.bool_), held) is None


PRICES = st.one_of(st.just(float("nan")), st.floats(0.125, 10_000, width=32))


@given(
    st.lists(st.tuples(st.floats(0, 1), PRICES), min_size=1, max_size=60),
    st.integers(1, 20),
    st.floats(0, 3),
)
def test_a_list_is_never_dearer_than_the_guard_allows(
    pairs: list[tuple[float, float]], want: int, shift: float
) -> None:
    probability = np.array([one for one, _ in pairs])
    price = np.array([one for _, one in pairs], np.float32)
    value, exponent = valued(probability, price, want, shift)
    known = np.isfinite(price)
    if not known.any():
        assert exponent == 0
        return
    money = np.where(known, price, price[known].mean())
    plain = np.argsort(-probability, kind="stable")[:want]
    chosen = np.argsort(-value, kind="stable")[:want]
    assert money[chosen].mean() <= money[plain].mean() * (1 + shift) * (1 + 1e-6)
    assert 0 <= exponent <= 1


def test_the_guard_bites_where_money_would_take_all() -> None:
    probability = np.array([0.5, 0.4, 0.3, 0.01])
    price = np.array([1, 1, 1, 1000], np.float32)
    assert valued(probability, price, 2, shift=1e6)[1] == 1
    value, exponent = valued(probability, price, 2, shift=0.25)
    assert exponent < 1
    assert 3 not in np.argsort(-value)[:2]


@dataclass
class Shelf:
    price: Any = field(default_factory=lambda: np.array([1, 2, 3, 4, 5, 6], np.float32))


def pool(rows: list[int], scores: list[float], sources: list[int]) -> Pool:
    return Pool(
        np.array(rows, np.int32),
        np.array(scores, np.float32),
        np.array(sources, np.uint8),
        np.zeros(len(rows), np.uint8),
    )


FLAT = Curve(of="score", at=(0.0, 1.0), probability=(0.0, 1.0))
STEEP = Curve(of="score", at=(0.0, 10.0), probability=(0.0, 1.0))


def test_a_blend_is_by_value_and_else_the_chain_comes_first() -> None:
    asked = pool([0, 1, 2, 3], [0.9, 0.2, 6.0, 5.0], [0, 0, 1, 1])
    blended = ByValue(Objective.CLICKS, (FLAT, STEEP), Shelf(), True, 0.25)(asked, 4)
    assert blended.rows.tolist() == [0, 2, 3, 1]
    assert blended.scores == pytest.approx([0.9, 0.6, 0.5, 0.2])
    assert blended.sources.tolist() == [0, 1, 1, 0]
    chained = ByValue(Objective.CLICKS, (FLAT, STEEP), Shelf(), False, 0.25)(asked, 4)
    assert chained.rows.tolist() == [0, 1, 2, 3]
    dear = ByValue(Objective.REVENUE, (FLAT, STEEP), Shelf(), True, 10.0)(asked, 4)
    assert dear.rows.tolist() == [3, 2, 0, 1]  # 2.0, 1.8, 0.9, 0.4


def test_what_has_no_curve_keeps_its_order_and_its_scores() -> None:
    asked = pool([0, 1, 2, 3], [0.2, 0.2, 6.0, 5.0], [0, 0, 1, 1])
    found = ByValue(Objective.CLICKS, (FLAT, None), Shelf(), False, 0.25)(asked, 4)
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert found.scores[2:].tolist() == [6, 5]
    assert ByValue(Objective.CLICKS, (None, None), Shelf(), False, 0.25)(asked, 4) is asked


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 2)), min_size=1, max_size=40),
    st.booleans(),
    st.sampled_from(Objective),
)
def test_nothing_is_lost_and_values_never_rise(
    rows: list[tuple[float, int]], blend: bool, objective: Objective
) -> None:
    rows = sorted(rows, key=lambda row: (row[1], -row[0]))
    asked = pool([i % 6 for i in range(len(rows))], [s for s, _ in rows], [c for _, c in rows])
    found = ByValue(objective, (FLAT, STEEP, FLAT), Shelf(), blend, 0.25)(asked, 5)
    before = sorted(zip(asked.rows.tolist(), asked.sources.tolist(), strict=True))
    assert sorted(zip(found.rows.tolist(), found.sources.tolist(), strict=True)) == before
    groups = [found.scores] if blend else [found.scores[found.sources == c] for c in range(3)]
    assert all((np.diff(group) <= 0).all() for group in groups)


# Calibration on a shop


class Plain(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class FirstIsBest:
    """Item 0 first, then 1, 2, ...: with scores as they please."""

    contract = 1
    format = 1
    reasons = ("first",)
    config = Plain
    newest = 0

    def needs(self, config: Plain) -> Needs:
        return Needs(history=5)

    def fit(self, data: TrainingData, config: Plain, seed: int) -> Arrays:
        FirstIsBest.newest = int(data.events.time.max())
        return {"n": np.array([len(data.items)], np.int32)}

    def load(self, arrays: Arrays, config: Plain, items: int) -> Any:
        return self

    def recommend(self, context: Context, limit: int) -> Candidates:
        n = min(limit, 20)
        return Candidates(
            np.arange(n, dtype=np.int32), np.linspace(9, 1, n, dtype=np.float32),
            np.zeros(n, np.uint8),
        )  # fmt: skip


def events(*, shown: int) -> TrainingData:
    """Three hundred shoppers; item i is chosen by the share 1 / (2 + i), and bought by half of
    those. `shown`: how many of the first items were shown to everybody; 0: nobody says."""
    rng = np.random.default_rng(3)
    rows = []
    for who in range(300):
        rows.append(
            EventRow(shopper=f"s{who}", item="i19", type=EventType.VIEW, time=NOW - 20 * DAY)
        )
        for item in range(20):
            at = NOW - 2 * DAY + item
            if item < shown:
                rows.append(
                    EventRow(shopper=f"s{who}", item=f"i{item}", type=EventType.IMPRESSION, time=at)
                )
            if rng.random() < 1 / (2 + item):
                rows.append(
                    EventRow(
                        shopper=f"s{who}", item=f"i{item}", type=EventType.CLICK, time=at + 100
                    )
                )
                if rng.random() < 0.5:
                    rows.append(
                        EventRow(
                            shopper=f"s{who}",
                            item=f"i{item}",
                            type=EventType.PURCHASE,
                            time=at + 200,
                        )
                    )
    rows.append(EventRow(shopper="s0", item="i0", type=EventType.VIEW, time=NOW))
    return shop([ItemRow(id=f"i{n}", price=1.0 + n) for n in range(20)], rows)


def test_calibration_finds_how_often_places_are_chosen() -> None:
    found = calibrate(FirstIsBest(), Plain(), events(shown=0), days=7)
    assert found is not None
    assert FirstIsBest.newest < NOW - 7 * DAY  # learned from nothing that is asked for
    assert found.source == "held_out"
    assert 250 < found.shoppers <= 300  # those who came back
    assert found.clicks is not None
    assert found.purchases is not None
    scores, ranks = np.linspace(9, 1, 20), np.arange(20)
    true = 1 / (2 + np.arange(20))
    assert found.clicks(scores, ranks) == pytest.approx(true, abs=0.1)
    assert found.purchases(scores, ranks) == pytest.approx(true / 2, abs=0.08)


def test_only_what_was_shown_counts_where_that_is_known() -> None:
    found = calibrate(FirstIsBest(), Plain(), events(shown=3), days=7)
    assert found is not None
    assert found.source == "impressions"
    assert found.clicked == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3, abs=0.05)


def test_nobody_to_ask_is_no_calibration() -> None:
    data = shop(
        [ItemRow(id="a")], [EventRow(shopper="ann", item="a", type=EventType.VIEW, time=NOW)]
    )
    assert calibrate(FirstIsBest(), Plain(), data) is None


# In the chain


def calibrated(shelf: RecommendingShop, id_: str, number: int, curve: Curve) -> None:
    location = f"{id_}/{number}"
    shelf.published.models[location] = replace(
        shelf.published.models[location],
        calibration=Calibration(
            clicks=curve, purchases=curve, source="held_out", days=7, shoppers=100
        ),
    )


async def listed(shelf: RecommendingShop, pod: str) -> list[str]:
    await shelf.serving.refresh()
    answer = await shelf.service.recommend(
        shelf.serving.merchants()[SHOP],
        RecommendationRequest(pod_id=pod, shopper=Shopper(client_id="c1"), num_results=4),
    )
    response = msgspec.json.decode(answer.body("r"))["response"]
    return [one["data"]["id"] for one in response["results"]]


def of(*items: int) -> Scripted:
    return Scripted(lambda _, limit: candidates(items[:limit]))


async def test_a_pod_with_an_objective_shows_what_is_worth_most() -> None:
    shelf = RecommendingShop(30)
    shelf.strategy("near", of(0, 1, 2, 3, 4, 5))
    shelf.strategy("far", of(10, 11, 2, 12))
    half = Curve(of="rank", at=(-5.0, 0.0), probability=(0.0, 0.5))
    much = Curve(of="rank", at=(-3.0, 0.0), probability=(0.3, 0.9))
    calibrated(shelf, "near", 1, half)
    calibrated(shelf, "far", 1, much)
    shelf.pod("plain", "near", "far")
    shelf.pod("clicks", "near", "far", objective=Objective.CLICKS, blend=True)
    shelf.pod("chained", "near", "far", objective=Objective.CLICKS)
    shelf.pod("money", "near", "far", objective=Objective.REVENUE, blend=True, price_shift=0.0)
    shelf.pod("greed", "near", objective=Objective.REVENUE, price_shift=100.0)
    assert await listed(shelf, "plain") == ["i0", "i1", "i2", "i3"]
    assert await listed(shelf, "chained") == ["i0", "i1", "i2", "i3"]
    # .9 and .7 of the second, whose third is a duplicate, then the first's .5; and .4 behind it.
    assert await listed(shelf, "clicks") == ["i10", "i11", "i0", "i12"]
    # Not dearer than these in the mean, and so the same ones.
    assert set(await listed(shelf, "money")) == {"i10", "i11", "i0", "i12"}
    # 10 × .5, 20 × .4, 30 × .3, 40 × .2, 50 × .1
    assert await listed(shelf, "greed") == ["i2", "i1", "i3", "i0"]


async def test_without_calibration_the_chain_serves_as_it_is() -> None:
    shelf = RecommendingShop(30)
    shelf.strategy("near", of(3, 2, 1))
    shelf.strategy("far", of(10, 11))
    shelf.pod("clicks", "near", "far", objective=Objective.CLICKS, blend=True)
    assert await listed(shelf, "clicks") == ["i3", "i2", "i1", "i10"]
    calibrated(shelf, "far", 1, FLAT)
    shelf.strategy("near", of(3, 2, 1), number=2)  # published anew, and loaded anew
    assert await listed(shelf, "clicks") == ["i3", "i2", "i1", "i10"]
