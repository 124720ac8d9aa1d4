"""Answers in the wire's form, put together from bytes that were encoded before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from app.domain.catalogue import Item, ItemFeatures, ItemId
from app.domain.expression import Expression, matches
from app.domain.item_features import features as features_of
from app.domain.item_index import value_text
from app.domain.rendered import item_document
from app.domain.selection import BROUGHT, CodeArray, LeftOut, Pool
from app.domain.variations_map import VariationsMap, map_variations
from app.services.snapshot import Listing, ending
from vitrine_sdk import IntArray

ALWAYS_SHOWN: Final = ("id", "variation_id")
"""Fields of `data` that `fmt_options[fields]` cannot leave out: clicks are tracked by them."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Format:
    """How a request wants its items, where that is not as they are kept."""

    fields: tuple[str, ...] = ()  # empty: all
    hidden_fields: tuple[str, ...] = ()
    variations_map: VariationsMap | None = None
    chosen: Expression | None = None  # the first variation that it holds for is shown
    only_chosen: bool = False  # variations that it does not hold for are left out

    @property
    def needs_features(self) -> bool:
        """Hidden fields are not among what is kept rendered."""
        return bool(self.hidden_fields)

    def apply(self, rendered: bytes) -> bytes:
        """A rendered item (without its closing brace) as the request wants it."""
        if not self.fields and self.variations_map is None and b'"variations":' not in rendered:
            return rendered
        return self._shape(_decode(rendered + b"}"))

    def render(self, features: ItemFeatures) -> bytes:
        return self._shape(item_document(features, self.hidden_fields))

    def _shape(self, document: dict[str, Any]) -> bytes:
        variations = document.get("variations", [])
        if self.chosen is not None and variations:
            item = document["data"]
            fitting = [v for v in variations if matches(self.chosen, _attributes(item, v["data"]))]
            if fitting:
                document["data"] = {**item, **fitting[0]["data"]}
            if self.only_chosen:
                document["variations"] = variations = fitting
        if self.variations_map is not None:
            document.pop("variations", None)
            document["variations_map"] = map_variations(variations, self.variations_map)
        if self.fields:
            document["data"] = self._only(document["data"])
            for variation in document.get("variations", ()):
                variation["data"] = self._only(variation["data"])
        return _encode(document)[:-1]

    def _only(self, data: dict[str, Any]) -> dict[str, Any]:
        wanted = {*self.fields, *self.hidden_fields, *ALWAYS_SHOWN}
        return {name: value for name, value in data.items() if name in wanted}


def _attributes(item: Mapping[str, Any], variation: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """What filters see of one variation: the item's attributes, and its own in their place."""
    seen: dict[str, Sequence[str]] = {}
    for data in (item, variation):
        record = Item(id=ItemId(""), name="", data=dict(data))
        for name, values in features_of(record).attributes.items():
            seen[name] = [value_text(value) for value in values]
    return seen


@dataclass(slots=True, eq=False)
class Answer:
    """One list, ready to be sent: `parts`, a result id, `TAIL`."""

    parts: tuple[bytes, ...]
    """Everything up to the result id. Items' JSON is the near-cache's own, not a copy: a list that
    is kept costs little beside it."""
    listing: Listing
    rows: IntArray
    sources: CodeArray
    fallback: str | None = None  # why the first in the chain did not answer
    degraded: tuple[str, ...] = ()  # what was away
    strategy: str | None = field(init=False)
    """The configuration that gave the first result."""

    def __post_init__(self) -> None:
        sources = self.sources
        self.strategy = self._strategy(int(sources[0])) if len(sources) else None

    def body(self, result_id: str) -> bytes:
        return b"".join((*self.parts, result_id.encode(), TAIL))

    @property
    def head(self) -> bytes:
        return b"".join(self.parts)

    def show(self, items: Sequence[bytes]) -> None:
        """The same items, as they are rendered now: see `results` for where they stand."""
        parts = list(self.parts)
        parts[1:-1:2] = items
        self.parts = tuple(parts)

    @property
    def items(self) -> tuple[ItemId, ...]:
        ids = self.listing.index.ids
        return tuple([ids[row] for row in self.rows.tolist()])

    @property
    def strategies(self) -> tuple[str, ...]:
        """Of each item."""
        return tuple(map(self._strategy, self.sources.tolist()))

    def _strategy(self, source: int) -> str:
        return BY_RULE if source == BROUGHT else self.listing.pod.chain[source]


BY_RULE: Final = "rules"
"""Stands where a strategy configuration's id does, for what a rule brought."""

TAIL: Final = b'"}'


def results(listing: Listing, pool: Pool, items: Sequence[bytes]) -> list[bytes]:
    """The parts of the list `response.results`, without its brackets; `items` are rendered, one a
    row: every other part, from the first on, is one of them."""
    if not items:
        return []
    sources = pool.sources.tobytes()  # quicker to ask than the array
    if pool.slotted is not None or pool.labels or BROUGHT in sources:
        ends = _marked(listing, pool)
    elif sources.count(sources[0]) == len(sources):
        of_one = listing.endings[sources[0]]
        ends = [of_one[reason] for reason in pool.reasons.tolist()]
    else:
        endings = listing.endings
        ends = [endings[s][r] for s, r in zip(sources, pool.reasons.tolist(), strict=True)]
    ends[-1] = ends[-1][:-1]
    parts = [b""] * (2 * len(items))
    parts[0::2] = items
    parts[1::2] = ends
    return parts


def _marked(listing: Listing, pool: Pool) -> list[bytes]:
    """What follows each item's JSON, where some of them were put into their places."""
    slotted = [False] * len(pool) if pool.slotted is None else pool.slotted.tolist()
    marked = []
    for row, source, reason, fixed in zip(
        pool.rows.tolist(),
        pool.sources.tolist(),
        pool.reasons.tolist(),
        slotted,
        strict=True,
    ):
        labels = pool.labels.get(row)
        if source == BROUGHT:
            end = ending(BY_RULE, "rule", slotted=fixed, labels=labels)
        elif fixed or labels:
            code = listing.reasons[source][reason]
            end = ending(listing.pod.chain[source], code, slotted=fixed, labels=labels)
        else:
            end = listing.endings[source][reason]
        marked.append(end)
    return marked


def assemble(
    listing: Listing,
    echo: bytes,
    listed: Sequence[bytes],
    count: int,
    *,
    short: Mapping[str, Any] | None = None,
    degraded: Sequence[str] = (),
) -> tuple[bytes, ...]:
    """`Answer.parts`."""
    extra = b""
    if short is not None:
        extra += b',"short":' + _encode(short)
    if degraded:
        extra += b',"degraded":' + _encode(degraded)
    return (
        b'{"request":%b,"response":{"results":[' % echo,
        *listed,
        b'],"total_num_results":%d,"pod":%b%b},"result_id":"' % (count, listing.document, extra),
    )


def shortness(asked: int, found: int, left_out: Sequence[int]) -> dict[str, Any]:
    """Why a list is short: what was left out, by what."""
    return {
        "asked": asked,
        "found": found,
        "left_out": {
            reason.name.lower(): left_out[reason] for reason in LeftOut if left_out[reason]
        },
    }
