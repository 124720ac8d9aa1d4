"""Rule sets: drafted, validated, published, rolled back.

A draft may only hold what could be published: it is checked when it is written, and again when it
is published, for the catalogue may have changed. A publication is a new version of the rule set;
rolling back publishes an old version's rules again, under a new number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from app.domain.catalogue import Section
from app.domain.errors import Conflict, FieldError, InvalidInput, NotFound, TooLarge
from app.domain.item_index import PRICE, ItemIndex, ItemIndexes
from app.domain.merchant import MerchantId
from app.domain.rendered import RenderedItems
from app.domain.rule import (
    MAX_RULES,
    PublishedRules,
    Rule,
    RuleSet,
    RuleSetDraft,
    RuleSetSummary,
    RuleSetVersion,
)
from app.domain.rule_check import check, too_many
from app.domain.rule_compile import CompiledRules
from app.domain.rule_gate import RuleVerdict

Check = Callable[[RuleSet, int], None]
"""(rules, number of rules of the merchant's other published sets); raises InvalidInput."""


class RuleSetStore(Protocol):
    """`expected` are the draft's versions that the author may have seen; None: any."""

    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[RuleSetSummary]: ...

    async def get(self, merchant: MerchantId, rule_set_id: str) -> RuleSetDraft: ...

    async def create(
        self, merchant: MerchantId, rule_set_id: str, display_name: str, rules: RuleSet, actor: str
    ) -> RuleSetDraft: ...

    async def replace(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        edit: Callable[[RuleSetDraft], tuple[str, RuleSet]],
        expected: frozenset[int] | None,
        actor: str,
    ) -> RuleSetDraft:
        """Write what `edit` makes of the draft: a display name and rules."""
        ...

    async def delete(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        expected: frozenset[int] | None,
        actor: str,
    ) -> None:
        """Raises Conflict where a version of it is in force."""
        ...

    async def publish(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        expected: frozenset[int] | None,
        actor: str,
        reason: str,
        check: Check,
        verdict: RuleVerdict | None,
    ) -> RuleSetVersion:
        """The draft becomes a version, and that is in force, in one transaction with the step of
        the merchant's configuration version."""
        ...

    async def refused(
        self, merchant: MerchantId, rule_set_id: str, actor: str, verdict: RuleVerdict
    ) -> None:
        """Keep in the record that a draft was not published, and why."""
        ...

    async def roll_back(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        number: int,
        expected: frozenset[int] | None,
        actor: str,
        reason: str,
        check: Check,
    ) -> RuleSetVersion:
        """An earlier version's rules become a new version, in force. The draft stays."""
        ...

    async def withdraw(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        expected: frozenset[int] | None,
        actor: str,
        reason: str,
    ) -> RuleSetDraft:
        """No version is in force any more."""
        ...

    async def versions(
        self, merchant: MerchantId, rule_set_id: str, *, before: int | None, limit: int
    ) -> Sequence[RuleSetVersion]:
        """Newest first, without their rules."""
        ...

    async def version(
        self, merchant: MerchantId, rule_set_id: str, number: int
    ) -> RuleSetVersion: ...

    async def published(self, merchant: MerchantId) -> Sequence[PublishedRules]:
        """Everything in force."""
        ...


class RuleJudge(Protocol):
    async def judge(
        self, merchant: MerchantId, rule_set_id: str, rules: RuleSet
    ) -> tuple[RuleVerdict, bool]:
        """The gate's verdict on a draft, and whether it may go in force without being forced."""
        ...


class Merchandise:
    """
    Args:
        indexes: the catalogues, whose attributes rules may name.
        gate: asked before a draft goes in force; None: nobody is.
    """

    def __init__(
        self, store: RuleSetStore, indexes: ItemIndexes, gate: RuleJudge | None = None
    ) -> None:
        self._store = store
        self._indexes = indexes
        self._gate = gate

    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[RuleSetSummary]:
        return await self._store.page(merchant, after=after, limit=limit)

    async def get(self, merchant: MerchantId, rule_set_id: str) -> RuleSetDraft:
        """
        Raises:
            NotFound: there is no such rule set.
        """
        return await self._store.get(merchant, rule_set_id)

    async def create(
        self, merchant: MerchantId, rule_set_id: str, display_name: str, rules: RuleSet, actor: str
    ) -> RuleSetDraft:
        """
        Raises:
            InvalidInput: naming each wrong part.
            Conflict: there is a rule set of that id.
        """
        self.require_valid(merchant, rules)
        return await self._store.create(merchant, rule_set_id, display_name, rules, actor)

    async def replace(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        display_name: str,
        rules: RuleSet,
        expected: frozenset[int] | None,
        actor: str,
    ) -> RuleSetDraft:
        """The whole draft anew.

        Raises:
            InvalidInput: naming each wrong part.
            NotFound: there is no such rule set.
            PreconditionFailed: it has another version than those expected.
        """
        self.require_valid(merchant, rules)
        return await self._store.replace(
            merchant, rule_set_id, lambda _: (display_name, rules), expected, actor
        )

    async def put_rule(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        rule: Rule,
        expected: frozenset[int] | None,
        actor: str,
    ) -> RuleSetDraft:
        """One rule of the draft anew, in its place; behind the others where it is new. Raises as
        `replace` does; pointers are into the rule set."""

        def edit(draft: RuleSetDraft) -> tuple[str, RuleSet]:
            rules = list(draft.rules.rules)
            places = [i for i, old in enumerate(rules) if old.id == rule.id]
            if places:
                rules[places[0]] = rule
            else:
                rules.append(rule)
            if len(rules) > MAX_RULES:
                raise _too_large(len(rules))
            edited = msgspec.structs.replace(draft.rules, rules=tuple(rules))
            self.require_valid(merchant, edited)
            return draft.display_name, edited

        return await self._store.replace(merchant, rule_set_id, edit, expected, actor)

    async def delete_rule(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        rule_id: str,
        expected: frozenset[int] | None,
        actor: str,
    ) -> RuleSetDraft:
        """Take one rule out of the draft.

        Raises:
            NotFound: there is no such rule set, or no such rule in it.
            PreconditionFailed: the draft has another version than those expected.
        """

        def edit(draft: RuleSetDraft) -> tuple[str, RuleSet]:
            rule_of(draft, rule_id)
            left = tuple(rule for rule in draft.rules.rules if rule.id != rule_id)
            return draft.display_name, msgspec.structs.replace(draft.rules, rules=left)

        return await self._store.replace(merchant, rule_set_id, edit, expected, actor)

    async def delete(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        expected: frozenset[int] | None,
        actor: str,
    ) -> None:
        """Delete a draft; what was published of it stays in the record.

        Raises:
            NotFound, PreconditionFailed: as `replace`.
            Conflict: a version of it is in force.
        """
        await self._store.delete(merchant, rule_set_id, expected, actor)

    async def publish(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        expected: frozenset[int] | None,
        actor: str,
        reason: str,
        *,
        force: bool = False,
    ) -> RuleSetVersion:
        """
        Args:
            force: whatever the gate finds.

        Raises:
            InvalidInput: the draft cannot be evaluated by this version, naming each wrong part.
            NotFound, PreconditionFailed: as `replace`.
            Conflict: the gate refuses it.
            Unavailable: what the gate looks back at is away, and `force` is not given.
        """
        verdict = None
        if self._gate is not None:
            draft = await self._store.get(merchant, rule_set_id)
            if expected is None or draft.version in expected:
                expected = frozenset({draft.version})  # what was judged, and nothing else
                self.require_valid(merchant, draft.rules)
                verdict = await self._judged(merchant, draft, actor, force=force)
        return await self._store.publish(
            merchant, rule_set_id, expected, actor, reason, self._checker(merchant), verdict
        )

    async def judge(self, merchant: MerchantId, rule_set_id: str) -> RuleVerdict:
        """What the gate would find now; nothing is changed.

        Raises:
            NotFound, InvalidInput, Unavailable: as `publish`.
            Conflict: there is no gate.
        """
        if self._gate is None:
            raise Conflict("there is no gate for rules: VITRINE_RULE_GATE is off")
        draft = await self._store.get(merchant, rule_set_id)
        self.require_valid(merchant, draft.rules)
        return (await self._gate.judge(merchant, rule_set_id, draft.rules))[0]

    async def _judged(
        self, merchant: MerchantId, draft: RuleSetDraft, actor: str, *, force: bool
    ) -> RuleVerdict:
        assert self._gate is not None  # noqa: S101  # asked by who has one
        verdict, allowed = await self._gate.judge(merchant, draft.id, draft.rules)
        if not allowed and not force:
            await self._store.refused(merchant, draft.id, actor, verdict)
            raise Conflict(
                f"{verdict.reason}. Change the draft, or publish it with "
                '"force": true where that is meant'
            )
        return verdict if verdict.passed else msgspec.structs.replace(verdict, forced=True)

    async def roll_back(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        number: int,
        expected: frozenset[int] | None,
        actor: str,
        reason: str,
    ) -> RuleSetVersion:
        """
        Raises:
            NotFound: there is no such rule set or version.
            PreconditionFailed: it has another version than those expected.
            InvalidInput: the version cannot be evaluated any more, naming each wrong part.
        """
        return await self._store.roll_back(
            merchant, rule_set_id, number, expected, actor, reason, self._checker(merchant)
        )

    async def withdraw(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        expected: frozenset[int] | None,
        actor: str,
        reason: str,
    ) -> RuleSetDraft:
        """
        Raises:
            NotFound: there is no such rule set.
            PreconditionFailed: it has another version than those expected.
            Conflict: none of its versions is in force.
        """
        return await self._store.withdraw(merchant, rule_set_id, expected, actor, reason)

    async def versions(
        self, merchant: MerchantId, rule_set_id: str, *, before: int | None, limit: int
    ) -> Sequence[RuleSetVersion]:
        """
        Raises:
            NotFound: there is no such rule set, and never was.
        """
        return await self._store.versions(merchant, rule_set_id, before=before, limit=limit)

    async def version(self, merchant: MerchantId, rule_set_id: str, number: int) -> RuleSetVersion:
        """
        Raises:
            NotFound: there is no such version.
        """
        return await self._store.version(merchant, rule_set_id, number)

    async def published(self, merchant: MerchantId) -> Sequence[PublishedRules]:
        return await self._store.published(merchant)

    def problems(self, merchant: MerchantId, rules: RuleSet) -> list[FieldError]:
        """What is wrong with rules; empty: nothing."""
        return check(rules, self.attributes(merchant))

    def require_valid(self, merchant: MerchantId, rules: RuleSet) -> None:
        """
        Raises:
            InvalidInput: naming each wrong part.
        """
        problems = self.problems(merchant, rules)
        if problems:
            first = problems[0]
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InvalidInput(f"{first.field}: {first.message}{more}", problems)

    def attributes(self, merchant: MerchantId) -> frozenset[str]:
        """The attributes that the merchant's items have."""
        names = {PRICE}
        for section in self.sections(merchant):
            names.update(self._indexes.get(merchant, section).columns)
        return frozenset(names)

    def sections(self, merchant: MerchantId) -> list[Section]:
        return [section for owner, section in self._indexes if owner == merchant]

    def _checker(self, merchant: MerchantId) -> Check:
        def check_publishable(rules: RuleSet, others: int) -> None:
            if others + len(rules.rules) > MAX_RULES:
                raise _too_large(others + len(rules.rules))
            self.require_valid(merchant, rules)
            # What could not be compiled would fail in every serving process: let it fail here.
            published = PublishedRules(rule_set_id="draft", number=0, rules=rules)
            CompiledRules([published], ItemIndex(RenderedItems(1)), ["a pod"])

        return check_publishable


def rule_of(draft: RuleSetDraft, rule_id: str) -> Rule:
    """
    Raises:
        NotFound: the draft has no such rule.
    """
    for rule in draft.rules.rules:
        if rule.id == rule_id:
            return rule
    raise NotFound(f"rule set {draft.id!r} has no rule {rule_id!r}")


def _too_large(count: int) -> TooLarge:
    error = too_many(count)
    return TooLarge(f"{error.field}: {error.message}", (error,))
