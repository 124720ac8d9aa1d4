"""What a pod is for: scores calibrated to probabilities, and lists ordered by expected value.

A strategy's scores compare its own candidates with each other, and nothing else. A *curve* maps
them, or the places they give, to the probability that a shopper chooses the item; probabilities of
different strategies can be compared, multiplied with prices, and blended. Pure functions.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from app.domain.selection import Pool
from vitrine_sdk import FloatArray, IntArray

Values = npt.NDArray[np.float64]

POINTS: Final = 32
"""A curve has so many points, at most."""

PRIOR: Final = 20.0
"""A bin is drawn to the mean as if so many observations of the mean lay in it."""

PRICE_SHIFT: Final = 0.25
_EXPONENTS: Final = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)


class Objective(enum.StrEnum):
    """What a pod's lists are to bring the merchant."""

    CLICKS = "clicks"
    PURCHASES = "purchases"
    REVENUE = "revenue"


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """A monotone, piecewise linear map to a probability; flat beyond its ends."""

    of: Literal["score", "rank"]
    """Of the strategy's score, or of the candidate's place in its list (0, 1, ...)."""
    at: tuple[float, ...]  # ascending, distinct; of "rank", minus the place
    probability: tuple[float, ...]  # never falling, 0 to 1

    def __call__(self, scores: npt.NDArray[Any], ranks: npt.NDArray[Any]) -> Values:
        x = scores if self.of == "score" else -ranks.astype(np.float64)
        return np.interp(x, self.at, self.probability)


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy's scores mean in a shop; kept with the model version."""

    clicks: Curve | None = None  # None: too little to tell
    purchases: Curve | None = None
    source: Literal["impressions", "held_out"]
    """impressions: of what shoppers were shown in the newest days. held_out: of all that the
    strategy would have shown them."""
    days: Annotated[int, msgspec.Meta(ge=1)]  # newest ones that were asked for
    shoppers: int  # that were asked
    clicked: float = 0.0  # share of the candidates
    purchased: float = 0.0

    def curve(self, objective: Objective) -> Curve | None:
        return self.clicks if objective is Objective.CLICKS else self.purchases


def isotonic(values: Values, weights: Values) -> Values:
    """The never falling sequence next to `values` in weighted squares: pool adjacent violators
    (Ayer et al., 1955)."""
    means: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, size = value, weight, 1
        while means and means[-1] >= mean:
            total = masses[-1] + mass
            mean = (means[-1] * masses.pop() + mean * mass) / total
            means.pop()
            mass, size = total, size + sizes.pop()
        means.append(mean)
        masses.append(mass)
        sizes.append(size)
    return np.repeat(np.array(means, np.float64), sizes)


def curve(
    of: Literal["score", "rank"],
    x: npt.NDArray[Any],
    chosen: npt.NDArray[np.bool_],
    prior: float = PRIOR,
) -> Curve:
    """A curve from observations: equally full bins, each drawn to the mean by `prior`
    observations, made monotone.

    Args:
        x: what it is a curve of, larger for what is thought better; finite, not empty.
        chosen: whether the shopper did.
    """
    order = np.argsort(x, kind="stable")
    x, y = np.asarray(x, np.float64)[order], chosen[order].astype(np.float64)
    mean = float(y.mean())
    # Equal ones are never divided: a bin ends where x changes.
    ends = np.flatnonzero(np.append(np.diff(x) != 0, True)) + 1
    goals = np.linspace(0, len(x), POINTS + 1)[1:]
    ends = np.unique(ends[np.minimum(np.searchsorted(ends, goals), len(ends) - 1)])
    starts = np.concatenate(([0], ends[:-1]))
    counts = (ends - starts).astype(np.float64)
    hits = np.add.reduceat(y, starts)
    middle = np.add.reduceat(x, starts) / counts
    smooth = isotonic((hits + prior * mean) / (counts + prior), counts + prior)
    # Rounded sums of nearly equal ones may not ascend: what does not is left out.
    rising = np.concatenate(([True], np.diff(middle) > 0))
    return Curve(
        of=of,
        at=tuple(middle[rising].tolist()),
        probability=tuple(np.clip(smooth[rising], 0, 1).tolist()),
    )


def log_loss(probability: Values, chosen: npt.NDArray[np.bool_]) -> float:
    """Mean surprise, in nats, of what shoppers did."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return float(-np.where(chosen, np.log(p), np.log1p(-p)).mean())


def best_curve(
    scores: npt.NDArray[Any],
    ranks: npt.NDArray[Any],
    chosen: npt.NDArray[np.bool_],
    held: npt.NDArray[np.bool_],
    least: int = 20,
) -> Curve | None:
    """The curve of scores or of places, whichever foretells the `held` observations better when
    fitted on the others; then fitted on all. None: fewer than `least` were chosen.

    Args:
        held: which observations judge; whole shoppers, or they judge what they know.
    """
    if int(chosen.sum()) < least or held.all() or not held.any():
        return None
    kinds: tuple[tuple[Literal["score", "rank"], npt.NDArray[Any]], ...] = (
        ("score", scores), ("rank", -ranks.astype(np.float64)),
    )  # fmt: skip
    losses = {
        of: log_loss(curve(of, x[~held], chosen[~held])(scores[held], ranks[held]), chosen[held])
        for of, x in kinds
    }
    of, x = min(kinds, key=lambda kind: losses[kind[0]])
    return curve(of, x, chosen)


def valued(probability: Values, price: FloatArray, want: int, shift: float) -> tuple[Values, float]:
    """Expected revenue, guarded: ``probability * price ** e`` with the largest `e` of 1, 3/4, ...
    0 at which the first `want` are dearer by no more than `shift` than the first `want` by
    probability, in the mean. The values, and `e`.

    An unknown price counts as the mean of those known; with none known, `e` is 0.
    """
    known = np.isfinite(price) & (price > 0)
    if not known.any() or not len(probability):
        return probability, 0.0
    money = np.where(known, price, price[known].mean()).astype(np.float64)
    plain = np.argsort(-probability, kind="stable")[:want]
    limit = money[plain].mean() * (1 + shift)
    for exponent in _EXPONENTS:
        value = probability * money**exponent
        first = np.argsort(-value, kind="stable")[:want]
        if money[first].mean() <= limit:
            return value, exponent
    return probability, 0.0


class Prices(Protocol):
    """An `ItemIndex`: its column may be another one at the next request."""

    @property
    def price(self) -> FloatArray: ...


@dataclass(frozen=True, slots=True, eq=False)
class ByValue:
    """Orders a pool by what its items are expected to bring.

    Args:
        curves: by place in the chain; None: that strategy's candidates keep their order, behind
            all that have a value where lists are blended.
        blend: the strategies' candidates compete with each other. False: the chain's order stays,
            and each strategy's candidates are ordered among themselves.
        price_shift: see `valued`.
    """

    objective: Objective
    curves: Sequence[Curve | None]
    prices: Prices
    blend: bool
    price_shift: float

    def __call__(self, pool: Pool, want: int) -> Pool:
        """The pool in another order; its scores are the values where there are any."""
        size = len(pool)
        if not size:
            return pool
        probability = np.zeros(size, np.float64)
        has_value = np.zeros(size, np.bool_)
        value = np.empty(size, np.float64)
        for source, of_source in enumerate(self.curves):
            own = np.flatnonzero(pool.sources == source)
            if len(own) and of_source is not None:
                probability[own] = of_source(pool.scores[own], np.arange(len(own)))
                has_value[own] = True
        if not has_value.any():
            return pool
        value = probability
        if self.objective is Objective.REVENUE:
            money = self.prices.price[pool.rows]
            have = np.flatnonzero(has_value)
            value = probability.copy()
            value[have], _ = valued(probability[have], money[have], want, self.price_shift)
        order = self._order(pool, value, has_value)
        scores = np.where(has_value, value, pool.scores).astype(np.float32)
        return Pool(
            pool.rows[order], scores[order], pool.sources[order], pool.reasons[order],
            None if pool.slotted is None else pool.slotted[order], pool.labels,
        )  # fmt: skip

    def _order(self, pool: Pool, value: Values, has_value: npt.NDArray[np.bool_]) -> IntArray:
        key = np.where(has_value, -value, 0.0)
        first = ~has_value if self.blend else pool.sources
        # Stable: equal ones stay in the strategy's order, and in the chain's.
        order: IntArray = np.lexsort((key, first)).astype(np.int32)
        return order
