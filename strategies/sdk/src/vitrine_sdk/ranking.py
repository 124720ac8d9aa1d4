"""From scored items to `Candidates`: the same order everywhere, whatever the limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine_sdk import kernel
from vitrine_sdk.contract import NO_CANDIDATES, BoolArray, Candidates, FloatArray, IntArray


def ranked(
    items: IntArray,
    scores: FloatArray,
    limit: int,
    reasons: npt.NDArray[np.uint8] | int = 0,
    eligible: BoolArray | None = None,
) -> Candidates:
    """The best `limit` of `items`, by falling score; equal scores keep the order they came in.

    `items` holds no item twice; `reasons` is one code for all, or one an item. The answer for a
    larger limit starts with the answer for a smaller one.
    """
    if (
        kernel.compiled is not None
        and kernel.plain(items, kernel.INT32)
        and kernel.plain(scores, kernel.FLOAT32)
        and (eligible is None or kernel.plain(eligible, kernel.BOOL))
    ):
        order = kernel.compiled.best(scores, items, eligible, limit)
        return _taken(items, scores, reasons, order) if len(order) else NO_CANDIDATES
    if eligible is not None:
        keep = eligible[items]
        items, scores = items[keep], scores[keep]
        if not isinstance(reasons, int):
            reasons = reasons[keep]
    if not len(items):
        return NO_CANDIDATES
    if len(items) > 4 * limit:
        # All that tie with the last one stay in, so the cut cannot depend on the partition's order.
        worst = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        kept = np.flatnonzero(scores >= worst)
        order = kept[np.argsort(-scores[kept], kind="stable")[:limit]]
    else:
        order = np.argsort(-scores, kind="stable")[:limit]
    return _taken(items, scores, reasons, order)


def _taken(
    items: IntArray,
    scores: FloatArray,
    reasons: npt.NDArray[np.uint8] | int,
    order: npt.NDArray[Any],
) -> Candidates:
    codes = (
        np.full(len(order), reasons, np.uint8) if isinstance(reasons, int) else reasons.take(order)
    )
    return Candidates(items.take(order), scores.take(order), codes)


def first_eligible(order: IntArray, eligible: BoolArray | None, limit: int) -> IntArray:
    """Indices into `order` of its first `limit` items that are eligible.

    Looks only as far as it has to: a list of a million items costs what its head costs.
    """
    if eligible is None:
        return np.arange(min(limit, len(order)), dtype=np.int32)
    found: list[IntArray] = []
    count, start, size = 0, 0, max(4 * limit, 256)
    while start < len(order) and count < limit:
        hits = np.flatnonzero(eligible[order[start : start + size]]).astype(np.int32) + start
        found.append(hits.astype(np.int32))
        count += len(hits)
        start += size
        size *= 4
    return np.concatenate(found)[:limit] if found else np.empty(0, np.int32)
