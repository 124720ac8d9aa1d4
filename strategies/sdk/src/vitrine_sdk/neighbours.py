"""Item-to-item matrices as an artefact: the strongest neighbours of each item, in CSR arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine_sdk import kernel
from vitrine_sdk.contract import Arrays, BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Row `i`: items ``items[offsets[i]:offsets[i + 1]]`` with their weights."""

    offsets: npt.NDArray[np.int64]  # n + 1
    items: IntArray
    weights: FloatArray
    is_plain: bool = field(init=False)
    """Whether the kernel takes them as they are."""

    def __post_init__(self) -> None:
        plain = kernel.plain
        object.__setattr__(
            self,
            "is_plain",
            plain(self.offsets, kernel.INT64)
            and plain(self.items, kernel.INT32)
            and plain(self.weights, kernel.FLOAT32),
        )

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The artefact's arrays; read back by `from_arrays` with the same name."""
        return {
            f"{name}_offsets": self.offsets,
            f"{name}_items": self.items,
            f"{name}_weights": self.weights,
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, name: str, rows: int) -> Neighbours:
        """Checked, not copied.

        Raises:
            ValueError: an array is missing or has another shape or type than it must.
        """
        offsets = checked(arrays, f"{name}_offsets", np.int64, rows + 1)
        size = int(offsets[-1])
        return cls(
            offsets,
            checked(arrays, f"{name}_items", np.int32, size),
            checked(arrays, f"{name}_weights", np.float32, size),
        )

    def merged(
        self, rows: IntArray, factors: FloatArray, without: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """The rows' neighbours, each once, ascending, with the sum of factor times weight.

        Args:
            without: items that are left out.
        """
        if (
            kernel.compiled is not None
            and self.plain(rows, factors)
            and (without is None or kernel.plain(without, kernel.INT32))
        ):
            return kernel.compiled.merged(  # type: ignore[no-any-return]
                self.offsets, self.items, self.weights, rows, factors, without
            )
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        total = int(counts.sum())
        if not total:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        index = (starts - (counts.cumsum() - counts)).repeat(counts)
        index += np.arange(total)
        items, weights = self.items.take(index), self.weights.take(index) * factors.repeat(counts)
        if without is not None:
            others = ~contained(items, without)
            items, weights = items[others], weights[others]
        return summed(items, weights)

    def plain(self, rows: IntArray, factors: FloatArray) -> bool:
        """Whether the kernel takes all of it as it is."""
        plain = kernel.plain
        return self.is_plain and plain(rows, kernel.INT32) and plain(factors, kernel.FLOAT32)

    def first(
        self, row: int, limit: int, parts: Neighbours, eligible: BoolArray | None
    ) -> tuple[IntArray, FloatArray, npt.NDArray[np.uint8]]:
        """A row's first neighbours as they lie, but itself: at most `limit` items that are eligible
        (None: all), their weights, and 1 where twice the weight in `parts` is less.

        Args:
            parts: of the same pattern.
        """
        if (
            kernel.compiled is not None
            and self.is_plain
            and parts.is_plain
            and (eligible is None or kernel.plain(eligible, kernel.BOOL))
        ):
            return kernel.compiled.first(  # type: ignore[no-any-return]
                self.offsets, self.items, self.weights, parts.weights, row, eligible, limit
            )
        cells = slice(self.offsets.item(row), self.offsets.item(row + 1))
        items, weights = self.items[cells], self.weights[cells]
        minor = (parts.weights[cells] * 2 < weights).view(np.uint8)
        keep = items != row
        if eligible is not None:
            keep &= eligible.take(items)
        places = keep.nonzero()[0][:limit]
        return items.take(places), weights.take(places), minor.take(places)


def summed(items: IntArray, weights: FloatArray) -> tuple[IntArray, FloatArray]:
    """Each item once, ascending, with the sum of its weights (added up in double, as they come)."""
    if (
        kernel.compiled is not None
        and kernel.plain(items, kernel.INT32)
        and kernel.plain(weights, kernel.FLOAT32)
    ):
        return kernel.compiled.summed(items, weights)  # type: ignore[no-any-return]
    if not len(items):
        return items, weights
    order = items.argsort(kind="stable")
    items = items[order]
    starts = np.empty(len(items), np.bool_)
    starts[0] = True
    np.not_equal(items[1:], items[:-1], out=starts[1:])
    first = starts.nonzero()[0]
    sums = np.bincount(starts.cumsum() - 1, weights[order])
    return items[first], sums.astype(np.float32)


def contained(items: IntArray, among: IntArray) -> BoolArray:
    """Which of `items` are among others, few ones: np.isin at a fifth of its cost."""
    if not len(among):
        return np.zeros(len(items), np.bool_)
    among = np.sort(among)
    at = among.searchsorted(items)
    at[at == len(among)] = 0
    found: BoolArray = among[at] == items
    return found


def checked(arrays: Arrays, name: str, dtype: Any, length: int) -> npt.NDArray[Any]:
    """The array of that name.

    Raises:
        ValueError: it is missing, or has another shape or type than it must.
    """
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"the artefact has no array {name!r}")
    if array.shape != (length,) or array.dtype != np.dtype(dtype):
        raise ValueError(
            f"array {name!r} is {array.dtype}{list(array.shape)}, "
            f"expected {np.dtype(dtype)}[{length}]"
        )
    return array


def strongest(
    offsets: npt.NDArray[np.int64] | IntArray,
    items: IntArray,
    weights: FloatArray,
    keep: int,
) -> Neighbours:
    """At most `keep` neighbours with positive weight a row, strongest first (ties: as they came).

    Linear in the cells, a block of rows at a time.
    """
    parts = [
        _strongest(np.diff(offsets[a : b + 1]), items[span], weights[span], keep)
        for a, b in _blocks(offsets)
        for span in (slice(int(offsets[a]), int(offsets[b])),)
    ]
    counts = np.concatenate([p[0] for p in parts]) if parts else np.empty(0, np.int64)
    return Neighbours(
        np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        np.concatenate([p[1] for p in parts]) if parts else np.empty(0, np.int32),
        np.concatenate([p[2] for p in parts]) if parts else np.empty(0, np.float32),
    )


BLOCK = 2_000_000


def _blocks(offsets: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Spans of rows with about `BLOCK` cells each."""
    row, last = 0, len(offsets) - 1
    while row < last:
        end = int(np.searchsorted(offsets, offsets[row] + BLOCK, side="right")) - 1
        end = min(max(end, row + 1), last)
        yield row, end
        row = end


def _strongest(
    sizes: npt.NDArray[np.int64], items: IntArray, weights: FloatArray, keep: int
) -> tuple[npt.NDArray[np.int64], IntArray, FloatArray]:
    ends = np.cumsum(sizes)
    least = np.zeros(len(sizes), np.float32)
    for row in np.flatnonzero(sizes > keep):
        cells = weights[ends[row] - sizes[row] : ends[row]]
        least[row] = np.partition(cells, len(cells) - keep)[len(cells) - keep]
    rows = np.repeat(np.arange(len(sizes)), sizes)
    near = np.flatnonzero((weights > 0) & (weights >= least[rows]))
    rows, items, weights = rows[near], items[near], np.ascontiguousarray(weights[near], np.float32)
    # One key: the row, then the weight falling. The bits of a positive float grow with it.
    key = (rows.astype(np.uint64) << np.uint64(32)) | (
        np.uint64(0xFFFFFFFF) - weights.view(np.uint32).astype(np.uint64)
    )
    order = np.argsort(key, kind="stable")
    counts = np.bincount(rows, minlength=len(sizes))
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = order[rank < keep]
    return np.minimum(counts, keep), items[chosen].astype(np.int32), weights[chosen]
