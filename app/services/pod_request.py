"""One request for a pod on its way: what it says, understood; what it has met so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from app.domain.errors import InvalidInput
from app.domain.expression import (
    CompiledExpression,
    Expression,
    conjunction,
    parse_expression,
    parse_filters,
)
from app.domain.pod import MAX_RESULTS
from app.domain.recommendation import RecommendationRequest
from app.domain.selection import AtHand, Exclusions, Pool, Ruling, Trace
from app.domain.variations_map import parse_variations_map
from app.services.answer import Format
from app.services.shopper_history import NOTHING, Recent
from app.services.snapshot import Listing, ServedPod, ServingSnapshot
from vitrine_sdk import IntArray

_encode = msgspec.json.Encoder().encode


class PodRequest(msgspec.Struct, eq=False):
    snapshot: ServingSnapshot
    served: ServedPod
    request: RecommendationRequest
    want: int
    deadline: float  # monotonic
    now: float  # Unix seconds
    filters: CompiledExpression | None
    format: Format | None  # None: items are shown as they are kept
    seeds: IntArray  # rows; -1: unknown items
    history: Recent = NOTHING
    exclusions: Exclusions = msgspec.field(default_factory=Exclusions)
    at_hand: AtHand | None = None  # set where only what it says can be shown
    ruling: Ruling | None = None
    trace: Trace | None = None
    degraded: list[str] = []  # what it went without
    fallback: str | None = None  # why the first in the chain did not answer
    failed: bool = False  # a strategy did, so that the answer is not one to keep
    reached: int = 0  # how many of the chain the list depends on: those after them had no turn

    def went_without(self, what: str) -> None:
        if what not in self.degraded:
            self.degraded.append(what)

    def echo(self) -> bytes:
        """What was understood, as the answer repeats it."""
        request = self.request
        echo: dict[str, Any] = {
            "pod_id": request.pod_id,
            "num_results": self.want,
            "section": self.served.pod.section,
        }
        ids = request.item_ids
        if ids:
            echo["item_id"] = ids[0] if len(ids) == 1 else ids
        if request.variation_id is not None:
            echo["variation_id"] = request.variation_id
        if request.term is not None:
            echo["term"] = request.term
        if request.filters:
            echo["filters"] = request.filters
        if request.pre_filter is not None:
            echo["pre_filter_expression"] = request.pre_filter
        if request.segments:
            echo["us"] = request.segments
        if request.variations_map is not None:
            echo["variations_map"] = request.variations_map
        if request.fields or request.hidden_fields or request.variations_return != "default":
            echo["fmt_options"] = {
                name: values
                for name, values in (
                    ("fields", request.fields),
                    ("hidden_fields", request.hidden_fields),
                    (
                        "variations_return_type",
                        request.variations_return if request.variations_return != "default" else "",
                    ),
                )
                if values
            }
        return _encode(echo)


class Chosen(msgspec.Struct, eq=False):
    """A list before it is rendered."""

    listing: Listing  # in whose chain the pool's sources are places
    pool: Pool
    left_out: Sequence[int]  # candidates, by LeftOut
    examined: IntArray  # rows that the list depends on


def understand(
    snapshot: ServingSnapshot,
    request: RecommendationRequest,
    budget: float,
    trace: Trace | None = None,
) -> PodRequest:
    """
    Args:
        budget: seconds, from now.

    Raises:
        NotFound: there is no such pod.
        InvalidInput: naming the parameter.
    """
    deadline = time.monotonic() + budget
    served = snapshot.pod(request.pod_id)
    pod = served.pod
    want = pod.num_results if request.num_results is None else request.num_results
    if not 1 <= want <= MAX_RESULTS:
        raise InvalidInput.field("num_results", f"must be from 1 to {MAX_RESULTS}, not {want}")
    if request.section is not None and request.section != pod.section:
        raise InvalidInput.field(
            "section", f"pod {pod.id!r} recommends from section {pod.section!r}"
        )
    expression = None
    if request.filters or request.pre_filter is not None:
        expression = _expression(request)
    return PodRequest(
        snapshot=snapshot,
        served=served,
        request=request,
        want=want,
        deadline=deadline,
        now=time.time(),
        filters=None if expression is None else served.expressions.compiled(expression),
        format=None if _is_plain(request, expression) else _format(request, expression),
        seeds=served.index.rows(request.item_ids),
        trace=trace,
    )


def _expression(request: RecommendationRequest) -> Expression | None:
    filters = parse_filters(request.filters) if request.filters else None
    if request.pre_filter is None:
        return filters
    return conjunction((filters, parse_expression(request.pre_filter)))


def _is_plain(request: RecommendationRequest, chosen: Expression | None) -> bool:
    """Whether items are shown as they are kept."""
    return (
        chosen is None
        and request.variations_map is None
        and not request.fields
        and not request.hidden_fields
    )


def _format(request: RecommendationRequest, chosen: Expression | None) -> Format:
    wanted = request.variations_map
    return Format(
        fields=request.fields,
        hidden_fields=request.hidden_fields,
        variations_map=None if wanted is None else parse_variations_map(wanted),
        chosen=chosen,
        only_chosen=request.variations_return == "matched",
    )
