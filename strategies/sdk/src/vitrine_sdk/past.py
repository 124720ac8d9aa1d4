"""What a model makes of a history: how much each event counts, and what is had again."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vitrine_sdk import kernel
from vitrine_sdk.contract import BoolArray, Candidates, FloatArray, History, IntArray
from vitrine_sdk.neighbours import Neighbours, summed
from vitrine_sdk.ranking import ranked

DAY = np.float32(86_400)
NOTHING_AGAIN = np.empty(0, np.int32), np.empty(0, np.float32)


def weighed(
    history: History, table: FloatArray, recency: float, half_life: float, least: float = 0.0
) -> tuple[FloatArray, IntArray, FloatArray]:
    """How much each event of a history (not empty) counts: by its type, its place and its age; then
    the items of those events that count for more than `least` of the most, and how much.

    The newest event is never old: ages are relative to it.

    Args:
        table: what counts, by `EventType`.
        recency: each event counts so much of the one that came after it.
        half_life: days in which an event comes to count half, beside `recency`.
    """
    decay = _decays(recency)
    if len(decay) < len(history):
        decay = np.float32(recency) ** np.arange(len(history), dtype=np.float32)
    if kernel.history is not None and _plain(history) and kernel.plain(table, kernel.FLOAT32):
        return kernel.history.weighed(  # type: ignore[no-any-return]
            history.items, history.types, history.ages, table, decay, half_life, least
        )
    days = (history.ages - history.ages[0]) / DAY
    weights: FloatArray = table.take(history.types) * decay[: len(history)]
    weights = weights * np.exp2(-days / np.float32(half_life))
    telling = (weights > np.float32(least) * weights.max()).nonzero()[0]
    return weights, history.items.take(telling), weights.take(telling)


def repeated(
    history: History, weights: FloatArray, type_: int, again: FloatArray
) -> tuple[IntArray, FloatArray]:
    """The history's items that may be had again, ascending, each with the sum of the square roots
    of its events' weights, times `again`. Only what is more than nothing.

    Args:
        type_: of the events that can be repeated.
        again: how readily each item is had again.
    """
    if (
        kernel.history is not None
        and _plain(history)
        and kernel.plain(weights, kernel.FLOAT32)
        and kernel.plain(again, kernel.FLOAT32)
    ):
        return kernel.history.repeated(  # type: ignore[no-any-return]
            history.items, history.types, weights, type_, again
        )
    of_type = (history.types == type_).nonzero()[0]
    items = history.items.take(of_type)
    items, sums = summed(items, np.sqrt(weights.take(of_type)) * again.take(items))
    keep = (sums > 0).nonzero()[0]
    return items.take(keep), sums.take(keep)


def following(
    transitions: Neighbours,
    rows: IntArray,
    factors: FloatArray,
    history: History,
    again: tuple[IntArray, FloatArray],
    share: float,
    limit: int,
    eligible: BoolArray | None,
) -> Candidates:
    """The best of what follows some rows, none of it in the history, and of what is had `again`:
    the best of that scores `share`, the best of the others the rest of 1. Where nothing is had
    again, scores are the sums of factor times weight.

    Reasons: 1 for what is had again, else 0. Of equal scores, that comes first; then by position.

    Args:
        again: items of the history, ascending, and how much speaks for each (> 0).
        eligible: None: all.
    """
    items, scores = again
    plain = kernel.plain
    if (
        kernel.history is not None
        and transitions.plain(rows, factors)
        and plain(history.items, kernel.INT32)
        and plain(items, kernel.INT32)
        and plain(scores, kernel.FLOAT32)
        and (eligible is None or plain(eligible, kernel.BOOL))
    ):
        return Candidates(
            *kernel.history.following(
                transitions.offsets,
                transitions.items,
                transitions.weights,
                rows,
                factors,
                history.items,
                items,
                scores,
                share,
                eligible,
                limit,
            )
        )
    found, sums = transitions.merged(rows, factors, history.items)
    return blended(found, sums, again, share, limit, eligible)


def blended(
    found: IntArray,
    sums: FloatArray,
    again: tuple[IntArray, FloatArray],
    share: float,
    limit: int,
    eligible: BoolArray | None,
) -> Candidates:
    """`following`, of what was `found` otherwise: ascending, none of it in `again`."""
    items, scores = again
    if not len(items):
        return ranked(found, sums, limit, 0, eligible)
    part = np.float32(share)
    if len(sums):
        sums = sums * ((1 - part) / max(sums.max(), np.float32(1e-30)))
    return ranked(
        np.concatenate((items, found)),
        np.concatenate((scores * (part / scores.max()), sums)),
        limit,
        np.repeat(np.array((1, 0), np.uint8), (len(items), len(found))),
        eligible,
    )


@lru_cache(maxsize=64)
def _decays(recency: float) -> FloatArray:
    decays: FloatArray = np.float32(recency) ** np.arange(256, dtype=np.float32)
    decays.setflags(write=False)
    return decays


def _plain(history: History) -> bool:
    plain = kernel.plain
    return (
        plain(history.items, kernel.INT32)
        and plain(history.types, kernel.INT8)
        and plain(history.ages, kernel.FLOAT32)
    )
