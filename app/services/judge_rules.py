"""Asks the gate for rules: what a draft would make of the requests that were served lately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from app.domain.merchant import MerchantId
from app.domain.rule import RuleSet
from app.domain.rule_gate import RuleGateRule, RuleVerdict, unjudged
from app.services.preview import Previews
from app.services.snapshot import ServingSnapshot


class Snapshots(Protocol):
    def merchants(self) -> Mapping[MerchantId, ServingSnapshot]:
        """Those that this process serves."""
        ...


class JudgeRules:
    """See `app.services.merchandise.RuleJudge`."""

    def __init__(self, serving: Snapshots, previews: Previews, rule: RuleGateRule) -> None:
        self._serving = serving
        self._previews = previews
        self._rule = rule

    async def judge(
        self, merchant: MerchantId, rule_set_id: str, rules: RuleSet
    ) -> tuple[RuleVerdict, bool]:
        """
        Raises:
            Unavailable: the store is away.
        """
        snapshot = self._serving.merchants().get(merchant)
        if snapshot is None:
            return unjudged("this process does not serve the merchant yet", self._rule, 0), True
        verdict = await self._previews.judge(snapshot, rule_set_id, rules, self._rule)
        return verdict, verdict.passed or not self._rule.refuse
