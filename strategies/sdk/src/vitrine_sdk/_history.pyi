from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vitrine_sdk.contract import BoolArray, FloatArray, IntArray

_Types = npt.NDArray[np.int8]
_Codes = npt.NDArray[np.uint8]
_Longs = npt.NDArray[np.int64]

class Rows:
    def __init__(self, ids: list[str]) -> None: ...
    def row(self, id_: str, /) -> int: ...
    def rows(self, ids: Sequence[str]) -> IntArray: ...
    def packed(self, joined: bytes, ends: IntArray) -> IntArray: ...
    def add(self, id_: str, /) -> int: ...

def columns(
    lists: list[list[bytes]], limit: int
) -> tuple[bytes, IntArray, _Types, _Longs] | None: ...
def known(
    positions: IntArray, rows: IntArray, types: _Types, times: _Longs, wanted: int, now: int
) -> tuple[IntArray, _Types, FloatArray]: ...
def weighed(
    items: IntArray,
    types: _Types,
    ages: FloatArray,
    table: FloatArray,
    decay: FloatArray,
    half_life: float,
    least: float,
) -> tuple[FloatArray, IntArray, FloatArray]: ...
def repeated(
    items: IntArray, types: _Types, weights: FloatArray, type_: int, again: FloatArray, /
) -> tuple[IntArray, FloatArray]: ...
def following(
    offsets: _Longs,
    neighbours: IntArray,
    weights: FloatArray,
    rows: IntArray,
    factors: FloatArray,
    without: IntArray,
    first: IntArray,
    first_scores: FloatArray,
    share: float,
    eligible: BoolArray | None,
    limit: int,
) -> tuple[IntArray, FloatArray, _Codes]: ...
