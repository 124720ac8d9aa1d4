"""The gate: a fitted model serves by itself only if it is not worse than the one that serves."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec


class GateRule(msgspec.Struct, frozen=True, kw_only=True):
    """How a new model is judged."""

    metric: Annotated[str, msgspec.Meta(pattern=r"^(hr|recall|ndcg|mrr|map)@[1-9][0-9]?$")] = (
        "ndcg@20"
    )
    margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    """Share of the published model's figure by which the new one may be worse."""
    days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 7
    """The newest days, at most, that both are asked for."""
    least: Annotated[int, msgspec.Meta(ge=1)] = 100
    """Shoppers that must be there to ask; with fewer nothing is judged."""
    most: Annotated[int, msgspec.Meta(ge=1)] = 2000
    """Shoppers that are asked, spread evenly over all of them."""


class Figure(msgspec.Struct, frozen=True):
    """A mean a shopper, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate found; kept with the model version."""

    passed: bool
    reason: str  # in words for the merchant
    judged: bool = False  # whether there was anything to judge by
    metric: str | None = None
    margin: float | None = None
    against: int | None = None  # number of the version that served
    days: int | None = None
    shoppers: int | None = None  # that were asked
    candidate: Figure | None = None
    published: Figure | None = None
    difference: Figure | None = None  # candidate - published, paired


def unjudged(reason: str, **known: Any) -> Verdict:
    """Nothing speaks against the new model, for there is nothing to judge by."""
    return Verdict(passed=True, reason=reason, **known)


def decide(
    rule: GateRule,
    candidate: Figure,
    published: Figure,
    difference: Figure,
    *,
    against: int,
    days: int,
    shoppers: int,
) -> Verdict:
    """The verdict on two figures of the same shoppers."""
    floor = published.value * (1 - rule.margin)
    passed = candidate.value >= floor
    say = "not worse than" if passed else "worse than"
    return Verdict(
        passed=passed,
        reason=f"{rule.metric} {candidate.value:.4f}, {say} version {against} with "
        f"{published.value:.4f} less {rule.margin:.0%}, for {shoppers} shoppers of the last "
        f"{days} days",
        judged=True,
        metric=rule.metric,
        margin=rule.margin,
        against=against,
        days=days,
        shoppers=shoppers,
        candidate=candidate,
        published=published,
        difference=difference,
    )
