"""The scores are those of the papers' matrices, made densely."""

from __future__ import annotations

import numpy as np
import pytest
from vitrine_collaborative import Collaborative, CollaborativeConfig

from vitrine_sdk import Context, History
from vitrine_sdk.testing import small_shop

EVERYTHING = {
    "window_days": 3650.0,
    "user_damping": 0.5,
    "shoppers": 1_000_000,
    "shoppers_an_item": 1_000_000,
    "candidates": 100_000,
}


def dense(config: CollaborativeConfig) -> tuple[np.ndarray, np.ndarray]:
    """Who chose what, once each; and the item-to-item matrix of GF-CF, with exponents."""
    events = small_shop().events
    chosen = np.zeros((events.shoppers, len(small_shop().items)))
    weighed = {1: config.view, 2: config.click, 3: config.cart, 4: config.purchase}
    weighed[6] = config.conversion
    for shopper, item, kind in zip(events.shopper, events.item, events.type, strict=True):
        if item >= 0 and weighed.get(int(kind), 0) > 0:
            chosen[shopper, item] = 1
    users = np.maximum(chosen.sum(1), 1e-9)
    items = np.maximum(chosen.sum(0), 1e-9)
    damped = chosen / users[:, None] ** config.user_damping / items**0.5
    co = damped.T @ damped
    values, vectors = np.linalg.eigh(co)
    vectors = vectors[:, ::-1][:, : config.size]
    low = (vectors @ vectors.T) / items[:, None] ** 0.5 * items**0.5
    return chosen, co / values[-1] + config.low_pass * low


def test_without_sharpening_they_are_gf_cf() -> None:
    config = CollaborativeConfig(**EVERYTHING, sharpening=0.0, low_pass=0.3, size=32)
    data = small_shop()
    chosen, wanted = dense(config)
    strategy = Collaborative()
    model = strategy.load(strategy.fit(data, config, 3), config, len(data.items))
    compared = 0
    for shopper in np.flatnonzero(chosen.sum(1) > 0)[:20]:
        past = np.flatnonzero(chosen[shopper]).astype(np.int32)
        history = History(past, np.ones(len(past), np.int8), np.ones(len(past), np.float32))
        answer = model.recommend(
            Context(now=data.now, seeds=past[:0], history=history), len(data.items)
        )
        scores = wanted[past].sum(0)
        assert answer.scores == pytest.approx(scores[answer.items], rel=2e-2, abs=2e-3)
        compared += len(answer.items)
    assert compared > 20


def test_some_of_an_items_shoppers_stand_for_all() -> None:
    strategy, data = Collaborative(), small_shop()
    few = CollaborativeConfig(window_days=3650.0, shoppers_an_item=2)
    arrays = strategy.fit(data, few, 3)
    sizes = np.diff(arrays["shoppers_offsets"])
    assert sizes.max() == 2
    every = strategy.fit(data, CollaborativeConfig(window_days=3650.0), 3)
    held = np.diff(every["shoppers_offsets"])
    assert held.max() > 2
    assert (sizes == np.minimum(held, 2)).all()
    # Drawn fairly, and weighed up to all of them.
    whole = arrays["shoppers_weights"].sum() / every["shoppers_weights"].sum()
    assert whole == pytest.approx(1, abs=0.2)


def test_sharpening_takes_away_what_all_have_in_common() -> None:
    strategy, data = Collaborative(), small_shop()
    popular = np.bincount(data.events.item[data.events.item >= 0], minlength=len(data.items))
    means = []
    for sharpening in (0.0, 1.5):
        config = CollaborativeConfig(window_days=3650.0, sharpening=sharpening)
        model = strategy.load(strategy.fit(data, config, 3), config, len(data.items))
        shown = []
        for item in range(len(data.items)):
            past = np.array([item], np.int32)
            history = History(past, np.ones(1, np.int8), np.ones(1, np.float32))
            answer = model.recommend(Context(now=data.now, seeds=past[:0], history=history), 3)
            shown.append(popular[answer.items].mean() if len(answer.items) else 0)
        means.append(np.mean(shown))
    assert means[1] < means[0]
