"""Graph filtering: who chose what, blurred and sharpened (BSPM: Choi, Hong, Park and Cho,
"Blurring-Sharpening Process Models for Collaborative Filtering", 2023, which goes on from GF-CF:
Shen et al., "How Powerful is Graph Convolution for Recommendation?", 2021). No order, no decay: for
tastes that last, and histories that are long.

With `P` the normalised co-occurrence of items and `V` its smoothest components, a history `x` has
the scores ``(x P + low_pass * x D^-1/2 V V' D^1/2) g(P)``, where ``g`` is one step of the
Runge-Kutta method of fourth order along ``ds/dt = -s P``. `P` itself is never made: its first power
is walked, from the history's items to their shoppers and on to what those chose. The rest of the
powers counts among the smoothest components and is taken there; beyond them ``g`` is a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from vitrine_sdk import (
    NO_CANDIDATES,
    Arrays,
    Candidates,
    Config,
    Context,
    EventType,
    FloatArray,
    Needs,
    TrainingData,
)
from vitrine_sdk.cooccurrence import type_weights
from vitrine_sdk.neighbours import Neighbours, contained
from vitrine_sdk.ranking import ranked

DAY = 86_400
SHARPENED = 4  # of so many components one is sharpened by itself
BLOCK = 64  # components sharpened at a time

Weight = Annotated[float, msgspec.Meta(ge=0, le=1000)]
HalfArray = npt.NDArray[np.float16]


class CollaborativeConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is taste, and how smooth it is taken to be."""

    view: Weight = 1.0
    click: Weight = 1.0
    cart: Weight = 1.0
    purchase: Weight = 1.0
    search: Weight = 0.0
    conversion: Weight = 1.0
    history: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 1000
    """How many of the latest events are looked at; no more than the host keeps."""
    window_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 3650.0
    low_pass: Weight = 0.2
    """How much the smooth part counts beside co-occurrence."""
    size: Annotated[int, msgspec.Meta(ge=8, le=1024)] = 448
    """How many of the smoothest components are kept."""
    sharpening: Annotated[float, msgspec.Meta(ge=0, le=2.7)] = 2.5
    """How much of what everybody's taste has in common is taken away again; 0: nothing."""
    user_damping: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.3
    """How much less a shopper with a long history says about which items go together; 0.5 in the
    papers."""
    shoppers_an_item: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 2000
    """Only so many of an item's shoppers are walked over, drawn at random."""
    shoppers: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 500
    """Only so many shoppers, the closest, are walked over for one request."""
    candidates: Annotated[int, msgspec.Meta(ge=100, le=100_000)] = 1000
    """So many items, the best by co-occurrence, are looked at through the components too."""


@dataclass(frozen=True, slots=True, eq=False)
class CollaborativeModel:
    shoppers: Neighbours  # an item's
    choices: Neighbours  # a shopper's
    history: HalfArray  # n, size: what an item of the history says of the components
    answer: HalfArray  # n, size: and they of an item
    config: CollaborativeConfig

    def recommend(self, context: Context, limit: int) -> Candidates:
        past = np.unique(context.history.items)
        people, near = self.shoppers.merged(past, np.ones(len(past), np.float32))
        if not len(people):
            return NO_CANDIDATES
        if len(people) > self.config.shoppers:
            # A total order, so that the same are taken on every machine.
            closest = np.sort(np.argsort(-near, kind="stable")[: self.config.shoppers])
            people, near = people[closest], near[closest]
        found, scores = self.choices.merged(people, near)
        keep = ~contained(found, past)
        if context.eligible is not None:
            keep &= context.eligible[found]
        found, scores = found[keep], scores[keep]
        most = max(self.config.candidates, limit)
        if len(found) > most:
            best = np.argpartition(-scores, most - 1)[:most]
            found, scores = found[best], scores[best]
        if not len(found):
            return NO_CANDIDATES
        taste = self.history[past].sum(axis=0, dtype=np.float32)
        scores = scores + self.answer[found].astype(np.float32) @ taste
        return ranked(found, scores.astype(np.float32), limit, 0, context.eligible)


class Collaborative:
    """See `CollaborativeConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 2
    reasons: ClassVar[tuple[str, ...]] = ("similar_taste",)

    @property
    def config(self) -> type[CollaborativeConfig]:
        return CollaborativeConfig

    def needs(self, config: CollaborativeConfig) -> Needs:
        return Needs(history=config.history, eligible=True)

    def fit(self, data: TrainingData, config: CollaborativeConfig, seed: int) -> Arrays:
        chosen = _incidence(data, config)
        users = np.maximum(np.asarray(chosen.sum(axis=1)).ravel(), 1e-9)
        items = np.maximum(np.asarray(chosen.sum(axis=0)).ravel(), 1e-9)
        damped = (_scaled(users, -config.user_damping) @ chosen @ _scaled(items, -0.5)).tocsr()
        size = min(config.size, *chosen.shape)
        components, spectrum = _smoothest(damped, size, seed)
        largest = max(float(spectrum[0]), 1e-12) if len(spectrum) else 1.0
        spectrum = spectrum / largest
        damped *= np.float32(largest**-0.5)
        step = config.sharpening
        beyond = float(_sharpened(spectrum[-1], step)) if len(spectrum) else 1.0

        root = np.sqrt(items).astype(np.float32)[:, None]
        smooth = _filtered(damped, components * root, step)
        own = components[:, : max(size // SHARPENED, 1)]
        power = spectrum[: own.shape[1]]
        weight = (power * (_sharpened(power, step) - beyond)).astype(np.float32)
        scale = np.float32(max(config.low_pass, 1e-9))
        history = np.hstack((components / root * (chosen.sum() > 0), own))
        answer = np.hstack((smooth * scale, own * weight))
        unit = np.float32(max(float(np.abs(history).max(initial=0)), 1e-12))
        return {
            **_shoppers(damped, config.shoppers_an_item, seed).arrays("shoppers"),
            **_choices(damped, beyond).arrays("choices"),
            "history": (history / unit).astype(np.float16),
            "answer": (answer * unit).astype(np.float16),
        }

    def load(self, arrays: Arrays, config: CollaborativeConfig, items: int) -> CollaborativeModel:
        offsets = arrays.get("choices_offsets")
        if offsets is None or offsets.ndim != 1 or not len(offsets):
            raise ValueError("array 'choices_offsets' must be there")
        sides = [arrays.get(name) for name in ("history", "answer")]
        for name, side in zip(("history", "answer"), sides, strict=True):
            if side is None or side.dtype != np.float16 or side.ndim != 2 or len(side) != items:
                raise ValueError(f"array {name!r} must be float16 with {items} rows")
        history, answer = sides
        assert history is not None  # noqa: S101  # checked above
        assert answer is not None  # noqa: S101
        if history.shape != answer.shape:
            raise ValueError("arrays 'history' and 'answer' must have the same shape")
        return CollaborativeModel(
            Neighbours.from_arrays(arrays, "shoppers", items),
            Neighbours.from_arrays(arrays, "choices", len(offsets) - 1),
            history,
            answer,
            config,
        )


def _sharpened(power: Any, step: float) -> Any:
    """One Runge-Kutta step of ``ds/dt = -s * power``, as a factor."""
    x = step * power
    return 1 - x + x**2 / 2 - x**3 / 6 + x**4 / 24


def _filtered(damped: sparse.csr_matrix, columns: FloatArray, step: float) -> FloatArray:
    """The columns after that step along all of the co-occurrence."""
    across = damped.T.tocsr()
    found = np.empty_like(columns)
    for start in range(0, columns.shape[1], BLOCK):
        term = np.ascontiguousarray(columns[:, start : start + BLOCK])
        total = term.copy()
        for order in range(1, 5):
            term = (across @ (damped @ term)) * np.float32(-step / order)
            total += term
        found[:, start : start + BLOCK] = total
    return found


def _shoppers(damped: sparse.csr_matrix, keep: int, seed: int) -> Neighbours:
    """Each item's shoppers; of a popular item's some, who stand for all."""
    columns = damped.tocsc()
    held = np.diff(columns.indptr)
    item = np.repeat(np.arange(len(held)), held)
    weights = columns.data.astype(np.float32)
    rows = columns.indices.astype(np.int32)
    many = np.flatnonzero(held[item] > keep)
    if len(many):
        lot = np.random.default_rng(seed).random(len(many))
        order = np.lexsort((lot, item[many]))
        first = np.searchsorted(item[many], item[many])
        stays = np.ones(len(item), np.bool_)
        stays[many[order[np.arange(len(many)) - first >= keep]]] = False
        weights *= np.maximum(held[item] / keep, 1).astype(np.float32)
        weights, rows = weights[stays], rows[stays]
        held = np.minimum(held, keep)
    return Neighbours(np.concatenate(([0], np.cumsum(held))).astype(np.int64), rows, weights)


def _choices(damped: sparse.csr_matrix, factor: float) -> Neighbours:
    return Neighbours(
        damped.indptr.astype(np.int64),
        damped.indices.astype(np.int32),
        (damped.data * np.float32(factor)).astype(np.float32),
    )


def _incidence(data: TrainingData, config: CollaborativeConfig) -> sparse.csr_matrix:
    """Who has chosen what, each once, with the weight of the strongest event."""
    events = data.events
    weights = type_weights(
        events,
        {
            EventType.VIEW: config.view,
            EventType.CLICK: config.click,
            EventType.CART: config.cart,
            EventType.PURCHASE: config.purchase,
            EventType.SEARCH: config.search,
            EventType.CONVERSION: config.conversion,
        },
    )
    rows = np.flatnonzero((weights > 0) & (events.time >= data.now - config.window_days * DAY))
    n = len(data.items)
    key = events.shopper[rows].astype(np.int64) * max(n, 1) + events.item[rows]
    order = np.lexsort((-weights[rows], key))
    first = order[np.append(True, np.diff(key[order]) != 0)[: len(order)]]
    return sparse.csr_matrix(
        (weights[rows][first], (events.shopper[rows][first], events.item[rows][first])),
        shape=(max(events.shoppers, 1), n),
        dtype=np.float32,
    )


def _smoothest(
    matrix: sparse.csr_matrix, size: int, seed: int
) -> tuple[FloatArray, npt.NDArray[Any]]:
    """The right singular vectors with the largest values, float32[n, size], and the squares of
    those values, by randomised subspace iteration (Halko, Martinsson and Tropp, 2011)."""
    n = matrix.shape[1]
    if not size or not matrix.nnz:
        return np.zeros((n, size), np.float32), np.zeros(size, np.float32)
    width = min(size + 24, *matrix.shape)
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((n, width)).astype(np.float32)
    across = matrix.T.tocsr()
    for _ in range(4):
        basis = np.linalg.qr(across @ (matrix @ basis))[0]
    projected = matrix @ basis
    values, vectors = np.linalg.eigh(projected.T @ projected)
    found = np.ascontiguousarray((basis @ vectors[:, ::-1])[:, :size], np.float32)
    return found, np.maximum(values[::-1][:size], 0)


def _scaled(degree: npt.NDArray[Any], power: float) -> Any:
    return sparse.diags_array(degree**power, dtype=np.float32)
