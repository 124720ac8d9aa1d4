"""`/admin/v1/rule-sets`: drafts of rules. What was published is in `admin_rule_versions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from aiohttp import web

from app.domain.errors import InvalidInput, NotFound
from app.domain.rule import MAX_RULES, Rule, RuleSet, RuleSetDraft, RuleSetSummary
from app.domain.rule_items import ItemExpression, Name
from app.http import admin_wire as wire
from app.http.caller import caller, decode_json
from app.http.cursor import PAGE_PARAMETERS, Page, asked_page
from app.http.etag import IF_MATCH, etag, expected_versions
from app.http.idempotency import IDEMPOTENCY_KEY, Idempotency
from app.http.operation import Operation
from app.http.problem import WrongField
from app.services.merchandise import Merchandise, rule_of

PATH: Final = "/admin/v1/rule-sets"
ONE: Final = PATH + "/{rule_set_id}"
RULE: Final = ONE + "/rules/{rule_id}"

T = TypeVar("T")

_ID: Final = msgspec.json.Decoder(Name)


class RuleSetBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule set as its author writes it."""

    id: Name
    display_name: Annotated[str, msgspec.Meta(max_length=200)] = ""
    rules: Annotated[tuple[Rule, ...], msgspec.Meta(max_length=MAX_RULES)] = ()
    expressions: dict[Name, ItemExpression] = {}

    @property
    def rule_set(self) -> RuleSet:
        return RuleSet(rules=self.rules, expressions=self.expressions)


class RuleSetAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A rule set's draft, and which version is in force."""

    id: str
    display_name: str
    rules: tuple[Rule, ...]
    expressions: dict[str, ItemExpression]
    published: int | None
    created_at: float  # Unix seconds
    updated_at: float


class Validation(msgspec.Struct, frozen=True):
    """What is wrong with a rule set."""

    valid: bool
    errors: list[WrongField]


EXAMPLE_RULES: Final[list[dict[str, Any]]] = [
    {
        "id": "own-brand-first",
        "name": "Own brand a little further up at the weekend",
        "priority": 10,
        "reason": "Campaign of the autumn",
        "when": {
            "type": "and",
            "of": [
                {"type": "pod", "ids": ["home_hero"]},
                {"type": "weekly", "zone": "Europe/London", "days": ["sat", "sun"]},
            ],
        },
        "then": [{"type": "boost", "items": {"type": "named", "name": "cheap"}, "strength": 4}],
    },
    {
        "id": "no-more-of-the-same",
        "then": [{"type": "at_most", "count": 2, "attribute": "group_id", "first": 8}],
    },
]
EXAMPLE: Final[dict[str, Any]] = {
    "id": "autumn",
    "display_name": "Autumn",
    "rules": EXAMPLE_RULES,
    "expressions": {"cheap": {"type": "range", "attribute": "price", "at_most": 5}},
}


class AdminRules:
    def __init__(self, merchandise: Merchandise, idempotency: Idempotency) -> None:
        self._merchandise = merchandise
        self._idempotency = idempotency

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                PATH,
                "listRuleSets",
                wire.TAG,
                "List rule sets by id",
                self.list,
                roles=wire.READERS,
                parameters=PAGE_PARAMETERS,
                responses={200: Page[RuleSetSummary]},
            ),
            Operation(
                "POST",
                PATH,
                "createRuleSet",
                wire.TAG,
                "Create a rule set",
                self.create,
                roles=wire.MERCHANDISERS,
                parameters=(IDEMPOTENCY_KEY,),
                body=RuleSetBody,
                body_example=EXAMPLE,
                responses={201: RuleSetAnswer},
                description="A draft: nothing of it is served before it is published.",
            ),
            Operation(
                "POST",
                f"{PATH}:validate",
                "validateRules",
                wire.TAG,
                "Say all that is wrong with rules; keep nothing",
                self.validate,
                roles=wire.READERS,
                body=RuleSet,
                body_example={k: EXAMPLE[k] for k in ("rules", "expressions")},
                responses={200: Validation},
            ),
            Operation(
                "GET",
                ONE,
                "getRuleSet",
                wire.TAG,
                "Read a rule set's draft",
                self.get,
                roles=wire.READERS,
                responses={200: RuleSetAnswer},
            ),
            Operation(
                "PUT",
                ONE,
                "replaceRuleSet",
                wire.TAG,
                "Change a draft: the body takes its place",
                self.replace,
                roles=wire.MERCHANDISERS,
                parameters=(IF_MATCH,),
                body=RuleSetBody,
                body_example=EXAMPLE,
                responses={200: RuleSetAnswer},
            ),
            Operation(
                "DELETE",
                ONE,
                "deleteRuleSet",
                wire.TAG,
                "Delete a draft that is not in force",
                self.delete,
                roles=wire.MERCHANDISERS,
                parameters=(IF_MATCH,),
                responses={204: None},
                description="Its published versions stay in the record.",
            ),
            Operation(
                "GET",
                RULE,
                "getRule",
                wire.TAG,
                "Read one rule of a draft",
                self.get_rule,
                roles=wire.READERS,
                responses={200: Rule},
            ),
            Operation(
                "PUT",
                RULE,
                "putRule",
                wire.TAG,
                "Change one rule of a draft, or add it behind the others",
                self.put_rule,
                roles=wire.MERCHANDISERS,
                parameters=(IF_MATCH,),
                body=Rule,
                body_example=EXAMPLE_RULES[1],
                responses={200: Rule},
                description="If-Match and ETag are the rule set's.",
            ),
            Operation(
                "DELETE",
                RULE,
                "deleteRule",
                wire.TAG,
                "Take one rule out of a draft",
                self.delete_rule,
                roles=wire.MERCHANDISERS,
                parameters=(IF_MATCH,),
                responses={204: None},
                description="If-Match and ETag are the rule set's.",
            ),
        )

    async def list(self, request: web.Request) -> web.Response:
        after, limit = asked_page(request, str)
        found = await self._merchandise.page(caller(request).merchant, after=after, limit=limit + 1)
        return wire.answer(wire.page_of(found, limit, lambda row: row.id, lambda row: row))

    async def create(self, request: web.Request) -> web.Response:
        by = caller(request)
        body = await read(request, RuleSetBody)

        async def create() -> web.Response:
            made = await self._merchandise.create(
                by.merchant, body.id, body.display_name, body.rule_set, by.token_id
            )
            return _draft(made, 201, {"Location": f"{PATH}/{made.id}"})

        return await self._idempotency.once(request, create)

    async def validate(self, request: web.Request) -> web.Response:
        rules = await read(request, RuleSet)
        problems = self._merchandise.problems(caller(request).merchant, rules)
        wrong = [WrongField(error.field, error.message) for error in problems]
        return wire.answer(Validation(not wrong, wrong))

    async def get(self, request: web.Request) -> web.Response:
        return _draft(
            await self._merchandise.get(caller(request).merchant, path_id(request, "rule_set_id"))
        )

    async def replace(self, request: web.Request) -> web.Response:
        by = caller(request)
        rule_set_id = path_id(request, "rule_set_id")
        expected = expected_versions(request)
        body = await read(request, RuleSetBody)
        wire.same_id(rule_set_id, body.id)
        return _draft(
            await self._merchandise.replace(
                by.merchant, rule_set_id, body.display_name, body.rule_set, expected, by.token_id
            )
        )

    async def delete(self, request: web.Request) -> web.Response:
        by = caller(request)
        rule_set_id = path_id(request, "rule_set_id")
        expected = expected_versions(request)
        await self._merchandise.delete(by.merchant, rule_set_id, expected, by.token_id)
        return web.Response(status=204)

    async def get_rule(self, request: web.Request) -> web.Response:
        rule_set_id, rule_id = path_id(request, "rule_set_id"), path_id(request, "rule_id")
        draft = await self._merchandise.get(caller(request).merchant, rule_set_id)
        return wire.answer(rule_of(draft, rule_id), headers={"ETag": etag(draft.version)})

    async def put_rule(self, request: web.Request) -> web.Response:
        by = caller(request)
        rule_set_id, rule_id = path_id(request, "rule_set_id"), path_id(request, "rule_id")
        expected = expected_versions(request)
        rule = await read(request, Rule)
        wire.same_id(rule_id, rule.id)
        draft = await self._merchandise.put_rule(
            by.merchant, rule_set_id, rule, expected, by.token_id
        )
        return wire.answer(rule, headers={"ETag": etag(draft.version)})

    async def delete_rule(self, request: web.Request) -> web.Response:
        by = caller(request)
        rule_set_id, rule_id = path_id(request, "rule_set_id"), path_id(request, "rule_id")
        expected = expected_versions(request)
        draft = await self._merchandise.delete_rule(
            by.merchant, rule_set_id, rule_id, expected, by.token_id
        )
        return web.Response(status=204, headers={"ETag": etag(draft.version)})


async def read(request: web.Request, kind: type[T]) -> T:
    """The body as a `kind`.

    Raises:
        InvalidInput: naming the wrong part by its JSON pointer.
    """
    body = await request.read()
    if b"\\u0000" in body:
        raise InvalidInput.field("", "the character U+0000 cannot be kept: leave it out")
    return decode_json(body, kind)


def path_id(request: web.Request, name: str) -> str:
    """The id in the path.

    Raises:
        NotFound: nothing can have that id.
    """
    text = request.match_info[name]
    try:
        return _ID.decode(msgspec.json.encode(text))
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise NotFound(f"{name}: there is nothing with such an id") from None


def _draft(
    draft: RuleSetDraft, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    answer = RuleSetAnswer(
        id=draft.id,
        display_name=draft.display_name,
        rules=draft.rules.rules,
        expressions=draft.rules.expressions,
        published=draft.published,
        created_at=draft.created_at,
        updated_at=draft.updated_at,
    )
    return wire.answer(answer, status, {"ETag": etag(draft.version), **(headers or {})})
