from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vitrine_sdk.contract import BoolArray, FloatArray, IntArray

_Codes = npt.NDArray[np.uint8]
_Longs = npt.NDArray[np.int64]
_Cap = tuple[IntArray, IntArray, IntArray, IntArray, int, int]

def merged(
    offsets: _Longs,
    items: IntArray,
    weights: FloatArray,
    rows: IntArray,
    factors: FloatArray,
    without: IntArray | None,
) -> tuple[IntArray, FloatArray]: ...
def summed(items: IntArray, weights: FloatArray) -> tuple[IntArray, FloatArray]: ...
def best(scores: FloatArray, items: IntArray, eligible: BoolArray | None, limit: int) -> _Longs: ...
def first(
    offsets: _Longs,
    items: IntArray,
    weights: FloatArray,
    parts: FloatArray,
    row: int,
    eligible: BoolArray | None,
    limit: int,
) -> tuple[IntArray, FloatArray, _Codes]: ...
def sound(
    items: object, scores: object, reasons: object, limit: int, model_items: int, kinds: int
) -> bool: ...
def taken(table: IntArray, places: IntArray) -> IntArray: ...
def known(positions: IntArray, rows: IntArray) -> IntArray: ...
def shown(items: list[bytes | None], used: bytearray, rows: IntArray) -> list[bytes] | None: ...
def qualify(
    rows: IntArray,
    available: BoolArray,
    filtered: BoolArray | None,
    marks: _Codes,
    excluded: Sequence[tuple[IntArray, int]],
    earlier: Sequence[IntArray],
    at_hand: BoolArray | None,
    signatures: IntArray | None,
    drops: IntArray | None,
    left_out: list[int],
    at_most: int,
) -> int | _Longs: ...
def picked(
    rows: object, scores: object, reasons: object, places: _Longs
) -> tuple[IntArray, FloatArray, _Codes] | None: ...
def arrange(
    rows: IntArray,
    scores: FloatArray,
    sources: _Codes,
    reasons: _Codes,
    signatures: IntArray | None,
    boosts: FloatArray | None,
    positions: _Longs,
    caps: Sequence[_Cap],
    want: int,
) -> tuple[IntArray, FloatArray, _Codes, _Codes]: ...
