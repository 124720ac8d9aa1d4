"""`/admin/v1/webhooks`: a merchant's own addresses that are told of publications and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from app.domain.webhook import ID, SIGNATURE, Delivery, Webhook, WebhookChange
from app.http import admin_wire as wire
from app.http.admin_rules import path_id, read
from app.http.caller import caller
from app.http.cursor import PAGE_PARAMETERS, Page, asked_page
from app.http.etag import IF_MATCH, etag, expected_versions
from app.http.idempotency import IDEMPOTENCY_KEY, Idempotency
from app.http.operation import Operation
from app.services.webhooks import Webhooks

PATH: Final = "/admin/v1/webhooks"
ONE: Final = PATH + "/{webhook_id}"


class NewWebhook(msgspec.Struct, frozen=True):
    webhook: Webhook
    secret: str
    """What deliveries are signed with. Never told again."""


class AdminWebhooks:
    def __init__(self, webhooks: Webhooks, idempotency: Idempotency) -> None:
        self._webhooks = webhooks
        self._idempotency = idempotency

    def operations(self) -> Sequence[Operation]:
        example: dict[str, Any] = {
            "url": "https://shop.example/hooks/vitrine",
            "events": ["rule_set.published"],
        }
        return (
            Operation(
                "GET",
                PATH,
                "listWebhooks",
                wire.TAG,
                "List webhooks by id",
                self.list,
                roles=wire.READERS,
                parameters=PAGE_PARAMETERS,
                responses={200: Page[Webhook]},
            ),
            Operation(
                "POST",
                PATH,
                "createWebhook",
                wire.TAG,
                "Create a webhook",
                self.create,
                roles=wire.ADMINISTRATORS,
                parameters=(IDEMPOTENCY_KEY,),
                body=WebhookChange,
                body_example=example,
                responses={201: NewWebhook},
                description=f"Messages are sent by POST, at least once each: {ID} names one, and"
                f" {SIGNATURE} is `t=<Unix seconds>,v1=<hex>`, the HMAC-SHA256 of `<t>.<body>` with"
                " the secret. What is not answered with 2xx within 10 seconds is sent again, eight"
                " times in all, with pauses that grow. Only addresses on the public internet are"
                " called, and redirects are not followed. Without `events`, all are sent.",
            ),
            Operation(
                "GET",
                ONE,
                "getWebhook",
                wire.TAG,
                "Read a webhook",
                self.get,
                roles=wire.READERS,
                responses={200: Webhook},
            ),
            Operation(
                "PUT",
                ONE,
                "replaceWebhook",
                wire.TAG,
                "Change a webhook: the body takes its place; the secret stays",
                self.replace,
                roles=wire.ADMINISTRATORS,
                parameters=(IF_MATCH,),
                body=WebhookChange,
                body_example=example,
                responses={200: Webhook},
            ),
            Operation(
                "DELETE",
                ONE,
                "deleteWebhook",
                wire.TAG,
                "Delete a webhook and what it was still to be told",
                self.delete,
                roles=wire.ADMINISTRATORS,
                parameters=(IF_MATCH,),
                responses={204: None},
            ),
            Operation(
                "GET",
                f"{ONE}/deliveries",
                "listWebhookDeliveries",
                wire.TAG,
                "List what a webhook was told, or is to be told, newest first",
                self.deliveries,
                roles=wire.READERS,
                parameters=PAGE_PARAMETERS,
                responses={200: Page[Delivery]},
            ),
        )

    async def list(self, request: web.Request) -> web.Response:
        after, limit = asked_page(request, str)
        found = await self._webhooks.page(caller(request).merchant, after=after, limit=limit + 1)
        return wire.answer(wire.page_of(found, limit, lambda row: row.id, lambda row: row))

    async def create(self, request: web.Request) -> web.Response:
        by = caller(request)
        change = await read(request, WebhookChange)

        async def create() -> web.Response:
            made, secret = await self._webhooks.create(by.merchant, change, by.token_id)
            headers = {"ETag": etag(made.version), "Location": f"{PATH}/{made.id}"}
            return wire.answer(NewWebhook(made, secret), 201, headers)

        return await self._idempotency.once(request, create)

    async def get(self, request: web.Request) -> web.Response:
        webhook_id = path_id(request, "webhook_id")
        return _one(await self._webhooks.get(caller(request).merchant, webhook_id))

    async def replace(self, request: web.Request) -> web.Response:
        by = caller(request)
        webhook_id = path_id(request, "webhook_id")
        expected = expected_versions(request)
        change = await read(request, WebhookChange)
        return _one(
            await self._webhooks.replace(by.merchant, webhook_id, change, expected, by.token_id)
        )

    async def delete(self, request: web.Request) -> web.Response:
        by = caller(request)
        webhook_id = path_id(request, "webhook_id")
        expected = expected_versions(request)
        await self._webhooks.delete(by.merchant, webhook_id, expected, by.token_id)
        return web.Response(status=204)

    async def deliveries(self, request: web.Request) -> web.Response:
        before, limit = asked_page(request, int)
        found = await self._webhooks.deliveries(
            caller(request).merchant,
            path_id(request, "webhook_id"),
            before=before,
            limit=limit + 1,
        )
        return wire.answer(wire.page_of(found, limit, lambda row: row.id, lambda row: row))


def _one(webhook: Webhook) -> web.Response:
    return wire.answer(webhook, headers={"ETag": etag(webhook.version)})
