"""`/admin/v1/tracking`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.merchant import Role
from tests.admin_shop import Process, open_processes

TRACKING = "/admin/v1/tracking"


@pytest.fixture
async def process(database_url: str, merchant: Any, tmp_path: Path) -> AsyncIterator[Process]:
    start: Callable[[], Any]
    async with open_processes(database_url, merchant, tmp_path) as start:
        yield await start()


async def test_the_settings_are_read_changed_and_audited(process: Process) -> None:
    found, headers = await process.call_for_headers("GET", TRACKING, role=Role.READER)
    assert found["internal_ips"] == []
    wanted = {**found, "internal_ips": ["192.0.2.0/24", "2001:db8::1"], "require_consent": True}
    changed, after = await process.call_for_headers(
        "PUT", TRACKING, wanted, headers={"If-Match": headers["ETag"]}
    )
    assert changed == wanted
    assert after["ETag"] != headers["ETag"]
    assert await process.call("GET", TRACKING) == wanted
    # Who has not seen the change does not undo it.
    await process.call("PUT", TRACKING, found, headers={"If-Match": headers["ETag"]}, status=412)
    await process.call("PUT", TRACKING, found, status=428)
    await process.call(
        "PUT", TRACKING, found, headers={"If-Match": "*"}, role=Role.MERCHANDISER, status=403
    )
    assert await process.call("GET", TRACKING) == wanted
    entries = await process.call("GET", "/admin/v1/audit?action=merchant.settings")
    assert [entry["after"]["tracking"] for entry in entries["items"]] == [wanted]


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"internal_ips": ["192.0.2.0/24", "office"]}, "/internal_ips/1"),
        ({"robot_agents": [""]}, "/robot_agents/0"),
        ({"internal_user_ids": ["u" * 257]}, "/internal_user_ids/0"),
        ({"conversion_types": ["c"] * 1001}, "/conversion_types"),
        ({"require_consent": "yes"}, "/require_consent"),
        ({"internal_addresses": []}, "/internal_addresses"),
    ],
)
async def test_wrong_settings_are_refused_with_the_place(
    process: Process, wrong: dict[str, Any], pointer: str
) -> None:
    before = await process.call("GET", TRACKING)
    problem = await process.call("PUT", TRACKING, wrong, headers={"If-Match": "*"}, status=400)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert await process.call("GET", TRACKING) == before
