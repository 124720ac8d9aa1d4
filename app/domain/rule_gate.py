"""The gate for rules: a draft goes in force only if the lists that it makes carry about as much
revenue as those that are served."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec
import numpy as np

from app.domain.gate import Figure
from app.domain.metrics import Estimate, bootstrap

DAYS: Final = 30
"""Of which what was paid for an item is looked at."""

Lists = Sequence[tuple[Sequence[str], Sequence[str]]]
"""Item ids of a request's list under the rules in force, and with the draft."""


class RuleGateRule(msgspec.Struct, frozen=True, kw_only=True):
    """How a draft is judged."""

    margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2
    """By which share the lists may carry less, and which share of them may be left empty."""
    refuse: bool = True
    """Whether a draft that does not pass stays out, unless it is forced."""
    least: Annotated[int, msgspec.Meta(ge=1)] = 20
    """Requests that must be there to ask; with fewer nothing is judged."""
    most: Annotated[int, msgspec.Meta(ge=1)] = 200
    """The newest requests, at most, that are asked."""


class RuleVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate found; kept with the version of the rule set."""

    passed: bool
    reason: str  # in words for the merchant
    judged: bool = False  # whether there was anything to judge by
    forced: bool = False  # in force in spite of it
    margin: float | None = None
    requests: int | None = None  # that were asked again
    changed: float | None = None  # share of the lists with another item or another order
    emptied: float | None = None  # share of the lists that have no item any more
    before: Figure | None = None  # revenue that a list carries under the rules in force
    after: Figure | None = None  # with the draft
    difference: Figure | None = None  # after - before, paired


def unjudged(reason: str, rule: RuleGateRule, requests: int) -> RuleVerdict:
    """Nothing speaks against the draft, for there is nothing to judge by."""
    return RuleVerdict(passed=True, reason=reason, margin=rule.margin, requests=requests)


def carried(items: Sequence[str], revenue: Mapping[str, float]) -> float:
    """What a list carries: what was lately paid for each of its items, over log2(1 + place), as
    NDCG discounts what stands further down (Järvelin and Kekäläinen, 2002)."""
    return sum(
        revenue.get(item, 0.0) / math.log2(place + 1) for place, item in enumerate(items, start=1)
    )


def judge(rule: RuleGateRule, lists: Lists, revenue: Mapping[str, float]) -> RuleVerdict:
    """The verdict on the same requests' lists.

    Args:
        revenue: what was paid for each item in the last `DAYS`.
    """
    requests = len(lists)
    if requests < rule.least:
        return unjudged(
            f"only {requests} requests of the sample could be asked again, and {rule.least} are "
            "needed",
            rule,
            requests,
        )
    before, after = (np.array([carried(pair[side], revenue) for pair in lists]) for side in (0, 1))
    changed = sum(list(old) != list(new) for old, new in lists) / requests
    emptied = sum(bool(old) and not new for old, new in lists) / requests
    was, would_be = float(before.mean()), float(after.mean())
    passed = emptied <= rule.margin and would_be >= was * (1 - rule.margin)
    reason = f"the lists of {requests} recent requests would carry {would_be:.2f} of revenue each"
    if was > 0:
        reason += f" instead of {was:.2f}; {rule.margin:.0%} less is allowed"
    else:
        reason += " instead of nothing"
    if emptied:
        reason += f", and {emptied:.0%} of them would be empty; {rule.margin:.0%} may be"
    return RuleVerdict(
        passed=passed,
        reason=reason,
        judged=was > 0 or emptied > 0,
        margin=rule.margin,
        requests=requests,
        changed=round(changed, 4),
        emptied=round(emptied, 4),
        before=_figure(bootstrap(before)),
        after=_figure(bootstrap(after)),
        difference=_figure(bootstrap(after - before)),
    )


def _figure(estimate: Estimate) -> Figure:
    value, low, high = (
        round(float(part), 4) for part in (estimate.value, estimate.low, estimate.high)
    )
    return Figure(value, low, high)
