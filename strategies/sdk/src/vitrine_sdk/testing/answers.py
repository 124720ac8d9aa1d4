# ruff: noqa: S101 - asserting is what it is for
"""What the conformance kit holds an answer, an artefact and a context to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from vitrine_sdk.contract import Arrays, Candidates


def check(answer: Candidates, limit: int, n: int, reasons: Sequence[str]) -> None:
    """An answer of any shape is well-formed."""
    assert isinstance(answer, Candidates)
    assert len(answer.items) == len(answer.scores) == len(answer.reasons) <= limit
    assert len(np.unique(answer.items)) == len(answer.items)
    assert np.isfinite(answer.scores).all()
    assert (answer.scores[1:] <= answer.scores[:-1]).all()
    assert ((answer.items >= 0) & (answer.items < n)).all()
    assert (answer.reasons < len(reasons)).all()


def same(one: Candidates, two: Candidates) -> bool:
    """Bit for bit."""
    return (
        np.array_equal(one.items, two.items)
        and np.array_equal(one.scores, two.scores)
        and np.array_equal(one.reasons, two.reasons)
    )


def digest(arrays: Arrays) -> str:
    """Of names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def comparable(value: object) -> object:
    """Something that compares by content, whatever arrays are inside."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    fields = getattr(type(value), "__dataclass_fields__", None)
    if fields is not None:
        return [(name, comparable(getattr(value, name))) for name in fields]
    if isinstance(value, dict):
        return [(key, comparable(inner)) for key, inner in value.items()]
    return value
