"""Counts of an additive strategy, kept between fits, so that only what is new is counted.

They are caught up from, and not counted anew, where they are of the same strategy and
configuration, no older than a week, and the log up to their watermark is what it was: late events,
a deleted shopper, a corrected import, or a log-in that makes two pasts one's make them wrong.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from app.plugins.packed_strings import pack_strings, unpack_strings
from vitrine_sdk import Arrays, Config, TrainingData
from vitrine_sdk.additive import Additive, caught_up

MOST_SECONDS: Final = 7 * 86_400
"""What grew older than a configuration's window stays in counts for so long at most."""


class _Index(msgspec.Struct, frozen=True, kw_only=True):
    made_for: str  # strategy, its version and format, and its configuration
    watermark: int  # Unix seconds: no event after it is in
    whole_at: int  # watermark of the last time that everything was counted
    past: str  # signature of the events that were counted
    arrays: list[str]


def fit_incrementally(
    strategy: Additive[Any], data: TrainingData, config: Config, seed: int, place: Path, key: str
) -> tuple[Arrays, bool]:
    """The artefact, and whether kept counts were caught up from.

    Args:
        place: a directory for these counts; replaced as a whole.
        key: names the strategy, its version and format, and its configuration.
    """
    before = _index(place)
    whole_at = data.now
    counts = None
    if before is not None and _usable(before, data, key):
        ids = unpack_strings(np.load(place / "ids.npy"), np.load(place / "offsets.npy"))
        positions = {item_id: position for position, item_id in enumerate(data.items.ids)}
        there = np.array([positions.get(item_id, -1) for item_id in ids], np.int32)
        old = {name: np.load(place / f"{name}.count.npy", mmap_mode="r") for name in before.arrays}
        counts = caught_up(strategy, old, there, before.watermark, data, config)
        whole_at = before.whole_at
    resumed = counts is not None
    if counts is None:
        counts = strategy.count(data, config)
    _keep(place, counts, data, _Index(
        made_for=key, watermark=data.now, whole_at=whole_at, past=signature(data, data.now),
        arrays=sorted(counts),
    ))  # fmt: skip
    return strategy.finish(counts, data.items, data.now, config, seed), resumed


def signature(data: TrainingData, until: int) -> str:
    """Of who did what when, up to a time; neither shoppers' codes nor items' positions matter."""
    events = data.events
    rows = np.flatnonzero(events.time <= until)
    if not len(rows):
        return "0"
    who = events.shopper[rows]
    first = np.flatnonzero(np.concatenate(([True], np.diff(who) != 0)))
    seconds, kinds = events.time[rows].astype(np.uint64), events.type[rows].astype(np.uint64)
    did = _mixed(seconds * np.uint64(16) + kinds)
    of_shopper = _mixed(np.add.reduceat(did, first))
    return f"{len(rows)}-{int(np.add.reduce(of_shopper)):x}"


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Bits well spread (SplitMix64's finaliser, Steele et al., 2014); sums of them wrap."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _usable(index: _Index, data: TrainingData, key: str) -> bool:
    return (
        index.made_for == key
        and index.watermark <= data.now
        and data.now - index.whole_at <= MOST_SECONDS
        and signature(data, index.watermark) == index.past
    )


def _index(place: Path) -> _Index | None:
    try:
        return msgspec.json.decode((place / "index.json").read_bytes(), type=_Index)
    except (OSError, msgspec.MsgspecError):
        return None


def _keep(place: Path, counts: Arrays, data: TrainingData, index: _Index) -> None:
    """Written aside, then put in the place of what was there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".counts-", dir=place.parent))
    try:
        for name, array in counts.items():
            np.save(aside / f"{name}.count.npy", array)
        text, offsets = pack_strings(data.items.ids)
        np.save(aside / "ids.npy", text)
        np.save(aside / "offsets.npy", offsets)
        (aside / "index.json").write_bytes(msgspec.json.encode(index))
        shutil.rmtree(place, ignore_errors=True)  # without it, everything is counted
        aside.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
