"""Catalogue files over HTTP: whole or not at all, each refused row named."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.catalogue import Section
from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId
from tests.catalogue_shop import CatalogueShop, open_shop

MAX_BYTES = 4 * 1024 * 1024


@pytest.fixture
async def shop(
    module_database_url: str,
    module_redis_url: str,
    create_merchant: Callable[..., Any],
    tmp_path: Path,
) -> AsyncIterator[CatalogueShop]:
    async with open_shop(
        module_database_url,
        module_redis_url,
        create_merchant,
        tmp_path,
        max_upload_bytes=MAX_BYTES,
    ) as opened:
        yield opened


def csv(*rows: str, header: str = "id,item_name,price") -> str:
    return "\r\n".join([header, *rows, ""])


def numbered(count: int, start: int = 0) -> list[str]:
    return [f"i{n},Item {n},{n}.5" for n in range(start, start + count)]


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            data = text.encode()
            info = tarfile.TarInfo(name.replace("__", "/").replace("_csv", ".csv"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


async def test_a_full_import_is_what_the_catalogue_is_afterwards(shop: CatalogueShop) -> None:
    await shop.put({"id": "i0", "data": {"price": 1}}, {"id": "old"}, {"id": "i1"})
    version = await shop.version()
    task = await shop.run(files={"items": csv(*numbered(3))})
    assert task["status"] == "DONE", task
    assert task["type"] == "ingestion"
    changes = task["result"]["changelog"]["sections"]["Products"]
    assert (changes["items_updated"], changes["items_deleted"]) == (3, 1)
    assert task["counts"]["rows"] == 3
    assert await shop.ids() == ["i0", "i1", "i2"]
    assert await shop.version() == version + 1
    assert (await shop.in_redis())["i2"].price == 2.5
    assert await shop.in_redis() == await shop.in_postgres()

    again = await shop.run(files={"items": csv(*numbered(3))})
    assert again["counts"]["items_unchanged"] == 3
    assert await shop.version() == version + 1  # nothing changed, nobody has to follow


async def test_all_columns_of_a_feed(shop: CatalogueShop) -> None:
    header = (
        "id,item_name,url,image_url,description,keywords,group_ids,facet:colour,metadata:brand,"
        "metadata_json:sizes,metadata:price,active,suggested_score,stock,data"
    )
    row = (
        'a,"Mug, ""big""",/a,/a.png,"two\nlines",k1|k2,mugs|sale,red | blue,=1+1,"[1, 2]",7.50,'
        'false,3,,"{""x"": {""y"": 1}}"'
    )
    groups = csv("all,,All,", 'mugs,all,Mugs,"{""icon"": ""m""}"', header="id,parent_id,name,data")
    sizes = csv("a-s,a,S", "a-l,a,L", header="variation_id,item_id,metadata:size")
    task = await shop.run(
        files={"items": csv(row, header=header), "item_groups": groups, "variations": sizes}
    )
    assert task["status"] == "DONE", task
    (item,) = (await shop.call("GET", "/v2/items"))["items"]
    item.pop("updated_at")
    assert item == {
        "id": "a",
        "name": 'Mug, "big"',
        "suggested_score": 3.0,
        "data": {
            "url": "/a",
            "image_url": "/a.png",
            "description": "two\nlines",
            "keywords": ["k1", "k2"],
            "group_ids": ["mugs", "sale"],
            "facets": {"colour": ["red", "blue"]},
            "brand": "=1+1",  # a formula is a text
            "sizes": [1, 2],
            "price": 7.5,
            "active": False,
            "x": {"y": 1},
        },
    }
    features = (await shop.in_redis())["a"]
    assert features.attributes["group_id"] == ("mugs", "all", "sale")
    assert features.attributes["size"] == ("L", "S")
    changes = task["result"]["changelog"]
    assert changes["item_groups_updated"] == 2
    assert changes["sections"]["Products"]["variations_updated"] == 2


async def test_jsonl_json_gzip_and_archives(shop: CatalogueShop) -> None:
    lines = b'{"id": "a", "name": "A", "data": {"price": 1}}\n\n{"id": "b", "name": "B"}\n'
    assert (await shop.run(files={"items": lines}))["counts"]["items_created"] == 2
    packed = gzip.compress(csv(*numbered(2)).encode())
    task = await shop.run("PATCH", files={"items": packed})
    assert task["counts"]["items_created"] == 2, task
    body = json.dumps({"items": [{"id": "c", "name": "C"}]})
    assert (await shop.run("PATCH", files={"items": body}))["counts"]["items_created"] == 1
    assert await shop.ids() == ["a", "b", "c", "i0", "i1"]
    everything = archive(
        variations_csv=csv("i0-s,i0", header="id,item_id"), items_csv=csv(*numbered(4))
    )
    task = await shop.run(files={"key_Products_sync_2026.tar.gz": everything}, force="true")
    assert task["status"] == "DONE", task
    assert await shop.ids() == ["i0", "i1", "i2", "i3"]
    assert len((await shop.in_postgres())["i0"].variations) == 1


async def test_a_broken_line_in_the_middle_changes_nothing(shop: CatalogueShop) -> None:
    await shop.put({"id": "old"})
    rows = numbered(10_000)
    rows[4_998] = 'i4998,"Item ""4998,7'  # line 5,000 of the file
    task = await shop.run(files={"items": csv(*rows)})
    assert task["status"] == "FAILED"
    assert "items.csv, line 5,000" in task["error"]
    assert "quote" in task["error"]
    (rejected,) = task["rejected_rows"]
    assert (rejected["file"], rejected["line"]) == ("items.csv", 5_000)

    rows[4_998] = "i4998,Item 4998,7,8"
    task = await shop.run(files={"items": csv(*rows)})
    assert task["status"] == "FAILED"
    assert "line 5,000: has 4 fields, the header has 3" in task["error"]
    assert task["counts"] == {"rows": 10_000, "rejected": 1}
    assert await shop.ids() == ["old"]
    assert await shop.version() == 1


async def test_every_refused_row_is_named(shop: CatalogueShop) -> None:
    await shop.put({"id": "old"})
    rows = ["a,A,1", ",B,1", "c,C,cheap", "a,A again,2", "d,D,4"]
    task = await shop.run(files={"items": csv(*rows)}, force="true")
    assert task["status"] == "FAILED"
    named = [(r["line"], r.get("id"), r["reason"]) for r in task["rejected_rows"]]
    assert [(line, row_id) for line, row_id, _ in named] == [(3, None), (4, "c")]
    assert named[0][2] == "id: is required"
    assert named[1][2].startswith("data/price: must be a number")
    assert await shop.ids() == ["old"]

    rows = ["a,A,1", "b,B,1", "a,A again,2"]
    task = await shop.run(files={"items": csv(*rows)}, force="true")
    (row,) = task["rejected_rows"]
    assert (row["line"], row["id"]) == (4, "a")
    assert "given before" in row["reason"]


async def test_good_rows_are_taken_where_that_is_asked_for(shop: CatalogueShop) -> None:
    """A refused row of a full import does not delete the item that it is about."""
    await shop.run(files={"items": csv("a,A,1", "b,B,1", "c,C,1", "d,D,1")})
    rows = ["a,A,9", "b,B,free", "e,E,1", "e,E again,2"]
    task = await shop.run(files={"items": csv(*rows)}, skip_rejected="true")
    assert task["status"] == "DONE", task
    assert [(r["line"], r["id"]) for r in task["rejected_rows"]] == [(3, "b"), (5, "e")]
    assert task["counts"]["rejected"] == 2
    found = await shop.in_postgres()
    assert {item.id: item.price for item in found.values()} == {"a": 9.0, "b": 1.0, "e": 1.0}

    # Nobody knows which item the broken row is about: nothing is deleted.
    task = await shop.run(files={"items": csv("a,A,3", "b;B")}, skip_rejected="true")
    assert task["status"] == "DONE"
    assert task["counts"]["deletions_withheld"] == 1
    found = await shop.in_postgres()
    assert {item.id: item.price for item in found.values()} == {"a": 3.0, "b": 1.0, "e": 1.0}


async def test_more_than_half_is_not_deleted_without_force(shop: CatalogueShop) -> None:
    await shop.run(files={"items": csv(*numbered(10))})
    task = await shop.run(files={"items": csv(*numbered(5))})
    assert task["status"] == "DONE"  # a half is not more than half
    task = await shop.run(files={"items": csv(*numbered(2))})
    assert task["status"] == "FAILED"
    assert "would delete 3 of 5 items" in task["error"]
    assert "force=true" in task["error"]
    assert len(await shop.ids()) == 5
    task = await shop.run(files={"items": csv(*numbered(2))}, force="true")
    assert task["status"] == "DONE"
    assert len(await shop.ids()) == 2
    task = await shop.run(files={"items": "id,item_name\n"})
    assert "would delete 2 of 2 items" in task["error"]


async def test_a_delta_leaves_the_rest_and_a_patch_the_other_fields(shop: CatalogueShop) -> None:
    await shop.run(files={"items": csv("a,A,1,x", "b,B,1,x", header="id,item_name,price,brand")})
    task = await shop.run("PATCH", files={"items": csv("a,New,2")})
    assert task["counts"]["items_updated"] == 1
    task = await shop.run(
        "PATCH", files={"items": csv("b,,7", "a,,")}, patch_delta="true", on_missing="IGNORE"
    )
    assert task["status"] == "DONE", task
    (a, b) = (await shop.call("GET", "/v2/items"))["items"]
    assert (a["name"], a["data"]) == ("New", {"price": 2})
    assert (b["name"], b["data"]) == ("B", {"price": 7, "brand": "x"})
    task = await shop.run("PATCH", files={"items": csv("z,Z,1")}, patch_delta="true")
    assert task["status"] == "FAILED"
    assert 'line 2, id z: id: "z" there is no such item' in task["error"]
    task = await shop.run(
        "PATCH", files={"items": csv("z,Z,1")}, patch_delta="true", on_missing="CREATE"
    )
    assert await shop.ids() == ["a", "b", "z"]


NO_FILES: tuple[tuple[bytes, str], ...] = (
    (b"", "is empty"),
    (b"name,price\nA,1\n", "has no column for id; columns found: name, price"),
    (b"sku,title\n1,A\n", "columns found: sku, title; wanted: id, item_name"),
    (b"id;item_name\n1;A\n", "separate with commas"),
    (b"id,item_name,name\n1,A,A\n", "has two columns for name"),
    ("id,item_name\n1,Größe\n".encode("latin-1"), "is not UTF-8"),
    ("id,item_name\n1,A\n".encode("utf-16"), "is UTF-16 text"),
    (b"PK\x03\x04....", "is a zip archive"),
    (b"PAR1....", "is a Parquet file"),
    (b"id,item_name\n" + b"x" * 1_100_000, "is longer than 1,048,576 bytes"),
    (b'id,item_name\n1,"' + b"x" * 200_000 + b'"\n', "quote is opened here"),
    (b'{"id": "1", "name": "A"}\n{"id": "2", "name"', "line 2"),
    (b'{"id": "1", "name": "A"}\n["x"]\n', "line 2"),
    (b'{"items": [{"id": "1"}]}', "name: is required"),
    (gzip.compress(b"id,item_name\n1,A\n")[:-9], "is not a whole gzip file"),
    (
        gzip.compress(b"id,item_name\n" + b'1,"%b"\n' % (b"A" * 99_000) * 80),
        "when it is unpacked",
    ),
    (archive(items_csv=csv("1,A,1"), other_csv="x"), "holds other.csv"),
    (archive(items_csv=csv("1,A,1"), a__items_csv=csv("2,B,1")), "second file of items"),
    (archive(items_csv=csv("1,A,1"))[:60], "is not a whole"),
)


async def test_files_that_are_none(shop: CatalogueShop) -> None:
    for content, trouble in NO_FILES:
        task = await shop.run(files={"items": content})
        assert task["status"] == "FAILED", task
        assert trouble in task["error"]
    assert await shop.ids() == []
    assert await shop.version() == 0


async def test_a_name_in_an_archive_opens_no_path(shop: CatalogueShop, tmp_path: Path) -> None:
    tricks = archive(**{"..__..__etc__items_csv": csv("1,A,1")})
    task = await shop.run(files={"x.tar.gz": tricks})
    assert task["status"] == "DONE"  # the last part of the name says what it holds
    assert list(tmp_path.rglob("*.csv")) == []


async def test_calls_that_are_wrong(shop: CatalogueShop, tmp_path: Path) -> None:
    answer = await shop.upload(status=400, files={"prices": "id\n1\n"})
    assert "prices" in answer["message"]
    answer = await shop.call("PUT", "/v1/catalog", {"items": []}, status=400)
    assert "multipart/form-data" in answer["message"]
    async with shop.http.put(
        f"{shop.url}/v1/catalog",
        params={"key": shop.merchant.key},
        data=b'--B\r\nContent-Disposition: form-data; name="\x1cp"\r\n\r\nx\r\n--B--\r\n',
        headers={
            "Authorization": f"Bearer {shop.merchant.token}",
            "Content-Type": "multipart/form-data; boundary=B",
        },
    ) as response:  # aiohttp refuses the part's header, by an error of its own
        assert response.status == 400, await response.text()
    await shop.upload(status=400, files={"items": csv("1,A,1")}, force="maybe")
    await shop.upload(status=400, files={"items": csv("1,A,1")}, format="xml")
    await shop.upload(status=400, files={"items": csv("1,A,1")}, mode="ids")
    await shop.upload("PATCH", status=400, files={"items": csv("1,A,1")}, on_missing="PANIC")
    await shop.upload(status=400, files={"items": "id", "a.tar.gz": b"x"})
    answer = await shop.upload(status=413, files={"items": b"x" * (MAX_BYTES + 1)})
    for token in (shop.merchant.secrets["reader"], shop.merchant.secrets["merchandiser"]):
        await shop.call("PUT", "/v1/catalog", {}, status=403, token=token)
    assert list((tmp_path / "uploads").iterdir()) == []
    assert (await shop.call("GET", "/v1/tasks"))["total_count"] == 0


async def test_tasks_are_listed_and_kept_apart(
    shop: CatalogueShop, module_database_url: str, create_merchant: Callable[..., Any]
) -> None:
    await shop.put({"id": "a"})
    good = await shop.run("PATCH", files={"items": csv("b,B,1")})
    bad = await shop.run(files={"items": "x"})
    listed = await shop.call("GET", "/v1/tasks")
    assert [task["id"] for task in listed["tasks"]][:2] == [bad["id"], good["id"]]
    assert listed["total_count"] == 3
    assert listed["status_counts"]["DONE"] == 2
    assert len(listed["tasks"]) == 3
    only = await shop.call("GET", "/v1/tasks", type="ingestion", start_date="2020-01-01")
    assert only["total_count"] == 3
    assert (await shop.call("GET", "/v1/tasks", type="training"))["total_count"] == 0
    assert (await shop.call("GET", "/v1/tasks", end_date="2020-01-01"))["total_count"] == 0
    await shop.call("GET", "/v1/tasks", status=400, start_date="yesterday")
    await shop.call("GET", "/v1/tasks/999999", status=404)
    await shop.call("GET", "/v1/tasks/x", status=404)
    other = await create_merchant(module_database_url, "other")
    shop.keys.add(other)
    await shop.call("GET", f"/v1/tasks/{good['id']}", status=404, token=other.token)
    assert (await shop.call("GET", "/v1/tasks", token=other.token))["total_count"] == 0


async def test_imports_and_deltas_of_one_catalogue_come_one_after_the_other(
    shop: CatalogueShop,
) -> None:
    await shop.run(files={"items": csv(*numbered(300))})
    for start in range(4):
        await shop.upload("PATCH", files={"items": csv(*numbered(300, start * 100))})
    for _ in range(2):
        await shop.upload(files={"items": csv(*numbered(300))}, force="true")

    async def changes() -> None:
        for n in range(10):
            await shop.put({"id": "i0", "data": {"price": n}})
            await shop.call(
                "PATCH",
                "/v2/items",
                {"items": [{"id": "i1", "data": {"n": n}}]},
                on_missing="IGNORE",
            )

    await asyncio.gather(shop.queue.work(), changes(), changes())
    listed = await shop.call("GET", "/v1/tasks", num_results_per_page=100)
    assert listed["status_counts"] == {
        "QUEUED": 0, "IN_PROGRESS": 0, "DONE": 47, "FAILED": 0, "CANCELED": 0,
    }  # fmt: skip
    await shop.projector.round()
    assert await shop.in_redis() == await shop.in_postgres()
    versions = await shop.query("SELECT DISTINCT version FROM item ORDER BY version")
    assert versions[-1]["version"] <= await shop.version()


async def test_an_import_that_is_broken_off_has_changed_nothing_and_is_done_again(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.put({"id": "old"})
    started = await shop.upload("PATCH", files={"items": csv(*numbered(5_000))})
    (job,) = shop.queue.waiting
    shop.queue.waiting = []

    reached = asyncio.Event()
    project = shop.tasks.progress

    async def hang(*args: Any) -> None:
        await project(*args)
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(shop.tasks, "progress", hang)
    monkeypatch.setattr("app.services.catalogue_import._PROGRESS_SECONDS", 0)
    running = asyncio.create_task(shop.imports.run_import(**job))
    await asyncio.wait_for(reached.wait(), 20)
    task = await shop.call("GET", started["task_status_path"])
    assert task["status"] == "IN_PROGRESS"
    assert task["counts"]["rows"] > 0
    assert await shop.recover() == 0  # somebody is at work on it
    await shop.imports.run_import(**job)  # and nobody else begins
    assert (await shop.call("GET", started["task_status_path"]))["status"] == "IN_PROGRESS"

    running.cancel()  # as a worker that is killed: its connection is gone
    await asyncio.gather(running, return_exceptions=True)
    assert await shop.ids() == ["old"]
    monkeypatch.undo()
    assert await shop.recover() == 1
    assert (await shop.call("GET", started["task_status_path"]))["status"] == "QUEUED"
    await shop.queue.work()
    task = await shop.call("GET", started["task_status_path"])
    assert task["status"] == "DONE", task
    assert len(await shop.ids()) == 5_001
    assert await shop.recover() == 0


async def test_an_import_that_kills_its_worker_is_given_up(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = await shop.upload(files={"items": csv("a,A,1")})

    async def die(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    run = shop.imports.run
    monkeypatch.setattr(shop.imports, "run", die)
    for _ in range(5):
        (job,) = shop.queue.waiting
        shop.queue.waiting = []
        with pytest.raises(asyncio.CancelledError):
            await shop.imports.run_import(**job)
        assert await shop.recover() == 1
    assert await shop.recover() == 0  # it waits in the queue
    monkeypatch.setattr(shop.imports, "run", run)
    await shop.queue.work()
    task = await shop.call("GET", started["task_status_path"])
    assert task["status"] == "FAILED"
    assert "broken off 5 times" in task["error"]
    assert list(shop.files._root.iterdir()) == []


async def test_an_import_that_the_queue_did_not_take_is_done_all_the_same(
    shop: CatalogueShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise Unavailable("the queue is away")

    with monkeypatch.context() as patched:
        patched.setattr(shop.queue, "enqueue", away)
        started = await shop.upload(files={"items": csv("a,A,1")})
    assert await shop.recover() == 1
    await shop.queue.work()
    assert (await shop.call("GET", started["task_status_path"]))["status"] == "DONE"


async def test_what_was_left_behind_is_swept(shop: CatalogueShop) -> None:
    await shop.upload(files={"items": csv("a,A,1")})
    assert await shop.files.sweep(older_than=3600) == 0
    assert await shop.files.sweep(older_than=0) == 1
    await shop.queue.work()
    (task,) = (await shop.call("GET", "/v1/tasks"))["tasks"]
    assert "is not there any more" in task["error"]
    assert await shop.catalogue.version(MerchantId(shop.id), Section("Products")) == 0
