"""Whether a strategy's answer has the form that the contract gives it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from vitrine_sdk import Candidates

_INT32: Final = np.dtype(np.int32)
_FLOAT32: Final = np.dtype(np.float32)
_UINT8: Final = np.dtype(np.uint8)


def misshapen(candidates: Any) -> str | None:
    """What of its types and lengths is wrong; None: nothing."""
    if candidates.__class__ is not Candidates:
        return f"returned {type(candidates).__name__}, not Candidates"
    items, scores, reasons = candidates.items, candidates.scores, candidates.reasons
    for name, array, dtype in (
        ("items", items, _INT32),
        ("scores", scores, _FLOAT32),
        ("reasons", reasons, _UINT8),
    ):
        # Plain arrays have the very same dtype object.
        if not isinstance(array, np.ndarray) or (array.dtype is not dtype and array.dtype != dtype):
            return f"`{name}` is not an array of {dtype}"
    if items.ndim != 1 or not items.shape == scores.shape == reasons.shape:
        return "its arrays are not one-dimensional or differ in length"
    return None
