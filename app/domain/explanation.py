"""Why a list is as it is: what `explain=true` and previews tell. The wire's form too."""

from __future__ import annotations

import msgspec


class Effect(msgspec.Struct, frozen=True):
    """What one action of a rule did to an item."""

    rule: str  # rule set id / rule id
    action: str  # its type
    did: str  # in words


class StrategyRun(msgspec.Struct, frozen=True, kw_only=True):
    """One place of the pod's chain."""

    id: str  # strategy configuration
    outcome: str  # "answered", or why it did not
    asked: int = 0  # candidates asked for, in its last run
    given: int = 0
    runs: int = 0  # it is asked for more when too few qualify
    milliseconds: float = 0.0


class ActiveRule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule whose condition held."""

    id: str
    name: str
    priority: int
    reason: str
    actions: tuple[str, ...]
    left_out: int  # candidates that it was the first to leave out


class Candidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One candidate on its way."""

    item_id: str
    outcome: str  # "shown", "cut", or what left it out
    strategy: str  # configuration, or "rules"
    score: float | None = None
    position: int | None = None  # in the list; 1 is the first
    effects: tuple[Effect, ...] = ()


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A rule's claim to a position."""

    slot: int
    rule: str
    item_id: str | None  # what is to be, or is, there
    state: str  # "met", or why not


class Step(msgspec.Struct, frozen=True):
    name: str
    milliseconds: float


class WhyNot(msgspec.Struct, frozen=True, kw_only=True):
    """The first reason that an item is absent."""

    item_id: str
    shown: bool
    reason: str  # a word for programs: "not_in_catalogue", "filtered", "rule", ...
    detail: str
    rule: str | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    at: float  # Unix seconds that the rules' conditions were asked for
    chain: tuple[StrategyRun, ...]
    fallback: str | None  # why the first of the chain did not answer
    rules: tuple[ActiveRule, ...]
    candidates: tuple[Candidate, ...]  # the list first, in its order; then the others, best first
    slots: tuple[Slot, ...]
    shares: tuple[Effect, ...]  # percentages that could not be kept
    left_out: dict[str, int]  # candidates, by what
    steps: tuple[Step, ...]
    why_not: WhyNot | None = None
