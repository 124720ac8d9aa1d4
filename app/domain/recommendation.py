"""A request for recommendations as the domain sees it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from app.domain.catalogue import ItemId, Section
from app.domain.event import Shopper


class RecommendationRequest(msgspec.Struct, frozen=True, kw_only=True):
    pod_id: str
    num_results: int | None = None  # None: as the pod says
    shopper: Shopper = Shopper()
    segments: tuple[str, ...] = ()
    item_ids: tuple[ItemId, ...] = ()  # seeds
    variation_id: str | None = None
    term: str | None = None
    section: Section | None = None
    filters: dict[str, tuple[str, ...]] = {}  # any of a name's values, all of the names
    pre_filter: Any | None = None  # pre_filter_expression: see app.domain.expression
    fields: tuple[str, ...] = ()  # fmt_options[fields]; empty: all
    hidden_fields: tuple[str, ...] = ()
    variations_return: Literal["default", "all", "matched"] = "default"  # matched: by the filters
    variations_map: Any | None = None
    cells: dict[str, str] = {}  # ef-<cell>: test cells that the client says
    consent: bool = True
