"""Conflicts and reach of a merchant's rules: those in force, or with a draft among them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from app.domain.errors import InvalidInput, NotFound
from app.domain.item_index import ItemIndexes
from app.domain.rule import PublishedRules, RuleSet
from app.domain.rule_conflicts import Conflicts, Finding, Touch
from app.services.published_rules import MerchantRulings
from app.services.snapshot import ServingSnapshot
from vitrine_sdk import IntArray

GROUP: Final = "group_id"


class RuleReach:
    def __init__(self, indexes: ItemIndexes, clock: Callable[[], float] = time.time) -> None:
        self._indexes = indexes
        self._clock = clock

    async def findings(
        self, snapshot: ServingSnapshot, draft: tuple[str, RuleSet] | None = None
    ) -> list[Finding]:
        """
        Args:
            draft: id of a rule set, and valid rules in the place of what is in force of it.
        """
        found: dict[Finding, None] = {}
        for conflicts in await self._conflicts(snapshot, draft):
            found.update(dict.fromkeys(conflicts.findings()))
        return list(found)

    async def touching(
        self,
        snapshot: ServingSnapshot,
        *,
        pod_id: str | None,
        item_id: str | None,
        group_id: str | None,
    ) -> list[Touch]:
        """The rules in force that touch a pod, an item or a category: one of the three.

        Raises:
            InvalidInput: none or several are given.
            NotFound: there is no such pod, item or category.
        """
        asked = [name for name in (pod_id, item_id, group_id) if name is not None]
        if len(asked) != 1:
            raise InvalidInput.field("pod", "give one of pod, item and group")
        every = await self._conflicts(snapshot, None)
        if pod_id is not None:
            snapshot.pod(pod_id)
            return [touch for conflicts in every for touch in conflicts.touching_pod(pod_id)]
        touches: list[Touch] = []
        known = False
        for conflicts in every:
            rows = self._rows(conflicts, item_id, group_id)
            known = known or len(rows) > 0
            touches += conflicts.touching_items(rows)
        if not known and every:
            raise NotFound(f"there is no {'item' if item_id else 'category'} {asked[0]!r}")
        return touches

    def _rows(self, conflicts: Conflicts, item_id: str | None, group_id: str | None) -> IntArray:
        index = conflicts.index
        if item_id is not None:
            row = index.row(item_id)
            present = row >= 0 and bool(index.present[row])
            return np.array([row] if present else [], np.int32)
        column = index.columns.get(GROUP)
        if column is None or group_id is None:
            return np.empty(0, np.int32)
        rows = np.flatnonzero(index.present[: len(index)]).astype(np.int32)
        in_group: IntArray = rows[column.has_any((group_id,))[column.codes[rows]]]
        return in_group

    async def _conflicts(
        self, snapshot: ServingSnapshot, draft: tuple[str, RuleSet] | None
    ) -> Sequence[Conflicts]:
        configuration = snapshot.configuration
        rulings = snapshot.rulings
        if draft is not None:
            id_, rules = draft
            others = [rule for rule in configuration.rules if rule.rule_set_id != id_]
            rulings = MerchantRulings(
                [*others, PublishedRules(rule_set_id=id_, number=0, rules=rules)],
                configuration.pods.values(),
                configuration.strategies,
                self._indexes,
                snapshot.merchant,
            )
        if not isinstance(rulings, MerchantRulings):
            return []
        while not rulings.catch_up():  # noqa: ASYNC110  # requests come in between
            await asyncio.sleep(0)
        return [Conflicts(compiled, self._clock()) for compiled in rulings.all_compiled()]
