"""Terms to the items that were chosen, carted and bought in the same visit after the search."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from vitrine_sdk import (
    NO_CANDIDATES,
    Arrays,
    Candidates,
    Config,
    Context,
    EventType,
    Needs,
    TrainingData,
)
from vitrine_sdk.cooccurrence import neighbours
from vitrine_sdk.neighbours import Neighbours
from vitrine_sdk.ranking import ranked

TERM, WORDS = 0, 1

Weight = Annotated[float, msgspec.Meta(ge=0, le=1000)]


class QueryConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    chosen: Weight = 1.0
    """Weight of an item that was chosen from the term's results."""
    view: Weight = 0.5
    cart: Weight = 2.0
    purchase: Weight = 5.0
    """Weight of what was bought in the same visit, after the search."""
    steps: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    """How many events after the search may come of it."""
    items: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    """How many are kept a term."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryModel:
    hashes: npt.NDArray[np.uint64]  # of terms and of single words, ascending
    chosen: Neighbours  # a row a hash

    def recommend(self, context: Context, limit: int) -> Candidates:
        if context.term is None or not len(self.hashes):
            return NO_CANDIDATES
        term = normal(context.term)
        rows, reason = self._rows([term]), TERM
        if not len(rows):  # a new term: by its words
            rows, reason = self._rows(term.split()), WORDS
        items, scores = self.chosen.merged(rows, np.ones(len(rows), np.float32))
        return ranked(items, scores, limit, reason, context.eligible)

    def _rows(self, texts: list[str]) -> npt.NDArray[np.int32]:
        wanted = np.array([_hash(text) for text in texts], np.uint64)
        at = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return np.unique(at[self.hashes[at] == wanted]).astype(np.int32)


def normal(term: str) -> str:
    """One form of what is typed in many: Unicode, case, spaces."""
    return " ".join(unicodedata.normalize("NFKC", term).casefold().split())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Query:
    """See `QueryConfig`."""

    contract: ClassVar[int] = 1
    format: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ("chosen_after_search", "chosen_after_like_search")

    @property
    def config(self) -> type[QueryConfig]:
        return QueryConfig

    def needs(self, config: QueryConfig) -> Needs:  # noqa: ARG002 - the contract's signature
        return Needs(term=True, eligible=True)

    def fit(self, data: TrainingData, config: QueryConfig, seed: int) -> Arrays:  # noqa: ARG002
        term, item, weight = _followed(data, config)
        # A term is a row, and so is each of its words.
        keys: dict[int, int] = {}
        rows_of = []
        for text in data.events.terms:
            whole = normal(text)
            parts = {whole, *whole.split()}
            rows_of.append([keys.setdefault(_hash(p), len(keys)) for p in sorted(parts)])
        rows = [np.array(rows_of[t], np.int64) for t in term.tolist()]
        sizes = np.array([len(row) for row in rows], np.int64)
        hashes = np.array(list(keys), np.uint64)
        order = np.argsort(hashes)
        place = np.empty(len(hashes), np.int64)
        place[order] = np.arange(len(hashes))
        matrix = sparse.csr_matrix(
            (
                np.repeat(weight, sizes),
                (place[np.concatenate(rows)] if rows else [], np.repeat(item, sizes)),
            ),
            shape=(len(hashes), max(len(data.items), 1)),
            dtype=np.float32,
        )
        return {"hashes": hashes[order], **neighbours(matrix, config.items).arrays("chosen")}

    def load(self, arrays: Arrays, config: QueryConfig, items: int) -> QueryModel:  # noqa: ARG002
        hashes = arrays.get("hashes")
        if hashes is None or hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise ValueError("array 'hashes' must be uint64 with one axis")
        return QueryModel(hashes, Neighbours.from_arrays(arrays, "chosen", len(hashes)))


def _followed(
    data: TrainingData, config: QueryConfig
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Term, item and weight of what came of each search, the search's own choice included."""
    events = data.events
    table = np.zeros(128, np.float32)
    table[EventType.VIEW] = table[EventType.CLICK] = config.view
    table[EventType.CART], table[EventType.PURCHASE] = config.cart, config.purchase
    searches = np.flatnonzero(events.term >= 0)
    found = [(searches, events.item[searches], np.full(len(searches), config.chosen))]
    for gap in range(1, min(config.steps, max(len(events) - 1, 0)) + 1):
        rows = searches[searches + gap < len(events)]
        after = rows + gap
        same = (events.session[rows] == events.session[after]) & (events.term[after] < 0)
        same &= events.shopper[rows] == events.shopper[after]
        found.append((rows[same], events.item[after[same]], table[events.type[after[same]]]))
    rows = np.concatenate([part[0] for part in found])
    item = np.concatenate([part[1] for part in found])
    weight = np.concatenate([part[2] for part in found]).astype(np.float32)
    keep = (item >= 0) & (weight > 0)
    return events.term[rows[keep]], item[keep], weight[keep]
