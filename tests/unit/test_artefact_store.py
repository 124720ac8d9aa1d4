"""Artefacts: whole or not at all, verified, and nothing that would run code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import numpy as np
import pytest

from app.domain.catalogue import DEFAULT_SECTION
from app.domain.errors import Conflict
from app.domain.model import Manifest
from app.plugins import artefact_files, artefacts
from app.plugins.artefact_files import ArtefactError
from app.plugins.artefacts import ArtefactStore

ARRAYS = {
    "scores": np.arange(5, dtype=np.float32),
    "matrix": np.arange(6, dtype=np.int32).reshape(2, 3),
    "empty": np.empty(0, np.int64),
    "scalar": np.array(7, np.int64),
}
IDS = ["a", "ü/ö", "", "日本", "e"]


def stage(store: ArtefactStore, arrays: Any = ARRAYS, ids: Any = IDS) -> tuple[Path, str]:
    directory = store.staging()
    files = artefact_files.write(directory, arrays, ids)
    manifest = Manifest(
        configuration_id="c",
        strategy="s",
        strategy_version="1",
        contract=1,
        format=1,
        section=DEFAULT_SECTION,
        items=len(ids),
        catalogue_version=1,
        config={},
        config_hash="",
        watermark=0,
        seed=0,
        files=files,
    )
    return directory, artefact_files.write_manifest(directory, manifest)


@pytest.fixture(params=["directory", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtefactStore:
    if request.param == "directory":
        return ArtefactStore(str(tmp_path / "artefacts"), tmp_path / "cache")
    return ArtefactStore(f"memory://{uuid.uuid4().hex}", tmp_path / "cache")


def test_what_was_written_is_opened(store: ArtefactStore) -> None:
    staged, sha256 = stage(store)
    store.put(staged, "m/c/1")
    assert not staged.exists()
    opened = store.open("m/c/1", sha256)
    assert list(opened.item_ids) == IDS
    assert set(opened.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(opened.arrays[name], array)
        assert opened.arrays[name].dtype == array.dtype
        assert not opened.arrays[name].flags.writeable
    assert isinstance(opened.arrays["scores"].base, np.memmap)


def test_pages_of_every_kind_of_array_are_touched_up_to_a_bound(store: ArtefactStore) -> None:
    directory, _ = stage(store)
    arrays = {**artefact_files.open_arrays(directory, tuple(ARRAYS)), "turned": ARRAYS["matrix"].T}
    whole = sum(array.nbytes for array in ARRAYS.values())
    assert artefact_files.touch_pages(arrays) == whole  # what does not lie in order is left out
    assert artefact_files.touch_pages(arrays, whole - 1) < whole
    assert artefact_files.touch_pages(arrays, 8) == 8  # the scalar


def test_a_place_is_taken_once(store: ArtefactStore) -> None:
    staged, sha256 = stage(store)
    store.put(staged, "m/c/1")
    other, _ = stage(store, {"scores": np.zeros(5, np.float32)})
    with pytest.raises(Conflict):
        store.put(other, "m/c/1")
    assert store.open("m/c/1", sha256).arrays["scores"][4] == 4


def test_what_is_missing_is_said(store: ArtefactStore) -> None:
    with pytest.raises(ArtefactError, match="m/c/9 is missing"):
        store.open("m/c/9", "0" * 64)


def test_another_manifest_than_the_published_is_refused(store: ArtefactStore) -> None:
    staged, _ = stage(store)
    store.put(staged, "m/c/1")
    with pytest.raises(ArtefactError, match="not the one published"):
        store.open("m/c/1", "0" * 64)


def test_deleted_and_listed(store: ArtefactStore) -> None:
    for number in (1, 2, 10):
        staged, sha256 = stage(store)
        store.put(staged, store.location("m", "a/../b", number))
    assert store.configurations("m") == ["a/../b"]
    found = store.locations("m", "a/../b")
    assert sorted(found) == [1, 2, 10]
    store.open(found[2], sha256)
    store.delete(found[2])
    assert sorted(store.locations("m", "a/../b")) == [1, 10]
    with pytest.raises(ArtefactError, match="missing"):
        store.open(found[2], sha256)
    assert store.locations("m", "nothing") == {}
    assert store.configurations("nobody") == []


def published(tmp_path: Path) -> tuple[ArtefactStore, Path, str]:
    store = ArtefactStore(str(tmp_path / "artefacts"), tmp_path / "cache")
    staged, sha256 = stage(store)
    store.put(staged, "m/c/1")
    return store, tmp_path / "artefacts/m/c/1", sha256


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    store, directory, sha256 = published(tmp_path)
    flip(directory / "scores.npy")
    with pytest.raises(ArtefactError, match=r"scores\.npy is not what was written"):
        store.open("m/c/1", sha256)


def test_a_change_after_it_was_verified_is_found(tmp_path: Path) -> None:
    store, directory, sha256 = published(tmp_path)
    store.open("m/c/1", sha256)
    flip(directory / "scores.npy")
    with pytest.raises(ArtefactError, match="not what was written"):
        store.open("m/c/1", sha256)


def test_a_second_process_does_not_hash_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, sha256 = published(tmp_path)
    hashed: list[Path] = []
    real = artefacts.sha256_of
    monkeypatch.setattr(artefacts, "sha256_of", lambda path: (hashed.append(path), real(path))[1])
    for _ in range(2):  # as another process: a store of its own
        ArtefactStore(str(tmp_path / "artefacts"), tmp_path / "cache").open("m/c/1", sha256)
    assert sorted(path.name for path in hashed) == sorted(
        f"{name}.npy" for name in (*ARRAYS, "items.utf8", "items.offsets")
    )


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    store, directory, sha256 = published(tmp_path)
    os.truncate(directory / "matrix.npy", 130)
    with pytest.raises(ArtefactError, match="matrix"):
        store.open("m/c/1", sha256)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    store, directory, _ = published(tmp_path)
    (directory / "scores.npy").write_bytes(pickle.dumps({"harm": 1}))
    sha256 = rewrite(directory, scores=hashlib.sha256((directory / "scores.npy").read_bytes()))
    with pytest.raises(ArtefactError, match=r"scores\.npy"):
        store.open("m/c/1", sha256)


def rewrite(directory: Path, scores: Any) -> str:
    """The manifest with a true checksum of an evil file."""
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"]["scores.npy"] = scores.hexdigest()
    text = json.dumps(manifest).encode()
    (directory / "manifest.json").write_bytes(text)
    return hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"manifest_format": 2}, "has layout 2"),
        ({"items": 4}, "5 ids for 4 items"),
        ({"items": "many"}, "damaged"),
        ({"files": {}}, "not in the manifest"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    store, directory, _ = published(tmp_path)
    manifest = json.loads((directory / "manifest.json").read_text()) | change
    text = msgspec.json.encode(manifest)
    (directory / "manifest.json").write_bytes(text)
    with pytest.raises(ArtefactError, match=reason):
        store.open("m/c/1", hashlib.sha256(text).hexdigest())


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "items.utf8", "a b"])
def test_array_names_stay_within_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="array name"):
        artefact_files.write(tmp_path, {name: np.zeros(1)}, [])
    assert list(tmp_path.rglob("*.npy")) == []


def test_objects_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="objects are not stored"):
        artefact_files.write(tmp_path, {"bad": np.array([object()])}, [])


@pytest.mark.parametrize("name", [".", "..", "a/b", "ü", "a b"])
def test_a_location_is_one_path_segment_a_name(tmp_path: Path, name: str) -> None:
    parts = ArtefactStore.location(name, name, 3).split("/")
    assert len(parts) == 3
    assert not {".", "..", ""} & set(parts)


def test_a_half_uploaded_artefact_is_not_there(tmp_path: Path) -> None:
    """In an object store the manifest, written last, is what makes an artefact."""
    name = uuid.uuid4().hex
    store = ArtefactStore(f"memory://{name}", tmp_path / "cache")
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"/{name}/m/c/1/scores.npy", b"half")
    with pytest.raises(ArtefactError, match="missing"):
        store.open("m/c/1", "0" * 64)
    staged, sha256 = stage(store)
    store.put(staged, "m/c/1")
    np.testing.assert_array_equal(store.open("m/c/1", sha256).arrays["scores"], ARRAYS["scores"])


def test_a_machines_processes_fetch_a_remote_artefact_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    staged, sha256 = stage(ArtefactStore(url, tmp_path / "cache"))
    ArtefactStore(url, tmp_path / "cache").put(staged, "m/c/1")
    fetched: list[str] = []
    memory = fsspec.filesystem("memory")
    real = memory.get_file

    def get_file(remote: str, local: str, **options: Any) -> None:
        fetched.append(Path(remote).name)
        real(remote, local, **options)

    monkeypatch.setattr(memory, "get_file", get_file)
    stores = [ArtefactStore(url, tmp_path / "cache") for _ in range(4)]  # as processes have
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda store: store.open("m/c/1", sha256), stores))
    assert len(opened) == 4
    assert fetched[0] == "manifest.json"  # first, to see whether the upload is finished
    assert len(fetched) == len(set(fetched)) == len(ARRAYS) + 3


def test_only_the_newest_copies_of_remote_artefacts_stay(tmp_path: Path) -> None:
    store = ArtefactStore(f"memory://{uuid.uuid4().hex}", tmp_path / "cache")
    for number in range(1, 6):
        staged, sha256 = stage(store)
        store.put(staged, f"m/c/{number}")
        store.open(f"m/c/{number}", sha256)
    kept = [path.name for path in (tmp_path / "cache").glob("*/fetched/m/c/*")]
    assert sorted(kept) == ["3", "4", "5"]


def test_what_dead_writers_left_is_cleared_away(tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "artefacts"), tmp_path / "cache")
    old, fresh = store.staging(), store.staging()
    os.utime(old, (0, 0))
    assert store.clear_abandoned() == 1
    assert not old.exists()
    assert fresh.exists()
