"""The rules' part of the OpenAPI document: valid, its examples run, its answers as it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.domain.merchant import Role
from app.http.openapi import document
from app.postgres.database import Database
from tests.ruled_shop import RULE_SETS, RuledShop, open_shop, supermarket

ANY = {"If-Match": "*"}


@pytest.fixture
async def shop(database: Database, merchant: Any, tmp_path: Path) -> AsyncIterator[RuledShop]:
    async with open_shop(database, merchant, tmp_path, supermarket()[:60]) as shop:
        yield shop


class Described:
    """The document, and whether an answer is as it says."""

    def __init__(self, shop: RuledShop) -> None:
        self.operations = {operation.id: operation for operation in shop.operations()}
        described = document(list(self.operations.values()), "0")
        self.document = msgspec.json.decode(msgspec.json.encode(described))
        self.seen: set[str] = set()

    def check(self, operation_id: str, answer: Any, status: int = 200) -> Any:
        operation = self.operations[operation_id]
        schema = self.document["paths"][operation.path][operation.method.lower()]["responses"][
            str(status)
        ]["content"]["application/json"]["schema"]
        whole = {**schema, "components": self.document["components"]}
        jsonschema.Draft202012Validator(whole).validate(answer)
        self.seen.add(operation_id)
        return answer


async def test_the_document_is_valid_and_names_every_condition_and_action(shop: RuledShop) -> None:
    described = Described(shop)
    OpenAPIV31SpecValidator(described.document).validate()
    schemas = described.document["components"]["schemas"]
    for name in ("Pin", "AtLeast", "Rotate", "WhenWeekly", "WhenSeed", "ItemNew", "ItemNamed"):
        assert schemas[name]["additionalProperties"] is False
        assert schemas[name]["properties"]["type"]["enum"]
    # Every schema explains itself.
    kinds = [
        n for n in schemas if n.startswith(("When", "Item")) or n in ("Pin", "Boost", "AtMost")
    ]
    assert all(schemas[name].get("description") for name in kinds)


async def test_examples_are_what_the_operations_take(shop: RuledShop) -> None:
    described = Described(shop)
    examples = 0
    for operation in described.operations.values():
        if operation.body is not None:
            assert operation.body_example is not None, operation.id
            msgspec.convert(operation.body_example, operation.body)
            examples += 1
    assert examples >= 10


async def test_answers_are_as_the_document_says(shop: RuledShop) -> None:
    described = Described(shop)
    check = described.check
    admin = {"role": Role.ADMINISTRATOR}
    example = described.operations["createRuleSet"].body_example
    main = f"{RULE_SETS}/autumn"
    check("createRuleSet", await shop.call("POST", RULE_SETS, example, status=201), 201)
    check("listRuleSets", await shop.call("GET", RULE_SETS))
    check("getRuleSet", await shop.call("GET", main))
    check("replaceRuleSet", await shop.call("PUT", main, example, headers=ANY))
    rule = described.operations["putRule"].body_example
    path = f"{main}/rules/{rule['id']}"
    check("putRule", await shop.call("PUT", path, rule, headers=ANY))
    check("getRule", await shop.call("GET", path))
    rules = described.operations["validateRules"].body_example
    check("validateRules", await shop.call("POST", f"{RULE_SETS}:validate", rules))
    check("previewRuleSet", await shop.call(
        "POST", f"{main}/preview", {"request": {"pod_id": "home"}}))  # fmt: skip
    check("previewRuleSetOnSamples", await shop.call("POST", f"{main}/preview-samples", {}))
    check("judgeRuleSet", await shop.call("POST", f"{main}/judge"))
    check("listDraftConflicts", await shop.call("GET", f"{main}/conflicts"))
    publication = described.operations["publishRuleSet"].body_example
    check("publishRuleSet", await shop.call(
        "POST", f"{main}/publish", publication, status=201, headers=ANY), 201)  # fmt: skip
    back = described.operations["rollBackRuleSet"].body_example
    check("rollBackRuleSet", await shop.call(
        "POST", f"{main}/roll-back", back, status=201, headers=ANY), 201)  # fmt: skip
    await shop.serving.refresh()
    check("listRuleSetVersions", await shop.call("GET", f"{main}/versions"))
    check("getRuleSetVersion", await shop.call("GET", f"{main}/versions/1"))
    check("listRuleConflicts", await shop.call("GET", "/admin/v1/rules/conflicts"))
    check("listRuleReach", await shop.call("GET", "/admin/v1/rules/reach", pod="home"))
    hook = described.operations["createWebhook"].body_example
    made = check("createWebhook", await shop.call(
        "POST", "/admin/v1/webhooks", hook, status=201, **admin), 201)  # fmt: skip
    one = f"/admin/v1/webhooks/{made['webhook']['id']}"
    check("listWebhooks", await shop.call("GET", "/admin/v1/webhooks"))
    check("getWebhook", await shop.call("GET", one))
    check("replaceWebhook", await shop.call("PUT", one, hook, headers=ANY, **admin))
    await shop.call("POST", f"{main}/publish", {}, status=201, headers=ANY)
    check("listWebhookDeliveries", await shop.call("GET", f"{one}/deliveries"))
    check("listAudit", await shop.call("GET", "/admin/v1/audit"))
    check("getRecommendations", await shop.answer())
    home = "/recommendations/v1/pods/home"
    query = {"key": shop.key, "explain": "true", "why_not": "nothing"}
    check("getRecommendations", await shop.call("GET", home, **query))
    page = {"pods": [{"pod_id": "home"}]}
    check("getPageRecommendations", await shop.call(
        "POST", "/v1/recommendations:page", page, key=shop.key))  # fmt: skip
    without_body = {"deleteRuleSet", "deleteRule", "withdrawRuleSet", "deleteWebhook"}
    assert described.seen | without_body == set(described.operations)
