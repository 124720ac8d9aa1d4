"""Many strings as two arrays: what a memory-mapped file can hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pack_strings(strings: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Strings as joined UTF-8 and n + 1 byte offsets."""
    encoded = [string.encode() for string in strings]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def unpack_strings(utf8: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> list[str]:
    """The reverse of `pack_strings`."""
    data = utf8.tobytes()
    bounds = offsets.tolist()
    return [data[start:end].decode() for start, end in itertools.pairwise(bounds)]
