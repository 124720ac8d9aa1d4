"""Item expressions of rules over an item index: a row of flags a signature.

Items that the rules' expressions cannot tell apart have the same **signature**; a catalogue has few
of them however many items and rules there are. What an expression says is one row of `membership`,
one flag a signature, so that a request takes what it needs by its candidates' signatures, and what
many rules do together can be added up once.

Rows are signed when they are first asked for, and again after they changed; `catch_up` does it
ahead of requests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from app.domain import expression as exp
from app.domain import rule_items as item
from app.domain.item_index import ItemIndex, value_text
from vitrine_sdk import BoolArray, IntArray

_encode: Final = msgspec.json.Encoder().encode

DAY: Final = 86_400.0
CHUNK: Final = 8_192
WORK: Final = 1 << 18
"""Answers of tests, that are asked for together ahead of requests: some 2 ms, for which a request
may have to wait. With the 1,000 rules of ops/bench a part is longer: numpy is called for each."""


def part_of(tests: int) -> int:
    """How many rows or signatures may be asked of so many tests between two requests."""
    return max(256, min(CHUNK, WORK // max(tests, 1)))


Evaluator = Callable[[IntArray, float], BoolArray]
"""(rows, now) to one flag a row."""


class ItemTest:
    """An item expression bound to an index."""

    __slots__ = ("evaluate", "number", "timeless")

    def __init__(self, evaluate: Evaluator, *, timeless: bool) -> None:
        self.evaluate = evaluate
        self.timeless = timeless  # says the same at every time
        self.number = -1  # its row in `Signatures.membership`, where it has one


class ItemTests:
    """Binds item expressions to an index; equal ones are one test."""

    def __init__(self, index: ItemIndex) -> None:
        self._index = index
        self._tests: dict[tuple[int, bytes], ItemTest] = {}
        self.timeless: list[ItemTest] = []
        self.meanings: list[tuple[bytes, bytes]] = []
        """What each of `timeless` asks, for comparing with other rules' tests."""

    def test(
        self, expression: item.ItemExpression, named: Mapping[str, item.ItemExpression]
    ) -> ItemTest:
        """The expression's test, with a row among the signatures where it is timeless.

        Args:
            named: the rule set's expressions; free of circles.
        """
        test = self._bind(expression, named)
        if test.timeless and test.number < 0:
            test.number = len(self.timeless)
            self.timeless.append(test)
            self.meanings.append((_encode(expression), _encode(named) if named else b""))
        return test

    def _bind(
        self, expression: item.ItemExpression, named: Mapping[str, item.ItemExpression]
    ) -> ItemTest:
        # By its text, for 1 and true are equal to Python; and `named` means something else in
        # another rule set.
        key = (id(named) if named else 0, _encode(expression))
        test = self._tests.get(key)
        if test is None:
            test = self._tests[key] = self._compile(expression, named)
        return test

    def _compile(
        self, expression: item.ItemExpression, named: Mapping[str, item.ItemExpression]
    ) -> ItemTest:
        match expression:
            case item.ItemAnd() | item.ItemOr():
                parts = [self._bind(part, named) for part in expression.of]
                combine = _both if isinstance(expression, item.ItemAnd) else _either
                return ItemTest(
                    combine([part.evaluate for part in parts]),
                    timeless=all(part.timeless for part in parts),
                )
            case item.ItemNot():
                part = self._bind(expression.of, named)
                return ItemTest(_inverse(part.evaluate), timeless=part.timeless)
            case item.ItemNamed():
                part = self._bind(named[expression.name], named)
                return ItemTest(_once(self._index, part.evaluate), timeless=part.timeless)
            case item.ItemNew():
                return ItemTest(_new(self._index, expression.days), timeless=False)
            case item.ItemList():
                return ItemTest(_listed(self._index, expression.ids), timeless=True)
            case item.ItemEvery():
                return ItemTest(lambda rows, _: np.ones(len(rows), np.bool_), timeless=True)
            case item.ItemIs() | item.ItemRange():
                mask = exp.CompiledExpression(leaf(expression), self._index).mask
                return ItemTest(lambda rows, _: mask(rows), timeless=True)


def leaf(expression: item.ItemIs | item.ItemRange) -> exp.Expression:
    """The same in the words of `app.domain.expression`."""
    if isinstance(expression, item.ItemIs):
        return exp.AnyOf(
            expression.attribute, tuple(dict.fromkeys(map(value_text, expression.values)))
        )
    low = -np.inf if expression.at_least is None else expression.at_least
    high = np.inf if expression.at_most is None else expression.at_most
    return exp.Between(expression.attribute, low, high)


_serials = itertools.count(1)


class Signatures:
    """The signature of every row, and what each timeless test says of it."""

    def __init__(self, index: ItemIndex, tests: Sequence[ItemTest]) -> None:
        self.serial = next(_serials)
        """Signatures with different ones number differently."""
        self._index = index
        self._tests = tests
        self._of: IntArray = np.zeros(0, np.int32)
        self._signed: IntArray = np.zeros(0, np.int32)  # the index's revision at signing
        self._clean = -1  # the revision up to which every row is signed
        self._stale: IntArray = np.zeros(0, np.int32)  # left to sign, of those at revision:
        self._stale_at = -1
        self._closed = self._closed_columns()
        self._known: dict[bytes, int] = {}
        self.count = 0
        self.membership: BoolArray = np.zeros((len(tests), 16), np.bool_)
        """tests × signatures; only the first `count` columns mean something."""

    def of(self, rows: IntArray) -> IntArray:
        """The signatures of rows, all >= 0."""
        return self.by_row(rows)[rows]

    def by_row(self, rows: IntArray) -> IntArray:
        """The signature of every row; that of `rows`, all >= 0, is true."""
        index = self._index
        if len(self._of) < len(index.changed):
            self._grow()
        if self._clean != index.revision:
            stale = index.changed[rows] > self._signed[rows]
            if stale.any():
                self._sign(rows[stale])
        return self._of

    def sizes(self) -> npt.NDArray[np.int64]:
        """How many rows have each signature, as far as they are signed."""
        signed = self._signed[: len(self._index)] >= 0
        return np.bincount(self._of[: len(signed)][signed], minlength=self.count)

    def catch_up(self) -> bool:
        """Sign some rows that are not, or that changed. Returns whether all are now."""
        limit = part_of(len(self._tests))
        index = self._index
        revision = index.revision
        if self._clean == revision:
            return True
        if len(self._of) < len(index.changed):
            self._grow()
        if (closed := self._closed_columns()) != self._closed:
            # A column that was given up says something else of every row.
            self._closed = closed
            self._signed[:] = -1
            self._stale_at = -1
        if self._stale_at != revision:  # a look at every row: once a change, not once a part
            count = len(index)
            stale = index.changed[:count] > self._signed[:count]
            self._stale = np.flatnonzero(stale).astype(np.int32)
            self._stale_at = revision
        part, self._stale = self._stale[:limit], self._stale[limit:]
        # Requests have signed some meanwhile.
        self._sign(part[index.changed[part] > self._signed[part]])
        if not len(self._stale):
            self._clean = revision
        return self._clean == revision

    def _sign(self, rows: IntArray) -> None:
        revision = self._index.revision
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            said = np.empty((len(self._tests), len(chunk)), np.bool_)
            for number, test in enumerate(self._tests):
                said[number] = test.evaluate(chunk, 0.0)
            self._of[chunk] = self._numbers(said)
            self._signed[chunk] = revision

    def _numbers(self, said: BoolArray) -> npt.NDArray[np.int32]:
        """The signature of each column of `said`, made where it is new."""
        if not len(said):
            self.count = 1
            return np.zeros(said.shape[1], np.int32)
        packed = np.ascontiguousarray(np.packbits(said, axis=0).T)
        width = packed.shape[1]
        whole = packed.tobytes()
        keys = [whole[at : at + width] for at in range(0, len(whole), width)]
        known = self._known
        numbers = np.empty(len(keys), np.int32)
        for i, key in enumerate(keys):
            number = known.get(key)
            if number is None:
                number = known[key] = self.count
                if number == self.membership.shape[1]:
                    self.membership = np.pad(self.membership, ((0, 0), (0, number)))
                self.membership[:, number] = said[:, i]
                self.count += 1
            numbers[i] = number
        return numbers

    def _grow(self) -> None:
        capacity = len(self._index.changed)
        grow = capacity - len(self._of)
        self._of = np.pad(self._of, (0, grow))
        self._signed = np.pad(self._signed, (0, grow), constant_values=-1)

    def _closed_columns(self) -> tuple[str, ...]:
        return tuple(sorted(self._index.closed_columns()))


def _both(parts: Sequence[Evaluator]) -> Evaluator:
    def evaluate(rows: IntArray, now: float) -> BoolArray:
        mask = parts[0](rows, now)
        for part in parts[1:]:
            mask = mask & part(rows, now)
        return mask

    return evaluate


def _either(parts: Sequence[Evaluator]) -> Evaluator:
    def evaluate(rows: IntArray, now: float) -> BoolArray:
        mask = parts[0](rows, now)
        for part in parts[1:]:
            mask = mask | part(rows, now)
        return mask

    return evaluate


def _inverse(part: Evaluator) -> Evaluator:
    return lambda rows, now: ~part(rows, now)


def _once(index: ItemIndex, part: Evaluator) -> Evaluator:
    """Answers the same question once: names that refer to names a hundred times each would
    otherwise be asked without end."""
    asked: tuple[IntArray, float, int] | None = None
    answer = np.zeros(0, np.bool_)

    def evaluate(rows: IntArray, now: float) -> BoolArray:
        nonlocal asked, answer
        known = asked
        if known is None or (known[0] is not rows or known[1] != now or known[2] != index.revision):
            answer, asked = part(rows, now), (rows, now, index.revision)
        return answer

    return evaluate


def _new(index: ItemIndex, days: float) -> Evaluator:
    seconds = days * DAY
    return lambda rows, now: index.created[rows] > now - seconds


def _listed(index: ItemIndex, ids: Sequence[str]) -> Evaluator:
    listed = np.empty(0, np.int32)
    known_at = -1

    def evaluate(rows: IntArray, _: float) -> BoolArray:
        nonlocal listed, known_at
        if known_at != len(index):  # a row, once given, stays the item's
            listed, known_at = index.rows(ids), len(index)
        return np.isin(rows, listed)

    return evaluate
