"""What rules would do, do, and do to one another: previews, conflicts, reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from aiohttp import web

from app.domain.catalogue import ItemId
from app.domain.event import Shopper
from app.domain.merchant import MerchantId
from app.domain.pod import MAX_RESULTS, PodId
from app.domain.preview import Preview, SamplePreview
from app.domain.recommendation import RecommendationRequest
from app.domain.rule import RuleSet
from app.domain.rule_conflicts import Finding, Touch
from app.http import admin_wire as wire
from app.http.admin_rules import ONE, path_id, read
from app.http.caller import caller
from app.http.operation import Operation, Parameter
from app.services.conflicts import RuleReach
from app.services.merchandise import Merchandise
from app.services.preview import Previews, require_time
from app.services.serving import Serving
from app.services.snapshot import ServingSnapshot

MAX_SAMPLES: Final = 500

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=200)]


class RequestToPreview(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A shopper's request, as the storefront would make it."""

    pod_id: PodId
    num_results: Annotated[int, msgspec.Meta(ge=1, le=MAX_RESULTS)] | None = None
    item_ids: Annotated[tuple[Text, ...], msgspec.Meta(max_length=100)] = ()
    term: Text | None = None
    segments: Texts = ()
    filters: dict[Text, Texts] = {}
    cells: dict[Text, Text] = {}
    client_id: Text | None = None
    user_id: Text | None = None

    @property
    def request(self) -> RecommendationRequest:
        return RecommendationRequest(
            pod_id=self.pod_id,
            num_results=self.num_results,
            item_ids=tuple(map(ItemId, self.item_ids)),
            term=self.term,
            segments=self.segments,
            filters=self.filters,
            cells=self.cells,
            shopper=Shopper(client_id=self.client_id, user_id=self.user_id),
        )


class PreviewBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    request: RequestToPreview
    at: float | None = None  # Unix seconds; none: now
    rules: RuleSet | None = None  # in the draft's place; none: the draft


class SamplesBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    pod_ids: Annotated[tuple[PodId, ...], msgspec.Meta(max_length=100)] = ()  # empty: all
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAMPLES)] = 100
    rules: RuleSet | None = None


class Findings(msgspec.Struct, frozen=True):
    items: list[Finding]


class Touches(msgspec.Struct, frozen=True):
    items: list[Touch]


class AdminRulePreviews:
    def __init__(
        self, serving: Serving, merchandise: Merchandise, previews: Previews, reach: RuleReach
    ) -> None:
        self._serving = serving
        self._merchandise = merchandise
        self._previews = previews
        self._reach = reach

    def operations(self) -> Sequence[Operation]:
        shopper = {"pod_id": "home_hero", "segments": ["vip"], "num_results": 12}
        return (
            Operation(
                "POST",
                f"{ONE}/preview",
                "previewRuleSet",
                wire.TAG,
                "One request under the rules in force and with the draft, side by side",
                self.preview,
                roles=wire.READERS,
                body=PreviewBody,
                body_example={"request": shopper, "at": 1_795_000_000},
                responses={200: Preview},
            ),
            Operation(
                "POST",
                f"{ONE}/preview-samples",
                "previewRuleSetOnSamples",
                wire.TAG,
                "Many recent requests under the rules in force and with the draft",
                self.preview_samples,
                roles=wire.READERS,
                body=SamplesBody,
                body_example={"limit": 100},
                responses={200: SamplePreview},
            ),
            Operation(
                "GET",
                f"{ONE}/conflicts",
                "listDraftConflicts",
                wire.TAG,
                "What the draft's rules, with the others in force, do to one another",
                self.draft_conflicts,
                roles=wire.READERS,
                responses={200: Findings},
            ),
            Operation(
                "GET",
                "/admin/v1/rules/conflicts",
                "listRuleConflicts",
                wire.TAG,
                "What the rules in force do to one another",
                self.conflicts,
                roles=wire.READERS,
                responses={200: Findings},
                description="Rules that can never apply, contradict or hide one another, overlap,"
                " or end within a week.",
            ),
            Operation(
                "GET",
                "/admin/v1/rules/reach",
                "listRuleReach",
                wire.TAG,
                "Which rules in force touch a pod, an item or a category",
                self.reach,
                roles=wire.READERS,
                parameters=(
                    Parameter("pod", description="The id of a pod", example="home_hero"),
                    Parameter("item", description="The id of an item"),
                    Parameter("group", description="The id of an item group"),
                ),
                responses={200: Touches},
                description="Give one of the three.",
            ),
        )

    async def preview(self, request: web.Request) -> web.Response:
        rule_set_id = path_id(request, "rule_set_id")
        body = await read(request, PreviewBody)
        require_time(body.at)
        snapshot = self._snapshot(request)
        rules = await self._rules(snapshot.merchant, rule_set_id, body.rules)
        return wire.answer(
            await self._previews.one(snapshot, rule_set_id, rules, body.request.request, body.at)
        )

    async def preview_samples(self, request: web.Request) -> web.Response:
        rule_set_id = path_id(request, "rule_set_id")
        body = await read(request, SamplesBody)
        snapshot = self._snapshot(request)
        rules = await self._rules(snapshot.merchant, rule_set_id, body.rules)
        return wire.answer(
            await self._previews.many(snapshot, rule_set_id, rules, body.pod_ids, body.limit)
        )

    async def draft_conflicts(self, request: web.Request) -> web.Response:
        rule_set_id = path_id(request, "rule_set_id")
        snapshot = self._snapshot(request)
        rules = await self._rules(snapshot.merchant, rule_set_id, None)
        found = await self._reach.findings(snapshot, (rule_set_id, rules))
        return wire.answer(Findings(found))

    async def conflicts(self, request: web.Request) -> web.Response:
        return wire.answer(Findings(await self._reach.findings(self._snapshot(request))))

    async def reach(self, request: web.Request) -> web.Response:
        query = request.query
        found = await self._reach.touching(
            self._snapshot(request),
            pod_id=query.get("pod"),
            item_id=query.get("item"),
            group_id=query.get("group"),
        )
        return wire.answer(Touches(found))

    def _snapshot(self, request: web.Request) -> ServingSnapshot:
        return self._serving.merchants()[caller(request).merchant]

    async def _rules(
        self, merchant: MerchantId, rule_set_id: str, given: RuleSet | None
    ) -> RuleSet:
        rules = (await self._merchandise.get(merchant, rule_set_id)).rules
        if given is not None:
            self._merchandise.require_valid(merchant, given)
            return given
        self._merchandise.require_valid(merchant, rules)
        return rules
