"""From candidates to a list: what qualifies, in which order, and what was left out by what.

All of it works on arrays of rows of an `ItemIndex`; there is no object a candidate.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from app.domain.expression import CompiledExpression
from app.domain.item_index import ItemIndex
from vitrine_sdk import BoolArray, Candidates, FloatArray, IntArray, kernel

CodeArray = npt.NDArray[np.uint8]

MAX_CANDIDATES: Final = 20_000
"""No strategy is asked for more, however few qualify."""

GROWTH: Final = 4
"""By so much more are asked for when too few qualified."""


class LeftOut(enum.IntEnum):
    """Why a candidate is not in the list, in the order in which it is looked at."""

    UNAVAILABLE = 0
    FILTERED = 1
    SEED = 2
    SEEN = 3
    BOUGHT = 4
    DUPLICATE = 5
    UNRENDERED = 6  # what it shows cannot be had now
    RULED = 7


class Pool(msgspec.Struct, eq=False):
    """What qualifies, best first, as parallel arrays."""

    rows: IntArray
    scores: FloatArray
    sources: CodeArray  # place in the chain of the strategy that gave it
    reasons: CodeArray  # as that strategy numbers them
    slotted: BoolArray | None = None  # fixed in its place by a rule; None: nothing is
    labels: dict[int, dict[str, object]] = {}  # by row; shown to shoppers

    def __len__(self) -> int:
        return len(self.rows)


EMPTY_POOL: Final = Pool(
    np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.uint8), np.empty(0, np.uint8)
)


BROUGHT: Final = 255
"""The source of what a rule brought, and no strategy."""

NO_TABLE: Final = (None, None)
"""`Ruling.drops` where no rule leaves anything out."""

_NOTHING: Final = [0] * len(LeftOut)
_NO_PARTS: Final[list[tuple[IntArray, LeftOut]]] = []

# A column of each source's number, of which pools take the beginning. A chain has 8 at most.
_SOURCES: Final = tuple(np.full(MAX_CANDIDATES, source, np.uint8) for source in range(8))

AtHand = Callable[[IntArray], BoolArray]
"""Which rows can be shown without asking anybody."""

Ordering = Callable[["Pool", int], "Pool"]
"""Another order of what qualified, of which so many are wanted: see `app.domain.objective`."""

DropTable = tuple[IntArray, IntArray] | tuple[None, None]
"""The signature of each row of the index, and by signature the rank of the first rule that leaves
it out, or `rule_program.KEEP`; or nothing, where no rule leaves anything out."""

Admits = Callable[[IntArray], BoolArray]
"""Which rows (>= 0) the request itself allows: available, its filters, no seed, not seen, ..."""


class Ruling(Protocol):
    """The rules that apply to one request, compiled. Pure: it keeps nothing from call to call."""

    @property
    def overfetch(self) -> int:
        """Candidates that it wants to choose from, a result."""
        ...

    @property
    def by_signature(self) -> bool:
        """Whether other prices change its outcome only through `Rulings.signed`."""
        ...

    @property
    def expires(self) -> float:
        """Unix seconds until which the same request has the same ruling; inf: for good."""
        ...

    @property
    def whole_catalogue(self) -> bool:
        """Whether its outcome depends on items that no strategy offered."""
        ...

    def eligible(self, rows: IntArray, source: int) -> BoolArray | None:
        """Which of a model's rows may stay, for a strategy that wants to know before it chooses;
        None: so many that it need not. `keeps` decides."""
        ...

    def keeps(self, rows: IntArray, scores: FloatArray, source: int) -> BoolArray | None:
        """Which of a strategy's candidates may stay; None: all."""
        ...

    def drops(self, rows: IntArray, source: int) -> DropTable | None:
        """`keeps` as a table; None: `keeps` is to be asked."""
        ...

    def arrange(self, pool: Pool, want: int, admits: Admits) -> Pool:
        """The final order, at most `want` results: boosts, caps, shares, slots. It may bring rows
        that are not in the pool (their source is BROUGHT); `admits` says which the request
        allows."""
        ...


class Trace(Protocol):
    """Writes down what became of each candidate, for `explain`. Requests have none, mostly."""

    def left_out(self, reason: LeftOut, rows: IntArray) -> None: ...

    def kept(self, source: int, rows: IntArray, scores: FloatArray) -> None: ...


class Exclusions:
    """Rows that a request leaves out, each with its reason."""

    __slots__ = ("_set", "parts")

    def __init__(self) -> None:
        self.parts: list[tuple[IntArray, LeftOut]] = []
        """Rows and their reason; a row may be in several."""
        self._set: set[int] = set()

    def __len__(self) -> int:
        return len(self._set)

    @property
    def rows(self) -> IntArray:
        """Every row that is left out, in no order."""
        return np.fromiter(self._set, np.int32, len(self._set))

    def add(self, rows: IntArray, reason: LeftOut) -> None:
        """Rows of -1 are ignored."""
        known = rows.tolist()
        if -1 in known:
            rows = rows[rows >= 0]
            known = rows.tolist()
        if known:
            self.parts.append((rows, reason))
            self._set.update(known)

    def touch(self, rows: IntArray) -> bool:
        """Whether any of the rows is left out."""
        return not self._set.isdisjoint(rows.tolist())


class Selection:
    """One request's choice. Strategies' candidates are offered to it in the chain's order."""

    __slots__ = ("_at_hand", "_examined", "_exclusions", "_filters", "_index", "_left_out_before",
                 "_ordering", "_pools", "_ruling", "_trace", "count", "left_out",
                 "want")  # fmt: skip

    def __init__(
        self,
        index: ItemIndex,
        want: int,
        *,
        filters: CompiledExpression | None = None,
        exclusions: Exclusions | None = None,
        at_hand: AtHand | None = None,
        ruling: Ruling | None = None,
        trace: Trace | None = None,
        ordering: Ordering | None = None,
    ) -> None:
        self.want = want
        self.count = 0  # qualified so far
        self.left_out = _NOTHING.copy()  # candidates, by LeftOut
        self._left_out_before = self.left_out
        self._index = index
        self._filters = filters
        self._exclusions = exclusions if exclusions is not None and exclusions.parts else None
        self._at_hand = at_hand
        self._ruling = ruling
        self._trace = trace
        self._ordering = ordering
        self._pools: list[Pool] = []
        self._examined: list[IntArray] = []

    def limit(self, overfetch: int) -> int:
        """How many candidates to ask a strategy for at first."""
        want = self.want + (0 if self._exclusions is None else len(self._exclusions))
        if self._ruling is not None:
            return min(want * max(overfetch, self._ruling.overfetch), MAX_CANDIDATES)
        chooses = self._filters is not None or self._at_hand is not None
        return min(want * overfetch if chooses else want + 10, MAX_CANDIDATES)

    def offer(self, rows: IntArray, candidates: Candidates, source: int, keep_at_most: int) -> int:
        """Take what qualifies of a strategy's candidates (`rows` are theirs), at most
        `keep_at_most` of them; how many that were."""
        self._examined.append(rows)
        self._left_out_before = self.left_out.copy()
        places = self._places(rows, candidates.scores, source, keep_at_most)
        taken = places if isinstance(places, int) else len(places)
        if not taken:
            return 0
        scores, reasons = candidates.scores, candidates.reasons
        # The first ones, without a gap, are mostly all that qualify: views will do.
        if isinstance(places, int):
            found = rows[:taken], scores[:taken], reasons[:taken]
        else:
            found = _picked(rows, scores, reasons, places)
        pool = Pool(found[0], found[1], _SOURCES[source][:taken], found[2])
        self._pools.append(pool)
        self.count += taken
        if self._trace is not None:
            self._trace.kept(source, pool.rows, pool.scores)
        return taken

    def withdraw(self, source: int) -> None:
        """Forget what the strategy that was last heard offered: it is asked for more, and will
        offer that again."""
        self._examined.pop()
        self._pools = [pool for pool in self._pools if int(pool.sources[0]) != source]
        self.count = sum(map(len, self._pools))
        self.left_out = self._left_out_before

    def restart(self) -> None:
        """Forget every offer: the whole chain is asked for more."""
        self._examined.clear()
        self._pools.clear()
        self.count = 0
        self.left_out = _NOTHING.copy()

    def pool(self) -> Pool:
        """What qualified, in the chain's order."""
        pools = self._pools
        if len(pools) == 1:
            return pools[0]
        if not pools:
            return EMPTY_POOL
        return Pool(
            np.concatenate([pool.rows for pool in pools]),
            np.concatenate([pool.scores for pool in pools]),
            np.concatenate([pool.sources for pool in pools]),
            np.concatenate([pool.reasons for pool in pools]),
        )

    def result(self) -> Pool:
        """The list: ruled and cut."""
        pool = self.pool()
        if self._ordering is not None:
            pool = self._ordering(pool, self.want)
        if self._ruling is not None:
            return self._ruling.arrange(pool, self.want, self.admits)
        return pool if len(pool) <= self.want else cut(pool, self.want)

    def examined(self) -> IntArray:
        """Every row that was looked at: what the list depends on."""
        if len(self._examined) == 1:
            return self._examined[0]
        return np.concatenate(self._examined) if self._examined else EMPTY_POOL.rows

    def admits(self, rows: IntArray) -> BoolArray:
        """Which rows (all >= 0) the request allows, rules aside: for what no strategy offered."""
        keep = self._index.available[rows]
        if self._filters is not None:
            keep = keep & self._filters.mask(rows)
        if self._exclusions is not None:
            keep = keep & np.isin(rows, self._exclusions.rows, invert=True)
        if self._at_hand is not None:
            keep = keep & self._at_hand(rows)
        return keep

    def _places(
        self, rows: IntArray, scores: FloatArray, source: int, at_most: int
    ) -> int | npt.NDArray[np.int64]:
        """Places of those that qualify, at most so many; how many, where those are the first ones
        without a gap."""
        compiled, ruling = kernel.compiled, self._ruling
        if compiled is not None and self._trace is None and kernel.plain(rows, kernel.INT32):
            table = NO_TABLE if ruling is None else ruling.drops(rows, source)
            if table is not None:
                index, exclusions = self._index, self._exclusions
                return compiled.qualify(  # type: ignore[no-any-return]
                    rows,
                    index.available,
                    None if self._filters is None else self._filters.mask(rows),
                    index.marks,
                    _NO_PARTS if exclusions is None else exclusions.parts,
                    [pool.rows for pool in self._pools],
                    None if self._at_hand is None else self._at_hand(rows),
                    *table,
                    self.left_out,
                    at_most,
                )
        places = self._qualify(rows, scores, source).nonzero()[0][:at_most]
        taken = len(places)
        return taken if not taken or taken == int(places[-1]) + 1 else places

    def _qualify(self, rows: IntArray, scores: FloatArray, source: int) -> BoolArray:
        index = self._index
        keep = index.available.take(rows)
        left = len(rows)
        left = self._note(LeftOut.UNAVAILABLE, keep, left, rows, None)
        if self._filters is not None:
            before = keep
            keep = keep & self._filters.mask(rows)
            left = self._note(LeftOut.FILTERED, keep, left, rows, before)
        if self._pools or (self._exclusions is not None and self._exclusions.touch(rows)):
            keep = self._exclude(rows, keep)
            left = int(np.count_nonzero(keep))
        if self._at_hand is not None:
            before = keep
            keep = keep & self._at_hand(rows)
            left = self._note(LeftOut.UNRENDERED, keep, left, rows, before)
        kept = None if self._ruling is None else self._ruling.keeps(rows, scores, source)
        if kept is not None:
            before = keep
            keep = keep & kept
            self._note(LeftOut.RULED, keep, left, rows, before)
        return keep

    def _note(
        self, reason: LeftOut, keep: BoolArray, left: int, rows: IntArray, before: BoolArray | None
    ) -> int:
        remaining = int(np.count_nonzero(keep))
        if remaining != left:
            self.left_out[reason] += left - remaining
            if self._trace is not None:
                gone = ~keep if before is None else before & ~keep
                self._trace.left_out(reason, rows[gone])
        return remaining

    def _exclude(self, rows: IntArray, keep: BoolArray) -> BoolArray:
        """One look-up for all exclusions and what is in the list already: reasons are marked in a
        column of the index's length, read, and cleared again."""
        marks = self._index.marks
        parts = () if self._exclusions is None else self._exclusions.parts
        for pool in self._pools:
            marks[pool.rows] = LeftOut.DUPLICATE
        for excluded, reason in reversed(parts):  # what was added first counts
            marks[excluded] = reason
        found = marks[rows]
        for pool in self._pools:
            marks[pool.rows] = 0
        for excluded, _ in parts:
            marks[excluded] = 0
        marked = found != 0
        if not marked.any():
            return keep
        gone = keep & marked
        for why, count in enumerate(np.bincount(found[gone], minlength=len(LeftOut)).tolist()):
            if count:
                self.left_out[why] += count
                if self._trace is not None:
                    self._trace.left_out(LeftOut(why), rows[gone & (found == why)])
        kept: BoolArray = keep & ~marked
        return kept


def _picked(
    rows: IntArray, scores: FloatArray, reasons: CodeArray, places: npt.NDArray[np.int64]
) -> tuple[IntArray, FloatArray, CodeArray]:
    if kernel.compiled is not None:
        found = kernel.compiled.picked(rows, scores, reasons, places)
        if found is not None:
            return found  # type: ignore[no-any-return]
    return rows.take(places), scores.take(places), reasons.take(places)


def cut(pool: Pool, want: int) -> Pool:
    return Pool(
        pool.rows[:want], pool.scores[:want], pool.sources[:want], pool.reasons[:want],
        None if pool.slotted is None else pool.slotted[:want], pool.labels,
    )  # fmt: skip
