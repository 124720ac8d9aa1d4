"""Recommendations for a shop's pages, in the form that Constructor's clients expect."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, cast

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDict

from app.domain.event import Shopper
from app.domain.explanation import Explanation
from app.domain.pod import DEFAULT_RESULTS, MAX_RESULTS
from app.domain.recommendation import RecommendationRequest
from app.http.explanations import PARAMETERS as EXPLAIN_PARAMETERS
from app.http.explanations import Explanations
from app.http.middleware import canonical
from app.http.operation import Asked, Headers, Operation, Parameter, Security, Sent
from app.http.storefront_query import PodQuery
from app.services.answer import Answer
from app.services.recommend import Recommend
from app.services.serving import Serving
from app.services.snapshot import ServingSnapshot

DEGRADED: Final = "Vitrine-Degraded"

_HEADERS: Final[Headers] = (
    (hdrs.CONTENT_TYPE, "application/json; charset=utf-8"),
    # An answer is one shopper's, and its result id one view's.
    (hdrs.CACHE_CONTROL, "private, no-store"),
)


class ResultStrategy(msgspec.Struct):
    id: str


class Result(msgspec.Struct, kw_only=True):
    value: str  # the item's name
    data: dict[str, Any]  # id, variation_id, url, image_url, price, facets, ...
    labels: dict[str, Any]
    matched_terms: list[str]
    is_slotted: bool
    strategy: ResultStrategy
    reason: str
    variations: list[dict[str, Any]] = []
    variations_map: Any = None


class ResultPod(msgspec.Struct):
    id: str
    display_name: str


class Short(msgspec.Struct, kw_only=True):
    """Why there are fewer results than were asked for."""

    asked: int
    found: int
    left_out: dict[str, int]  # candidates, by reason
    unknown_attributes: list[str] = []


class RecommendationResponse(msgspec.Struct, kw_only=True):
    results: list[Result]
    total_num_results: int
    pod: ResultPod
    short: Short | None = None
    degraded: list[str] = []  # what was away


class RecommendationAnswer(msgspec.Struct):
    request: dict[str, Any]
    response: RecommendationResponse
    result_id: str
    explanation: Explanation | None = None  # where it was asked for


def result_ids() -> Callable[[], str]:
    """A maker of unique ids: a random start for the process, counted on. One after each fork."""
    prefix = secrets.token_hex(8)
    numbers = itertools.count(secrets.randbits(32))
    return lambda: f"{prefix}{next(numbers):016x}"


class Storefront:
    """
    Args:
        new_id: makes result ids; made after the fork.
        explanations: answers `explain=true`; None: nobody does.
    """

    def __init__(
        self,
        serving: Serving,
        service: Recommend,
        new_id: Callable[[], str],
        explanations: Explanations | None = None,
    ) -> None:
        self._serving = serving
        self._service = service
        self._new_id = new_id
        self._explanations = explanations

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                "/recommendations/v1/pods/{pod_id}",
                "getRecommendations",
                "storefront",
                "Recommendations for a pod",
                self.recommend,
                direct=self,
                security=Security.KEY,
                parameters=(*_PARAMETERS, *EXPLAIN_PARAMETERS),
                responses={200: RecommendationAnswer},
                description=(
                    "What the answer had to go without is named in `response.degraded` and in the "
                    f"header {DEGRADED}."
                ),
            ),
        )

    async def recommend(self, request: web.Request) -> web.Response:
        """What `now` and `later` answer, by aiohttp's own way; and explanations."""
        raw = request.raw_path.partition("?")[2]
        pod_id = request.match_info["pod_id"]
        asked = Asked(pod_id, raw, request.headers, b"", canonical(request))
        if self.declines(raw):
            snapshot, query = self._understand(asked)
            explained = await cast(Explanations, self._explanations).answer(
                request, snapshot, query.request(pod_id), self._new_id()
            )
            if explained is not None:
                return explained
        sent = self.now(asked) or await self.later(asked)
        return web.Response(body=sent.body, headers=CIMultiDict(sent.headers))

    def declines(self, query: str) -> bool:
        """See `app.http.operation.DirectHandler`."""
        return "explain=" in query and self._explanations is not None

    def now(self, asked: Asked) -> Sent | None:
        """A list that is ready, or can be made without waiting."""
        snapshot, query = self._understand(asked)
        answer = self._service.prepared(snapshot, asked.last, query.dependence)
        if answer is None:
            begun = self._service.begin(
                snapshot, query.request(asked.last), dependence=query.dependence
            )
            if not isinstance(begun, Answer):
                asked.understood = snapshot, query, begun
                return None
            answer = begun
        return self._sent(asked, snapshot, query, answer)

    async def later(self, asked: Asked) -> Sent:
        snapshot, query, begun = asked.understood
        return self._sent(asked, snapshot, query, await self._service.finish(begun))

    def _understand(self, asked: Asked) -> tuple[ServingSnapshot, PodQuery]:
        query = PodQuery(asked.query)
        snapshot = self._serving.snapshot(query.key)
        line = asked.line
        line.merchant = snapshot.merchant
        if asked.last in snapshot.pods:  # what a client made up is not logged
            line.pod = asked.last
        return snapshot, query

    def _sent(
        self, asked: Asked, snapshot: ServingSnapshot, query: PodQuery, answer: Answer
    ) -> Sent:
        result_id = self._new_id()
        line = asked.line
        headers = _HEADERS
        line.strategy = answer.strategy
        line.fallback = answer.fallback
        if answer.degraded:
            line.degraded = ",".join(answer.degraded)
            headers = (*headers, (DEGRADED, line.degraded))
        pod_id = asked.last
        self._service.sample(
            snapshot, pod_id, result_id, answer, lambda: replayable(query.request(pod_id))
        )
        return Sent(answer.body(result_id), headers)


def replayable(request: RecommendationRequest) -> dict[str, Any]:
    """The request as it is kept: without the shopper, where that is not consented to."""
    if not request.consent:
        request = msgspec.structs.replace(request, shopper=Shopper())
    kept: dict[str, Any] = msgspec.to_builtins(request)
    return kept


_PARAMETERS: Final = (
    Parameter("pod_id", str, "path", "The pod", example="home_popular"),
    Parameter("i", str, description="Client id: names a shopper who is not known"),
    Parameter("s", int, description="Session number"),
    Parameter("ui", str, description="User id: names a known shopper"),
    Parameter("us", list[str], description="Segments of the shopper; repeatable"),
    Parameter("item_id", list[str], description="Seed items; repeatable"),
    Parameter("variation_id", str, description="Variation of the seed item"),
    Parameter("term", str, description="Search term, for strategies that take one"),
    Parameter("section", str, description="Section of the catalogue; must be the pod's"),
    Parameter(
        "num_results",
        Annotated[int, msgspec.Meta(ge=1, le=MAX_RESULTS)],
        description=f"How many; as the pod says ({DEFAULT_RESULTS} where it does not) if not given",
    ),
    Parameter(
        "filters",
        dict[str, list[str]],
        description="`filters[color]=red`: any of a name's values, all of the names. `10-20`, "
        "`-inf-5` and `5-inf` are ranges. `group_id` matches groups below it too",
    ),
    Parameter(
        "pre_filter_expression",
        str,
        description='JSON: {"and": [...]}, {"or": [...]}, {"not": ...}, {"name", "value"} or '
        '{"name", "range": [low, high]}',
    ),
    Parameter(
        "fmt_options",
        dict[str, list[str]],
        description="`fmt_options[fields]`: only these fields of `data`; "
        "`fmt_options[hidden_fields]`: hidden ones too; "
        "`fmt_options[variations_return_type]`: default, all or matched",
    ),
    Parameter(
        "variations_map",
        str,
        description="JSON: {group_by, filter_by, values, dtype}; replaces `variations`",
    ),
    Parameter("consent", bool, description="false: the shopper's history is not used"),
    Parameter("c", str, description="Version of the client; not used"),
    Parameter("_dt", int, description="The shopper's clock; not used"),
)
