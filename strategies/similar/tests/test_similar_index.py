"""The index of content neighbours finds what all cosines would."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import vitrine_similar.strategy
from vitrine_sdk.testing import ItemRow, shop
from vitrine_similar import Similar, SimilarConfig
from vitrine_similar.content import features

WORDS = ("ash", "birch", "cedar", "elm", "fir", "larch", "maple", "oak", "pine", "yew", "teak")
KEEP = 10


def catalogue(count: int) -> list[ItemRow]:
    dice = np.random.default_rng(4)
    return [
        ItemRow(
            id=f"i{n}",
            name=" ".join(dice.choice(WORDS, 3)) + f" {n % 50}",
            price=float(dice.integers(1, 300)),
            groups=(f"g{n % 20}",),
        )
        for n in range(count)
    ]


def test_recall() -> None:
    pytest.importorskip("faiss")
    from vitrine_similar.index import ContentIndex

    matrix = features(shop(catalogue(1_500), []).items)
    cosines = (matrix @ matrix.T).toarray()
    np.fill_diagonal(cosines, 0)
    rows = np.arange(0, 1_500, 7, dtype=np.int32)
    found = ContentIndex(matrix, 3).nearest(rows, KEEP)
    assert (np.diff(found.offsets)[np.setdiff1d(np.arange(1_500), rows)] == 0).all()
    hits = 0
    for row in rows.tolist():
        cells = slice(found.offsets[row], found.offsets[row + 1])
        items, weights = found.items[cells], found.weights[cells]
        assert row not in items
        assert len(set(items.tolist())) == len(items) == KEEP
        # The true cosines, whatever the projection says, falling.
        assert weights == pytest.approx(cosines[row, items], abs=1e-5)
        assert (np.diff(weights) <= 0).all()
        hits += int((weights >= np.sort(cosines[row])[-KEEP] - 1e-5).sum())
    assert hits / (KEEP * len(rows)) > 0.95


def test_a_large_catalogue_is_asked_by_the_index() -> None:
    pytest.importorskip("faiss")
    data = shop(catalogue(300), [])
    strategy = Similar()
    config = SimilarConfig(index_from=300)
    arrays = strategy.fit(data, config, 1)
    again = strategy.fit(data, config, 1)
    assert all((arrays[name] == again[name]).all() for name in arrays)
    assert np.diff(arrays["neighbours_offsets"]).max() == 50
    model = strategy.load(arrays, config, 300)
    assert len(model.neighbours.items) == len(arrays["neighbours_items"])


def test_without_the_extra_it_is_said_and_the_small_way_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vitrine_similar.strategy, "is_installed", lambda: False)
    data = shop(catalogue(60), [])
    with caplog.at_level(logging.WARNING):
        found = Similar().fit(data, SimilarConfig(index_from=50), 0)
    assert "vitrine-similar[ann]" in caplog.text
    small = Similar().fit(data, SimilarConfig(), 0)
    assert all((found[name] == small[name]).all() for name in found)
