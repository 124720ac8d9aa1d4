"""Rules and rule sets: when (a condition on the request) → then (actions on the list).

These types are the wire's form too. What a type cannot say (known attributes, zones, references) is
checked by `app.domain.rule_check`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from app.domain.rule_action import Action
from app.domain.rule_condition import Condition
from app.domain.rule_gate import RuleVerdict
from app.domain.rule_items import ItemExpression, Name

MAX_RULES: Final = 10_000
"""In a rule set, and in all published ones of a merchant together."""

MAX_ACTIONS: Final = 20
MAX_DEPTH: Final = 20
"""Of nested expressions and conditions, references followed."""


class Rule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One rule. It is active for a request while `enabled` and `when` holds."""

    id: Name
    name: Annotated[str, Meta(max_length=200)] = ""
    enabled: bool = True
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """Settles contradictions: the higher one wins. Between equals: leaving out wins over pinning,
    otherwise the rule that stands first."""
    reason: Annotated[str, Meta(max_length=1000)] = ""
    """Why there is such a rule, for those who read it later."""
    when: Condition | None = None  # None: always
    then: Annotated[tuple[Action, ...], Meta(min_length=1, max_length=MAX_ACTIONS)]


class RuleSet(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Rules that are edited and published together."""

    rules: Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES)] = ()
    expressions: dict[Name, ItemExpression] = {}
    """Item expressions by name, for `named`. They may refer to one another, but not in a circle."""


class PublishedRules(msgspec.Struct, frozen=True, kw_only=True):
    """One published version of a rule set, as serving works from it."""

    rule_set_id: str
    number: int  # of the version: 1, 2, ...
    rules: RuleSet


class RuleSetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A rule set in a list."""

    id: str
    display_name: str
    rule_count: int  # of the draft
    published: int | None  # number of the version in force; None: none is
    updated_at: float  # Unix seconds


class RuleSetDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A rule set as it is edited, and which of its versions is in force."""

    id: str
    display_name: str
    rules: RuleSet
    version: int  # grows with each change and publication: what the next one must name
    published: int | None  # number of the version in force; None: none is
    created_at: float  # Unix seconds
    updated_at: float


class RuleSetVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What was published once. Never changed."""

    rule_set_id: str
    number: int  # 1, 2, ... a rule set
    actor: str  # token id, or "cli"
    reason: str
    published_at: float  # Unix seconds
    restores: int | None = None  # the version that this one brought back
    verdict: RuleVerdict | None = None  # the gate's; None: it was not asked
    rules: RuleSet | None = None  # None: not asked for
