"""Training data laid down as arrays, so that child processes map it instead of copying it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from app.plugins.packed_strings import pack_strings, unpack_strings
from vitrine_sdk import Events, Facet, Items, TrainingData

_ITEM_ARRAYS = ("available", "price", "created")
_EVENT_ARRAYS = ("shopper", "item", "type", "time", "quantity", "revenue", "session", "term")


class _Index(msgspec.Struct):
    now: int
    shoppers: int
    facets: list[str]  # in the order of their files


def save(data: TrainingData, directory: Path) -> None:
    """Write `data` into the empty `directory`."""
    items, events = data.items, data.events
    _save_strings(directory, "ids", items.ids)
    _save_strings(directory, "names", items.names)
    for name in _ITEM_ARRAYS:
        np.save(directory / f"items.{name}.npy", getattr(items, name))
    _save_facet(directory, "groups", items.groups)
    for number, facet in enumerate(items.facets.values()):
        _save_facet(directory, f"facet{number}", facet)
    for name in _EVENT_ARRAYS:
        np.save(directory / f"events.{name}.npy", getattr(events, name))
    _save_strings(directory, "terms", events.terms)
    index = _Index(data.now, events.shoppers, list(items.facets))
    (directory / "index.json").write_bytes(msgspec.json.encode(index))


def load(directory: Path) -> TrainingData:
    """What `save` wrote; its arrays are memory-mapped and read-only."""
    index = msgspec.json.decode((directory / "index.json").read_bytes(), type=_Index)
    return TrainingData(
        items=Items(
            ids=_load_strings(directory, "ids"),
            names=_load_strings(directory, "names"),
            groups=_load_facet(directory, "groups"),
            facets={
                name: _load_facet(directory, f"facet{number}")
                for number, name in enumerate(index.facets)
            },
            **{name: _map(directory / f"items.{name}.npy") for name in _ITEM_ARRAYS},
        ),
        events=Events(
            terms=_load_strings(directory, "terms"),
            shoppers=index.shoppers,
            **{name: _map(directory / f"events.{name}.npy") for name in _EVENT_ARRAYS},
        ),
        now=index.now,
    )


def _save_strings(directory: Path, name: str, strings: Sequence[str]) -> None:
    utf8, offsets = pack_strings(strings)
    np.save(directory / f"{name}.utf8.npy", utf8)
    np.save(directory / f"{name}.offsets.npy", offsets)


def _load_strings(directory: Path, name: str) -> list[str]:
    return unpack_strings(
        np.load(directory / f"{name}.utf8.npy"), np.load(directory / f"{name}.offsets.npy")
    )


def _save_facet(directory: Path, name: str, facet: Facet) -> None:
    _save_strings(directory, f"{name}.values", facet.values)
    np.save(directory / f"{name}.starts.npy", facet.offsets)
    np.save(directory / f"{name}.codes.npy", facet.codes)


def _load_facet(directory: Path, name: str) -> Facet:
    return Facet(
        values=_load_strings(directory, f"{name}.values"),
        offsets=_map(directory / f"{name}.starts.npy"),
        codes=_map(directory / f"{name}.codes.npy"),
    )


def _map(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any]
    try:
        array = np.load(path, mmap_mode="r")
    except ValueError:  # no bytes: there is nothing to map
        array = np.load(path)
        array.flags.writeable = False
    return array
