"""Webhooks: told of publications, signed, tried again, and never led inside."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.domain.errors import InvalidInput
from app.domain.merchant import Role
from app.domain.webhook import MAX_ATTEMPTS, WebhookChange, pause
from app.http.webhook_sender import HttpWebhookSender, InternalAddressError, is_public
from app.postgres.database import Database, raw
from app.postgres.webhooks import WebhookStore
from app.services.webhooks import WebhookDelivery, Webhooks
from tests.ruled_shop import RULE_SETS, RuledShop, open_shop, supermarket

PATH = "/admin/v1/webhooks"
ANY = {"If-Match": "*"}
RULE = {"then": [{"type": "pin", "item_id": "x", "slot": 1}]}


class Receiver:
    """A merchant's own server."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []  # to be answered in turn, then 200
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.received.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver.handle)
    async with TestServer(application) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver


@pytest.fixture
async def shop(database: Database, merchant: Any, tmp_path: Path) -> AsyncIterator[RuledShop]:
    async with open_shop(database, merchant, tmp_path, supermarket()[:20]) as shop:
        yield shop


@pytest.fixture
async def sender() -> AsyncIterator[HttpWebhookSender]:
    sender = HttpWebhookSender(allow_internal=True, timeout=2.0)
    yield sender
    await sender.close()


@pytest.fixture
def delivery(database: Database, sender: HttpWebhookSender) -> WebhookDelivery:
    return WebhookDelivery(WebhookStore(database), sender, clock=lambda: 1_795_000_000.5)


async def create(shop: RuledShop, url: str, **fields: Any) -> tuple[str, str]:
    made = await shop.call(
        "POST", PATH, {"url": url, **fields}, status=201, role=Role.ADMINISTRATOR
    )
    return made["webhook"]["id"], made["secret"]


async def told(shop: RuledShop, webhook_id: str) -> list[Any]:
    found = await shop.call("GET", f"{PATH}/{webhook_id}/deliveries")
    return list(found["items"])


async def make_due(shop: RuledShop) -> None:
    async with shop.database.merchant(shop.merchant) as connection:
        await (await raw(connection)).execute("UPDATE webhook_delivery SET due_at = now()")


async def test_a_publication_is_told_and_signed(
    shop: RuledShop, receiver: Receiver, delivery: WebhookDelivery
) -> None:
    webhook_id, secret = await create(shop, receiver.url)
    await shop.publish(RULE)
    assert receiver.received == [], "the call that publishes does not wait for webhooks"
    assert await delivery.run_once() == 1
    assert await delivery.run_once() == 0
    ((headers, body),) = receiver.received
    message = json.loads(body)
    assert message["event"] == "rule_set.published"
    assert (message["data"]["rule_set"], message["data"]["number"]) == ("main", 1)
    signed = hmac.new(secret.encode(), b"1795000000." + body, hashlib.sha256).hexdigest()
    assert headers["Vitrine-Signature"] == f"t=1795000000,v1={signed}"
    (row,) = await told(shop, webhook_id)
    assert (row["state"], row["attempts"], row["last_status"]) == ("delivered", 1, 200)
    assert headers["Vitrine-Delivery"] == str(row["id"])


async def test_what_is_not_taken_is_sent_again_with_growing_pauses_and_then_given_up(
    shop: RuledShop, receiver: Receiver, delivery: WebhookDelivery
) -> None:
    webhook_id, _ = await create(shop, receiver.url)
    await shop.publish(RULE)
    receiver.statuses = [500, 302] + [503] * MAX_ATTEMPTS
    assert await delivery.run_once() == 1
    assert await delivery.run_once() == 0, "not before its pause is over"
    for _ in range(MAX_ATTEMPTS + 2):
        await make_due(shop)
        await delivery.run_once()
    assert len(receiver.received) == MAX_ATTEMPTS, "a redirect is not followed"
    (row,) = await told(shop, webhook_id)
    assert (row["state"], row["last_error"]) == ("failed", "answered 503")
    pauses = [pause(n) for n in range(1, MAX_ATTEMPTS)]
    assert pauses == sorted(set(pauses))


async def test_a_later_try_may_succeed(
    shop: RuledShop, receiver: Receiver, delivery: WebhookDelivery
) -> None:
    webhook_id, _ = await create(shop, receiver.url)
    await shop.publish(RULE)
    receiver.statuses = [500]
    await delivery.run_once()
    await make_due(shop)
    await delivery.run_once()
    (row,) = await told(shop, webhook_id)
    assert (row["state"], row["attempts"], row.get("last_error")) == ("delivered", 2, None)
    assert receiver.received[0][1] == receiver.received[1][1]


async def test_nobody_answers(
    shop: RuledShop, delivery: WebhookDelivery, unused_tcp_port: int
) -> None:
    webhook_id, _ = await create(shop, f"http://127.0.0.1:{unused_tcp_port}/")
    await shop.publish(RULE)
    await delivery.run_once()
    (row,) = await told(shop, webhook_id)
    assert row["state"] == "pending"
    assert row["last_error"].startswith("no answer: ")
    assert str(unused_tcp_port) not in row["last_error"]


async def test_only_what_is_wanted_and_enabled_is_told(
    shop: RuledShop, receiver: Receiver, delivery: WebhookDelivery
) -> None:
    withdrawn, _ = await create(shop, receiver.url, events=["rule_set.withdrawn"])
    off, _ = await create(shop, receiver.url, enabled=False)
    await shop.publish(RULE)
    assert await told(shop, withdrawn) == await told(shop, off) == []
    await shop.call("POST", f"{RULE_SETS}/main/withdraw", {}, status=204, headers=ANY)
    assert [row["event"] for row in await told(shop, withdrawn)] == ["rule_set.withdrawn"]
    assert await told(shop, off) == []


async def test_two_workers_send_a_message_once(
    shop: RuledShop, receiver: Receiver, delivery: WebhookDelivery
) -> None:
    await create(shop, receiver.url)
    for _ in range(3):
        await shop.publish(RULE)
    await asyncio.gather(*(delivery.run_once() for _ in range(3)))
    assert len(receiver.received) == 3
    assert len({headers["Vitrine-Delivery"] for headers, _ in receiver.received}) == 3


async def test_a_webhook_is_changed_and_deleted(shop: RuledShop, receiver: Receiver) -> None:
    webhook_id, secret = await create(shop, receiver.url)
    admin = {"role": Role.ADMINISTRATOR}
    read = await shop.call("GET", f"{PATH}/{webhook_id}")
    assert secret not in json.dumps(read)
    assert shop.etag == '"1"'
    change = {"url": receiver.url, "enabled": False}
    one = f"{PATH}/{webhook_id}"
    await shop.call("PUT", one, change, status=428, **admin)
    await shop.call("PUT", one, change, status=412, headers={"If-Match": '"2"'}, **admin)
    changed = await shop.call("PUT", one, change, headers={"If-Match": '"1"'}, **admin)
    assert changed["enabled"] is False
    for method in ("PUT", "DELETE"):
        await shop.call(method, one, change, status=403, headers=ANY)
    await shop.call("POST", PATH, change, status=403)
    await shop.call("DELETE", one, status=204, headers={"If-Match": '"2"'}, **admin)
    for path in (one, f"{one}/deliveries", f"{PATH}/%00"):
        await shop.call("GET", path, status=404)
    assert (await shop.call("GET", PATH))["items"] == []


async def test_urls_that_cannot_be_called(database: Database) -> None:
    webhooks = Webhooks(WebhookStore(database))
    for url in (
        "http://shop.example/", "ftp://shop.example/", "shop.example", "https://", "https:///x",
        "https://user:secret@shop.example/", "https://shop.example:0/", "https://shop.example:x/",
        "https://shop.example/a b", "https://[::1", "javascript:alert(1)", "https://sh\u00f6p.example/",
    ):  # fmt: skip
        with pytest.raises(InvalidInput) as failure:
            await webhooks.create("nobody", WebhookChange(url=url), "test")  # type: ignore[arg-type]
        assert failure.value.errors[0].field == "/url"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("0.0.0.0", False), ("100.64.0.1", False),
        ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
        ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False),
        ("ff02::1", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_no_message_is_led_inside(receiver: Receiver) -> None:
    sender = HttpWebhookSender(timeout=2.0)
    port = receiver.url.rpartition(":")[2]
    try:
        for host in ("127.0.0.1", "localhost", "[::1]", "0x7f.1", "2130706433", "127.1"):
            with pytest.raises(OSError) as failure:
                await sender.send(f"http://{host}:{port}", b"{}", {})
            if host in ("127.0.0.1", "localhost", "[::1]", "0x7f.1"):  # others are no host at all
                assert isinstance(failure.value, InternalAddressError), host
    finally:
        await sender.close()
    assert receiver.received == []
