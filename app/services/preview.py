"""What new rules would do, before shoppers see it: to one request, and to many recent ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from app.domain.errors import InvalidInput, VitrineError
from app.domain.item_index import ItemIndexes
from app.domain.merchant import MerchantId
from app.domain.preview import Listed, Move, Preview, SamplePreview, Shift, moves_of
from app.domain.recommendation import RecommendationRequest
from app.domain.rule import PublishedRules, RuleSet
from app.domain.rule_gate import DAYS, RuleGateRule, RuleVerdict, judge
from app.services.explain import Explain, Run
from app.services.published_rules import MerchantRulings
from app.services.snapshot import ServingSnapshot

DRAFT: Final = 0
"""Number of the version that is not published yet."""

MOST: Final = 20
"""Items told of on either side."""

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class SampleReader(Protocol):
    async def recent(
        self, merchant: MerchantId, pod_ids: Sequence[str], limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """Requests that were served lately, newest first. `pod_ids`: only for these; empty: all."""
        ...

    async def revenue(
        self, merchant: MerchantId, days: int, items: Collection[str] | None = None
    ) -> Mapping[str, float]:
        """What was paid for each item in the last days. `items`: only of these; None: of all."""
        ...


class Previews:
    def __init__(self, explain: Explain, indexes: ItemIndexes, samples: SampleReader) -> None:
        self._explain = explain
        self._indexes = indexes
        self._samples = samples
        self._looking = asyncio.Semaphore(1)  # one merchant's many requests after another's

    async def one(
        self,
        snapshot: ServingSnapshot,
        rule_set_id: str,
        rules: RuleSet,
        request: RecommendationRequest,
        at: float | None,
    ) -> Preview:
        """One request under the rules in force, and with `rules` in the place of the rule set.

        Args:
            rules: valid.
            at: Unix seconds for which conditions are asked; None: now.

        Raises:
            NotFound: there is no such pod.
            InvalidInput: naming the parameter.
        """
        old, _ = await self._explain.run(snapshot, request, rulings=_in_force(snapshot), at=at)
        rulings = await self._with(snapshot, rule_set_id, rules)
        new, _ = await self._explain.run(snapshot, request, rulings=rulings, at=old.at)
        before, after = _listed(old), _listed(new)
        ruling = new.ruling
        moves = tuple(
            Move(
                item_id=listed.item_id,
                name=listed.name,
                before=was,
                after=is_,
                move=move,
                effects=() if ruling is None else ruling.effects(new.index.row(listed.item_id)),
            )
            for listed, was, is_, move in moves_of(before, after)
        )
        return Preview(
            at=old.at,
            before=before,
            after=after,
            moves=moves,
            rules=() if ruling is None else ruling.active(),
            slots=() if ruling is None else ruling.slots(new.want),
            short=len(after) < new.want,
        )

    async def many(
        self,
        snapshot: ServingSnapshot,
        rule_set_id: str,
        rules: RuleSet,
        pod_ids: Sequence[str],
        limit: int,
    ) -> SamplePreview:
        """Recent requests, likewise. Shoppers' requests come in between any two of them.

        Raises:
            Unavailable: the store is away.
        """
        async with self._looking:
            return await self._many(snapshot, rule_set_id, rules, pod_ids, limit)

    async def _many(
        self,
        snapshot: ServingSnapshot,
        rule_set_id: str,
        rules: RuleSet,
        pod_ids: Sequence[str],
        limit: int,
    ) -> SamplePreview:
        rulings = await self._with(snapshot, rule_set_id, rules)
        lists, skipped = await self._replayed(snapshot, rulings, pod_ids, limit)
        revenue = await self._samples.revenue(snapshot.merchant, DAYS)
        before = Counter(item for old, _ in lists for item in old)
        after = Counter(item for _, new in lists for item in new)
        changed = sum(old != new for old, new in lists)
        shorter = sum(len(new) < len(old) for old, new in lists)
        shifts = [
            Shift(
                item_id=item_id,
                before=before[item_id],
                after=after[item_id],
                revenue=round(revenue.get(item_id, 0.0), 2),
            )
            for item_id in sorted(before.keys() | after.keys())
            if before[item_id] != after[item_id]
        ]
        gaining = [shift for shift in shifts if shift.after > shift.before]
        losing = [shift for shift in shifts if shift.after < shift.before]
        total = sum(revenue.values())
        return SamplePreview(
            requests=len(lists),
            skipped=skipped,
            changed=changed,
            shorter=shorter,
            gaining=tuple(sorted(gaining, key=_by_change)[:MOST]),
            losing=tuple(sorted(losing, key=_by_change)[:MOST]),
            revenue_days=DAYS,
            revenue=round(total, 2),
            gaining_share=_share(gaining, total),
            losing_share=_share(losing, total),
        )

    async def judge(
        self, snapshot: ServingSnapshot, rule_set_id: str, rules: RuleSet, rule: RuleGateRule
    ) -> RuleVerdict:
        """Whether recent requests' lists would be about as good with `rules`: those of pods that
        the rule set touches, now or then.

        Raises:
            Unavailable: the store is away.
        """
        async with self._looking:
            rulings = await self._with(snapshot, rule_set_id, rules)
            touched = _touched(rule_set_id, (rulings, _in_force(snapshot)))
            lists: list[tuple[Sequence[str], Sequence[str]]] = []
            if touched:
                lists, _ = await self._replayed(snapshot, rulings, touched, rule.most)
        shown = {item for pair in lists for items in pair for item in items}
        revenue = await self._samples.revenue(snapshot.merchant, DAYS, shown)
        return await asyncio.to_thread(judge, rule, lists, revenue)

    async def _replayed(
        self,
        snapshot: ServingSnapshot,
        rulings: MerchantRulings,
        pod_ids: Sequence[str],
        limit: int,
    ) -> tuple[list[tuple[Sequence[str], Sequence[str]]], int]:
        """The lists of recent requests under the rules in force and under `rulings`; and how many
        could not be asked again. The same request is asked once."""
        samples = await self._samples.recent(snapshot.merchant, pod_ids, limit)
        in_force = _in_force(snapshot)
        lists: list[tuple[Sequence[str], Sequence[str]]] = []
        known: dict[bytes, tuple[Sequence[str], Sequence[str]]] = {}
        for sample in samples:
            key = _encode(sample)
            if key in known:
                lists.append(known[key])
                continue
            try:
                request = msgspec.convert(sample, RecommendationRequest)
                old, at = await self._explain.items(snapshot, request, rulings=in_force)
                await asyncio.sleep(0)
                new, _ = await self._explain.items(snapshot, request, rulings=rulings, at=at)
            except (msgspec.ValidationError, VitrineError):
                continue
            lists.append((old, new))
            known[key] = (old, new)
            await asyncio.sleep(0)
        return lists, len(samples) - len(lists)

    async def _with(
        self, snapshot: ServingSnapshot, rule_set_id: str, rules: RuleSet
    ) -> MerchantRulings:
        """The rules in force, with `rules` in the place of the rule set. What they ask for ahead of
        requests is done in parts, see `app.domain.rule_table.WORK`."""
        configuration = snapshot.configuration
        others = [rule for rule in configuration.rules if rule.rule_set_id != rule_set_id]
        draft = PublishedRules(rule_set_id=rule_set_id, number=DRAFT, rules=rules)
        rulings = MerchantRulings(
            [*others, draft],
            configuration.pods.values(),
            configuration.strategies,
            self._indexes,
            snapshot.merchant,
            _in_force(snapshot),
        )
        while not rulings.catch_up():  # noqa: ASYNC110  # requests come in between
            await asyncio.sleep(0)
        return rulings


def require_time(at: float | None) -> None:
    """
    Raises:
        InvalidInput: no calendar has such a time.
    """
    if at is not None and not 0 <= at < 253_402_300_800:
        raise InvalidInput.field("/at", "must be Unix seconds between the years 1970 and 9999")


def _touched(rule_set_id: str, rulings: Iterable[MerchantRulings | None]) -> list[str]:
    """Pods for which a rule of the set may be active."""
    return list(
        dict.fromkeys(
            pod_id
            for each in rulings
            if each is not None
            for compiled in each.all_compiled()
            for pod_id in compiled.pod_ids
            if (pod := compiled.pod(pod_id)) is not None
            and any(ranked.rule_set_id == rule_set_id for ranked in pod.rules)
        )
    )


def _in_force(snapshot: ServingSnapshot) -> MerchantRulings | None:
    return snapshot.rulings if isinstance(snapshot.rulings, MerchantRulings) else None


def _listed(run: Run) -> tuple[Listed, ...]:
    return tuple(
        Listed(result["data"]["id"], result["value"]) for result in run.body["response"]["results"]
    )


def _by_change(shift: Shift) -> tuple[int, float, str]:
    return (-abs(shift.after - shift.before), -shift.revenue, shift.item_id)


def _share(shifts: Sequence[Shift], total: float) -> float:
    return round(sum(shift.revenue for shift in shifts) / total, 4) if total > 0 else 0.0
