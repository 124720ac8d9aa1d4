"""What a rule set's types cannot say: known attributes, zones, references, bounds in order."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Final
from zoneinfo import ZoneInfo

from app.domain import rule_action as act
from app.domain import rule_condition as when
from app.domain import rule_items as item
from app.domain.errors import FieldError
from app.domain.rule import MAX_DEPTH, MAX_RULES, Rule, RuleSet

MAX_ERRORS: Final = 100
"""So many are told at once."""

ALWAYS_KNOWN: Final = frozenset({"price", "group_id"})


@functools.lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo | None:
    """The IANA time zone of that name; None where there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # OSError: the name of a directory of zones, "Europe".
        return None


def check(rules: RuleSet, attributes: Set[str]) -> list[FieldError]:
    """What is wrong with a rule set, at most MAX_ERRORS of it; empty: nothing.

    Args:
        attributes: the names that items of the merchant's catalogue have.
    """
    return _Check(rules, attributes).run()


def item_children(
    expression: item.ItemExpression, pointer: str
) -> Iterator[tuple[item.ItemExpression, str]]:
    """The expressions that one is made of, each with its JSON pointer."""
    if isinstance(expression, item.ItemAnd | item.ItemOr):
        for i, child in enumerate(expression.of):
            yield child, f"{pointer}/of/{i}"
    elif isinstance(expression, item.ItemNot):
        yield expression.of, f"{pointer}/of"


def condition_children(
    condition: when.Condition, pointer: str
) -> Iterator[tuple[when.Condition, str]]:
    """The conditions that one is made of, each with its JSON pointer."""
    if isinstance(condition, when.WhenAnd | when.WhenOr):
        for i, child in enumerate(condition.of):
            yield child, f"{pointer}/of/{i}"
    elif isinstance(condition, when.WhenNot):
        yield condition.of, f"{pointer}/of"


class _Check:
    def __init__(self, rules: RuleSet, attributes: Set[str]) -> None:
        self._rules = rules
        self._attributes = attributes | ALWAYS_KNOWN
        self._errors: list[FieldError] = []
        self._depths: dict[str, int] = {}  # of named expressions that were walked

    def run(self) -> list[FieldError]:
        self._named(self._rules.expressions)
        seen: dict[str, int] = {}
        for i, rule in enumerate(self._rules.rules):
            pointer = f"/rules/{i}"
            if rule.id in seen:
                self._wrong(
                    f"{pointer}/id",
                    f"{rule.id!r} is the id of /rules/{seen[rule.id]} already; ids are unique",
                )
            seen[rule.id] = i
            self._rule(rule, pointer)
            if len(self._errors) >= MAX_ERRORS:
                break
        return self._errors[:MAX_ERRORS]

    def _wrong(self, pointer: str, message: str) -> None:
        self._errors.append(FieldError(pointer, message))

    def _named(self, expressions: Mapping[str, item.ItemExpression]) -> None:
        """Each named expression, and whether they refer to each other in a circle."""
        open_names: list[str] = []
        reported: set[str] = set()

        def visit(name: str) -> int:
            """Depth of the expression; 0 within a circle."""
            if name in self._depths:
                return self._depths[name]
            if name in open_names:
                circle = [*open_names[open_names.index(name) :], name]
                if not reported & set(circle):
                    self._wrong(
                        f"/expressions/{name}",
                        f"refers to itself: {' → '.join(circle)}; take one reference out",
                    )
                reported.update(circle)
                return 0
            open_names.append(name)
            pointer = f"/expressions/{name}"
            depth = self._items(expressions[name], pointer, visit)
            open_names.pop()
            self._depths[name] = depth
            return depth

        for name in expressions:
            visit(name)

    def _items(
        self,
        expression: item.ItemExpression,
        pointer: str,
        named: Callable[[str], int] | None = None,
        level: int = 1,
    ) -> int:
        """Check an expression; returns its depth."""
        if level > MAX_DEPTH:
            self._wrong(pointer, f"is nested more than {MAX_DEPTH} deep")
            return level
        depth = 1
        match expression:
            case item.ItemIs():
                self._attribute(expression.attribute, f"{pointer}/attribute")
            case item.ItemRange():
                self._attribute(expression.attribute, f"{pointer}/attribute")
                self._bounds(expression.at_least, expression.at_most, pointer)
            case item.ItemNamed():
                depth = self._reference(expression.name, f"{pointer}/name", named, level)
        for child, where in item_children(expression, pointer):
            depth = max(depth, 1 + self._items(child, where, named, level + 1))
        return depth

    def _reference(
        self, name: str, pointer: str, named: Callable[[str], int] | None, level: int
    ) -> int:
        if name not in self._rules.expressions:
            known = ", ".join(sorted(self._rules.expressions)[:10]) or "none"
            self._wrong(pointer, f"there is no expression {name!r} in this rule set (has: {known})")
            return 1
        depth = named(name) if named is not None else self._depths.get(name, 1)
        if level + depth > MAX_DEPTH:
            self._wrong(
                pointer, f"is nested more than {MAX_DEPTH} deep, what it refers to included"
            )
        return depth

    def _attribute(self, name: str, pointer: str) -> None:
        if name not in self._attributes:
            near = sorted(n for n in self._attributes if n.lower() == name.lower())
            known = ", ".join((near or sorted(self._attributes))[:20])
            self._wrong(pointer, f"no item has an attribute {name!r}; known: {known}")

    def _bounds(self, low: float | None, high: float | None, pointer: str) -> None:
        if low is None and high is None:
            self._wrong(pointer, "needs `at_least`, `at_most` or both")
        elif low is not None and high is not None and low > high:
            self._wrong(f"{pointer}/at_most", f"{high:g} is less than at_least, {low:g}")

    def _rule(self, rule: Rule, pointer: str) -> None:
        if rule.when is not None:
            self._condition(rule.when, f"{pointer}/when")
        for i, action in enumerate(rule.then):
            self._action(action, f"{pointer}/then/{i}")

    def _condition(self, condition: when.Condition, pointer: str, level: int = 1) -> None:
        if level > MAX_DEPTH:
            self._wrong(pointer, f"is nested more than {MAX_DEPTH} deep")
            return
        match condition:
            case when.WhenSeed():
                self._items(condition.items, f"{pointer}/items")
            case when.WhenActed(items=items) if items is not None:
                self._items(items, f"{pointer}/items")
            case when.WhenBetween(start=start, end=end):
                if start is None and end is None:
                    self._wrong(pointer, "needs `start`, `end` or both")
                elif start is not None and end is not None and end <= start:
                    self._wrong(f"{pointer}/end", f"is not after start, {start.isoformat()}")
            case when.WhenWeekly():
                if zone(condition.zone) is None:
                    self._wrong(
                        f"{pointer}/zone",
                        f"there is no time zone {condition.zone!r}; use an IANA name such as "
                        f'"Europe/London"',
                    )
                if condition.start == "24:00":
                    self._wrong(f"{pointer}/start", "must be before 24:00")
        for child, where in condition_children(condition, pointer):
            self._condition(child, where, level + 1)

    def _action(self, action: act.Action, pointer: str) -> None:
        match action:
            case act.Boost() | act.Bury() | act.IncludeOnly() | act.Exclude() | act.AtLeast():
                self._items(action.items, f"{pointer}/items")
            case act.Fill():
                self._items(action.items, f"{pointer}/items")
                if len(set(action.slots)) < len(action.slots):
                    self._wrong(f"{pointer}/slots", "names a slot twice")
            case act.SameAsSeed() | act.DifferentFromSeed():
                self._attribute(action.attribute, f"{pointer}/attribute")
                self._bands(action, pointer)
            case act.AtMost():
                self._attribute(action.attribute, f"{pointer}/attribute")
                if action.attribute == "price":
                    self._wrong(f"{pointer}/attribute", "price has no values to count; use a facet")
            case act.PriceOfSeed():
                self._bounds(action.at_least, action.at_most, pointer)

    def _bands(self, action: act.SameAsSeed | act.DifferentFromSeed, pointer: str) -> None:
        bands = action.bands
        if action.attribute == "price" and not bands:
            self._wrong(f"{pointer}/bands", "is needed to compare prices: [10, 50]")
        elif bands and action.attribute != "price":
            self._wrong(f"{pointer}/bands", "is for the attribute price only")
        elif any(b <= a for a, b in itertools.pairwise(bands)):
            self._wrong(f"{pointer}/bands", "must be ascending, each bound once")


def too_many(count: int) -> FieldError:
    """More rules than a merchant may have."""
    return FieldError("/rules", f"has {count} rules; at most {MAX_RULES} are allowed")
