"""The compiled kernel, where it could be built: what a request does to hundreds of numbers.

`compiled` and `history` are the modules `vitrine_sdk._kernel` and `vitrine_sdk._history` (Cython),
or None. Whoever uses one has a twin in Python beside the call, which gives the very same answers:
it serves where there is no kernel, and where arrays are not of the kernel's types. Tests set them
to None to have the twin at work.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

compiled: ModuleType | None
history: ModuleType | None
try:
    from vitrine_sdk import _history as history
    from vitrine_sdk import _kernel as compiled
except ImportError as error:
    compiled = history = None
    MISSING: str | None = str(error)
else:
    MISSING = None
"""Why there is none; None: there is."""

INT8: Final = np.dtype(np.int8)
INT32: Final = np.dtype(np.int32)
INT64: Final = np.dtype(np.int64)
FLOAT32: Final = np.dtype(np.float32)
BOOL: Final = np.dtype(np.bool_)


def plain(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether the kernel takes an array as it is. Plain arrays have the very same dtype object."""
    return array.dtype is dtype and array.flags.c_contiguous
