"""Several pods of one page in one call, no product twice across them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
from aiohttp import hdrs, web

from app.domain.catalogue import ItemId
from app.domain.errors import FieldError, InvalidInput, NotFound
from app.domain.event import Shopper
from app.domain.pod import MAX_RESULTS, PodId
from app.domain.recommendation import RecommendationRequest
from app.http.caller import read_json
from app.http.middleware import canonical
from app.http.operation import Operation, Parameter, Security
from app.http.storefront import DEGRADED, RecommendationAnswer, replayable
from app.services.answer import Answer
from app.services.pod_request import PodRequest
from app.services.recommend import Recommend
from app.services.serving import Serving
from app.services.snapshot import ServingSnapshot

PATH: Final = "/v1/recommendations:page"
MAX_PODS: Final = 10

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=200)]
Filters = dict[Text, Texts]
Items = Annotated[tuple[Text, ...], msgspec.Meta(max_length=100)]


class PagePod(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One list of the page. What it does not say is as the page says."""

    pod_id: PodId
    num_results: Annotated[int, msgspec.Meta(ge=1, le=MAX_RESULTS)] | None = None
    item_ids: Items | None = None
    term: Text | None = None
    filters: Filters | None = None


class PageBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A page's lists, in the order that decides where an item is shown that suits several."""

    pods: Annotated[tuple[PagePod, ...], msgspec.Meta(min_length=1, max_length=MAX_PODS)]
    item_ids: Items = ()
    variation_id: Text | None = None
    term: Text | None = None
    filters: Filters = {}
    pre_filter_expression: dict[str, Any] | None = None
    fields: Texts = ()
    hidden_fields: Texts = ()
    segments: Texts = ()
    cells: dict[Text, Text] = {}
    client_id: Text | None = None
    user_id: Text | None = None
    session: int | None = None
    consent: bool = True

    def request(self, pod: PagePod) -> RecommendationRequest:
        return RecommendationRequest(
            pod_id=pod.pod_id,
            num_results=pod.num_results,
            shopper=Shopper(self.client_id, self.user_id, self.session),
            segments=self.segments,
            item_ids=tuple(map(ItemId, self.item_ids if pod.item_ids is None else pod.item_ids)),
            variation_id=self.variation_id,
            term=pod.term or self.term,
            filters=self.filters if pod.filters is None else pod.filters,
            pre_filter=self.pre_filter_expression,
            fields=self.fields,
            hidden_fields=self.hidden_fields,
            cells=self.cells,
            consent=self.consent,
        )


class PageAnswer(msgspec.Struct):
    lists: list[RecommendationAnswer]  # as the pods were asked for


class StorefrontPage:
    """
    Args:
        new_id: makes result ids; made after the fork.
    """

    def __init__(self, serving: Serving, service: Recommend, new_id: Callable[[], str]) -> None:
        self._serving = serving
        self._service = service
        self._new_id = new_id

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "POST",
                PATH,
                "getPageRecommendations",
                "storefront",
                "Recommendations for several pods of a page, no product twice",
                self.recommend,
                security=Security.KEY,
                parameters=(Parameter("key", required=True, description="The public key"),),
                body=PageBody,
                body_example={
                    "pods": [{"pod_id": "home_hero"}, {"pod_id": "home_for_you", "num_results": 6}],
                    "client_id": "c-1",
                    "segments": ["vip"],
                },
                responses={200: PageAnswer},
                max_body_bytes=64 * 1024,
            ),
        )

    async def recommend(self, request: web.Request) -> web.Response:
        snapshot = self._serving.snapshot(request.query.get("key"))
        line = canonical(request)
        line.merchant = snapshot.merchant
        body = await read_json(request, PageBody)
        _require_pods(snapshot, body)
        page = [
            self._understood(snapshot, body.request(pod), place)
            for place, pod in enumerate(body.pods)
        ]
        parts: list[bytes] = []
        degraded: dict[str, None] = {}
        for asked, answer in zip(page, await self._service.recommend_page(page), strict=True):
            degraded.update(dict.fromkeys(answer.degraded))
            result_id = self._new_id()
            parts.append(answer.body(result_id))
            self._sample(snapshot, asked.request, answer, result_id)
        headers = {DEGRADED: ",".join(degraded)} if degraded else {}
        line.degraded = headers.get(DEGRADED)
        return web.Response(
            body=b'{"lists":[' + b",".join(parts) + b"]}",
            content_type="application/json",
            headers={**headers, hdrs.CACHE_CONTROL: "no-store"},
        )

    def _understood(
        self, snapshot: ServingSnapshot, request: RecommendationRequest, place: int
    ) -> PodRequest:
        try:
            return self._service.understand(snapshot, request)
        except InvalidInput as error:
            wrong = tuple(FieldError(f"/pods/{place}/{e.field}", e.message) for e in error.errors)
            raise InvalidInput(f"/pods/{place}: {error.message}", wrong) from None

    def _sample(
        self,
        snapshot: ServingSnapshot,
        request: RecommendationRequest,
        answer: Answer,
        result_id: str,
    ) -> None:
        self._service.sample(
            snapshot, request.pod_id, result_id, answer, lambda: replayable(request)
        )


def _require_pods(snapshot: ServingSnapshot, body: PageBody) -> None:
    """
    Raises:
        NotFound: one of the pods is not there: nothing is answered then.
    """
    for place, pod in enumerate(body.pods):
        if pod.pod_id not in snapshot.pods:
            raise NotFound(f"/pods/{place}/pod_id: there is no pod {pod.pod_id!r}")
