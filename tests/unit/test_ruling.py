"""Rules at work on one request: each action, each condition, their order, and what always holds."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import rule_program
from app.domain.catalogue import ItemFeatures, ItemId
from app.domain.event import Shopper
from app.domain.item_index import ItemIndex
from app.domain.recommendation import RecommendationRequest
from app.domain.rendered import RenderedItems
from app.domain.rule import PublishedRules, RuleSet
from app.domain.rule_activation import Acts, Facts
from app.domain.rule_check import check
from app.domain.rule_compile import CompiledRules
from app.domain.ruling import ruling_for
from app.domain.selection import BROUGHT, Exclusions, LeftOut, Pool, Selection
from vitrine_sdk import Candidates, EventType, kernel

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC).timestamp()  # a Tuesday
DAY = 86_400
CHAIN = (("first", "similar"), ("second", "popular"))
EXAMPLES = 40
BRANDS = ("acme", "bolt", "core")
ATTRIBUTES = frozenset({"brand", "color", "size"})


@pytest.fixture(scope="module", autouse=True, params=["kernel", "twin"])
def how_it_is_chosen(request: pytest.FixtureRequest) -> Iterator[None]:
    """By the compiled kernel, and without one."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "twin":
            patch.setattr(kernel, "compiled", None)
        elif kernel.compiled is None:
            pytest.skip("no kernel was built")
        else:
            patch.setattr(rule_program, "OFTEN", 0)  # else tables are made from the third use on
        yield


def item(number: int, **fields: Any) -> ItemFeatures:
    """i0, i1, ...: brands and colours in turn, each 10 dearer than the one before."""
    attributes = {
        "brand": (BRANDS[number % 3],),
        "color": (("red", "blue")[number % 2],),
        "group_id": ("all", f"g{number % 4}", f"g{number % 4}.{number % 8}"),
        **fields.pop("attributes", {}),
    }
    values = {"available": True, "price": 10.0 * (number + 1), "created": int(NOW) - 100 * DAY}
    return ItemFeatures(
        id=ItemId(f"i{number}"),
        version=1,
        name=f"Item {number}",
        attributes=attributes,
        **{**values, **fields},
    )


def index_of(items: Sequence[ItemFeatures]) -> ItemIndex:
    index = ItemIndex(RenderedItems(1 << 20))
    index.apply([index.prepare(items)], 1)
    return index


def rule(*then: Mapping[str, Any], when: Mapping[str, Any] | None = None, **fields: Any) -> Any:
    return {"id": "r", "then": list(then), **({"when": when} if when else {}), **fields}


def rule_set(*rules: Any, expressions: Any = None) -> RuleSet:
    document = {
        "rules": [{**r, "id": f"{r['id']}{i}"} for i, r in enumerate(rules)],
        "expressions": expressions or {},
    }
    found = msgspec.convert(document, RuleSet)
    assert check(found, ATTRIBUTES) == []
    return found


class Shop:
    """A catalogue, rules, and a strategy that offers the items as they are numbered."""

    def __init__(
        self,
        *rules: Any,
        items: Sequence[ItemFeatures] | int = 12,
        expressions: Any = None,
    ) -> None:
        self.items = [item(n) for n in range(items)] if isinstance(items, int) else items
        self.index = index_of(self.items)
        self.rules = CompiledRules(
            [PublishedRules(rule_set_id="s", number=1, rules=rule_set(*rules,
                                                                      expressions=expressions))],
            self.index,
            ["pod", "other"],
        )  # fmt: skip

    def publish(self, *rules: Any) -> None:
        """Replaces the rules, as a publication does."""
        published = PublishedRules(rule_set_id="s", number=2, rules=rule_set(*rules))
        self.rules = CompiledRules([published], self.index, ["pod", "other"], self.rules)

    def pool(
        self,
        want: int = 5,
        *,
        pod: str = "pod",
        seeds: Sequence[str] = (),
        acts: Sequence[tuple[str, EventType, float]] = (),
        now: float = NOW,
        offers: Sequence[Sequence[str]] | None = None,
        scores: Sequence[float] | None = None,
        filters: Mapping[str, tuple[str, ...]] | None = None,
        **request: Any,
    ) -> tuple[Pool, Selection]:
        seed_rows = self.index.rows(list(seeds))
        facts = Facts(
            request=RecommendationRequest(
                pod_id=pod, item_ids=tuple(map(ItemId, seeds)), filters=dict(filters or {}),
                **request,
            ),
            now=now,
            seeds=seed_rows[seed_rows >= 0],
            acts=Acts(
                self.index.rows([a[0] for a in acts]),
                np.array([a[1] for a in acts], np.int8),
                np.array([a[2] for a in acts], np.float32),
            ),
        )  # fmt: skip
        excluded = Exclusions()
        excluded.add(seed_rows, LeftOut.SEED)
        ruling = ruling_for(self.rules, facts, CHAIN)
        selection = Selection(self.index, want, ruling=ruling, exclusions=excluded)
        for source, ids in enumerate([[i.id for i in self.items]] if offers is None else offers):
            given_scores = np.linspace(1, 0.5, len(ids)) if scores is None else scores
            selection.offer(
                self.index.rows(ids),
                Candidates(
                    np.arange(len(ids), dtype=np.int32),
                    np.array(given_scores, np.float32),
                    np.zeros(len(ids), np.uint8),
                ),
                source,
                10_000,
            )
        return selection.result(), selection

    def ids(self, want: int = 5, **facts: Any) -> list[str]:
        pool, _ = self.pool(want, **facts)
        return [self.index.ids[row] for row in pool.rows.tolist()]


def numbers(ids: Sequence[str]) -> list[int]:
    return [int(i[1:]) for i in ids]


RED = {"type": "is", "attribute": "color", "values": ["red"]}
ACME = {"type": "is", "attribute": "brand", "values": ["acme"]}
BOLT = {"type": "is", "attribute": "brand", "values": ["bolt"]}
ONLY_RED = {"type": "include_only", "items": RED}


def listed(*ids: str) -> dict[str, Any]:
    return {"type": "items", "ids": list(ids)}


# Actions


def test_without_rules_there_is_no_ruling() -> None:
    assert Shop().ids() == ["i0", "i1", "i2", "i3", "i4"]


def test_exclude_leaves_out_what_matches() -> None:
    assert numbers(Shop(rule({"type": "exclude", "items": RED})).ids()) == [1, 3, 5, 7, 9]


def test_include_only_leaves_out_the_rest_and_several_must_all_match() -> None:
    assert numbers(Shop(rule(ONLY_RED)).ids()) == [0, 2, 4, 6, 8]
    both = Shop(rule(ONLY_RED), rule({"type": "include_only", "items": ACME}))
    assert numbers(both.ids()) == [0, 6]


def test_a_boost_halves_the_position_with_every_two_points_and_strengths_add_up() -> None:
    # i8 is ninth: as if at 9 / 2^2 = 2.25, between the second and the third.
    four = Shop(rule({"type": "boost", "items": listed("i8"), "strength": 4}))
    assert numbers(four.ids()) == [0, 1, 8, 2, 3]
    twice = Shop(
        rule({"type": "boost", "items": listed("i8"), "strength": 2}),
        rule({"type": "boost", "items": listed("i8"), "strength": 2}),
    )
    assert twice.ids() == four.ids()


def test_a_bury_doubles_the_position_and_undoes_a_boost() -> None:
    # i0 is first: as if at 1 * 2^2 = 4; the tie with the fourth keeps the order they had.
    buried = Shop(rule({"type": "bury", "items": listed("i0"), "strength": 4}))
    assert numbers(buried.ids()) == [1, 2, 0, 3, 4]
    undone = Shop(
        rule({"type": "bury", "items": listed("i0"), "strength": 4}),
        rule({"type": "boost", "items": listed("i0"), "strength": 4}),
    )
    assert numbers(undone.ids()) == [0, 1, 2, 3, 4]


def test_a_pin_stands_and_need_not_be_a_candidate() -> None:
    shop = Shop(rule({"type": "pin", "item_id": "i9", "slot": 2}))
    pool, _ = shop.pool(offers=[["i0", "i1", "i2", "i3", "i4"]])
    assert numbers([shop.index.ids[row] for row in pool.rows]) == [0, 9, 1, 2, 3]
    assert pool.slotted is not None
    assert pool.slotted.tolist() == [False, True, False, False, False]
    assert pool.sources.tolist() == [0, BROUGHT, 0, 0, 0]


def test_a_pinned_item_appears_once_and_when_it_can() -> None:
    items = [item(n, available=n != 7) for n in range(12)]
    shop = Shop(
        rule(
            {"type": "pin", "item_id": "i1", "slot": 4},
            {"type": "pin", "item_id": "i7", "slot": 1},
            {"type": "pin", "item_id": "unheard-of", "slot": 2},
        ),
        items=items,
    )
    assert numbers(shop.ids()) == [0, 2, 3, 1, 4]
    shop.index.apply([shop.index.prepare([item(7)])], 2)
    assert numbers(shop.ids()) == [7, 0, 2, 1, 3]
    new = item(99)
    shop.index.apply(
        [shop.index.prepare([msgspec.structs.replace(new, id=ItemId("unheard-of"))])], 3
    )
    assert shop.ids()[:2] == ["i7", "unheard-of"]


def test_two_pins_on_one_slot_are_settled_by_priority() -> None:
    shop = Shop(
        rule({"type": "pin", "item_id": "i8", "slot": 1}),
        rule({"type": "pin", "item_id": "i9", "slot": 1}, priority=1),
    )
    assert numbers(shop.ids()) == [9, 0, 1, 2, 3]


def test_the_lower_pin_has_the_slot_while_the_higher_cannot_appear() -> None:
    shop = Shop(
        rule({"type": "pin", "item_id": "i8", "slot": 1}),
        rule({"type": "pin", "item_id": "i9", "slot": 1}, priority=1),
        items=[item(n, available=n != 9) for n in range(12)],
    )
    assert numbers(shop.ids()) == [8, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("pin", "exclude", "first"), [(0, 0, "i0"), (1, 0, "i5"), (0, 1, "i0"), (1, 1, "i0")]
)
def test_pinned_and_excluded_is_settled_by_priority(pin: int, exclude: int, first: str) -> None:
    shop = Shop(
        rule({"type": "pin", "item_id": "i5", "slot": 1}, priority=pin),
        rule({"type": "exclude", "items": listed("i5")}, priority=exclude),
    )
    ids = shop.ids(12)
    assert ids[0] == first
    assert ("i5" in ids) == (first == "i5")


def test_a_pinned_seed_is_not_recommended_to_itself() -> None:
    shop = Shop(rule({"type": "pin", "item_id": "i5", "slot": 1}))
    assert shop.ids()[0] == "i5"
    assert shop.ids(seeds=["i5"])[0] == "i0"


def test_fill_takes_the_best_that_match_then_the_newest_of_the_catalogue() -> None:
    shop = Shop(rule({"type": "fill", "slots": [1, 3], "items": BOLT}))
    pool, _ = shop.pool()
    assert numbers([shop.index.ids[row] for row in pool.rows]) == [1, 0, 4, 2, 3]
    assert pool.slotted is not None
    assert pool.slotted.tolist() == [True, False, True, False, False]
    items = [item(n, created=int(NOW) - n * DAY) for n in range(12)]
    shop = Shop(rule({"type": "fill", "slots": [1, 3], "items": BOLT}), items=items)
    assert numbers(shop.ids(3, offers=[["i0", "i2", "i3", "i5"]])) == [1, 0, 4]


def test_fill_keeps_the_last_ones_that_match_for_its_slots() -> None:
    shop = Shop(rule({"type": "fill", "slots": [5], "items": listed("i0")}))
    assert numbers(shop.ids()) == [1, 2, 3, 4, 0]


def test_same_as_the_seed_and_different_from_it() -> None:
    same = Shop(rule({"type": "same_as_seed", "attribute": "brand"}))
    assert numbers(same.ids(seeds=["i0"])) == [3, 6, 9]
    assert numbers(same.ids()) == [0, 1, 2, 3, 4]  # nothing to compare with
    assert numbers(same.ids(seeds=["i0", "i1"])) == [3, 4, 6, 7, 9]
    different = Shop(rule({"type": "different_from_seed", "attribute": "brand"}))
    assert numbers(different.ids(seeds=["i0"])) == [1, 2, 4, 5, 7]


def test_the_category_is_the_most_specific_group() -> None:
    same = Shop(rule({"type": "same_as_seed", "attribute": "group_id"}), items=24)
    assert numbers(same.ids(seeds=["i1"])) == [9, 17]


def test_the_price_band_of_the_seed() -> None:
    band = {"type": "same_as_seed", "attribute": "price", "bands": [30, 60]}
    same = Shop(rule(band))
    assert numbers(same.ids(seeds=["i0"])) == [1, 2]  # up to 30
    assert numbers(same.ids(seeds=["i3"])) == [4, 5]  # over 30, up to 60
    assert numbers(same.ids(seeds=["i11"])) == [6, 7, 8, 9, 10]
    other = Shop(rule({**band, "type": "different_from_seed"}))
    assert numbers(other.ids(seeds=["i0"])) == [3, 4, 5, 6, 7]


def test_price_bounds_relative_to_the_seed() -> None:
    shop = Shop(rule({"type": "price_of_seed", "at_least": 0.5, "at_most": 1.5}))
    assert numbers(shop.ids(9, seeds=["i5"])) == [2, 3, 4, 6, 7, 8]
    assert numbers(shop.ids(3)) == [0, 1, 2]
    lacking = Shop(
        rule({"type": "price_of_seed", "at_most": 2}),
        items=[item(n, price=None if n == 2 else 10.0) for n in range(5)],
    )
    assert numbers(lacking.ids(seeds=["i0"])) == [1, 3, 4]
    assert numbers(lacking.ids(seeds=["i2"])) == [0, 1, 3, 4]


def test_at_most_so_many_of_a_value_among_the_first() -> None:
    cap = {"type": "at_most", "count": 1, "attribute": "brand", "first": 3}
    shop = Shop(rule(cap), items=[item(3 * n) for n in range(4)] + [item(1), item(2)])
    # All acme first: of the first three one, and what waited comes right after.
    assert numbers(shop.ids(6)) == [0, 1, 2, 3, 6, 9]
    none = Shop(rule({"type": "at_most", "count": 0, "attribute": "brand", "values": ["bolt"]}))
    assert numbers(none.ids()) == [0, 2, 3, 5, 6]


def test_a_cap_on_groups_is_on_the_nearest_one_unless_another_is_named() -> None:
    items = [
        item(n, attributes={"group_id": (f"leaf{n // 2}", "branch", "root")}) for n in range(8)
    ]
    nearest = Shop(rule({"type": "at_most", "count": 1, "attribute": "group_id"}), items=items)
    assert numbers(nearest.ids()) == [0, 2, 4, 6]
    named = {"type": "at_most", "count": 3, "attribute": "group_id", "values": ["branch"]}
    assert numbers(Shop(rule(named), items=items).ids()) == [0, 1, 2]


def test_a_list_is_short_rather_than_over_its_cap() -> None:
    shop = Shop(rule({"type": "at_most", "count": 1, "attribute": "brand"}))
    assert numbers(shop.ids()) == [0, 1, 2]


def test_pins_count_for_caps_and_stay() -> None:
    shop = Shop(
        rule(
            {"type": "pin", "item_id": "i3", "slot": 5},
            {"type": "pin", "item_id": "i6", "slot": 4},
            {"type": "at_most", "count": 1, "attribute": "brand", "values": ["acme"]},
        )
    )
    assert numbers(shop.ids()) == [1, 2, 4, 6, 3]


def test_at_least_so_many_percent_spread_over_the_list() -> None:
    shop = Shop(
        rule({"type": "at_least", "percent": 50, "items": ACME}),
        items=[item(n) for n in (1, 2, 4, 5, 7, 8, 0, 3, 6)],
    )
    assert numbers(shop.ids(6)) == [1, 0, 2, 3, 4, 6]


def test_a_share_counts_pins_and_looks_ahead_of_them() -> None:
    shop = Shop(
        rule(
            {"type": "pin", "item_id": "i1", "slot": 3},
            {"type": "pin", "item_id": "i2", "slot": 4},
            {"type": "at_least", "percent": 50, "items": ACME},
        ),
        items=[item(n) for n in (1, 2, 4, 5, 0, 3)],
    )
    assert numbers(shop.ids(4)) == [0, 3, 1, 2]


def test_two_shares_that_no_item_serves_both() -> None:
    shop = Shop(
        rule(
            {"type": "at_least", "percent": 50, "items": ACME},
            {"type": "at_least", "percent": 50, "items": BOLT},
        ),
        items=[item(n) for n in (2, 5, 8, 0, 1)],
    )
    assert sorted(numbers(shop.ids(2))) == [0, 1]


def test_a_share_is_brought_from_the_catalogue_where_strategies_have_too_little() -> None:
    shop = Shop(rule({"type": "at_least", "percent": 40, "items": ACME}))
    ids = shop.ids(5, offers=[["i1", "i2", "i4", "i5", "i7", "i8"]])
    assert len(ids) == 5
    assert sum(n % 3 == 0 for n in numbers(ids)) == 2


@pytest.mark.parametrize(
    ("what", "left_out"),
    [("bought", [1, 4]), ("viewed", [2]), ("clicked", [3]), ("in_cart", [5])],
)
def test_leave_out_what_the_shopper_did(what: str, left_out: list[int]) -> None:
    acts = [
        ("i4", EventType.PURCHASE, 1.0 * DAY),
        ("i1", EventType.PURCHASE, 2.0 * DAY),
        ("i4", EventType.CART, 2.5 * DAY),  # bought since
        ("i5", EventType.CART, 3.0 * DAY),
        ("i3", EventType.CLICK, 4.0 * DAY),
        ("i2", EventType.VIEW, 5.0 * DAY),
        ("i0", EventType.VIEW, 50.0 * DAY),
        ("i0", EventType.PURCHASE, 50.0 * DAY),
    ]
    shop = Shop(rule({"type": "leave_out", "what": what, "days": 10}))
    assert sorted(set(range(12)) - set(numbers(shop.ids(12, acts=acts)))) == left_out
    assert shop.rules.is_personal("pod")
    assert len(shop.ids(12)) == 12


def test_minimum_relevance_is_relative_to_the_strategy_s_best() -> None:
    shop = Shop(rule({"type": "min_relevance", "at_least": 0.5}))
    offers = [["i0", "i1", "i2"], ["i3", "i4", "i5"]]
    assert numbers(shop.ids(6, offers=offers, scores=[8.0, 4.0, 3.9])) == [0, 1, 3, 4]
    assert numbers(shop.ids(6, offers=offers, scores=[-3.0, -4.0, -4.1])) == [0, 1, 3, 4]


def rotated(hour: int, **rotate: Any) -> list[int]:
    shop = Shop(rule({"type": "rotate", "every": "hour", **rotate}))
    user = rotate.get("user")
    return numbers(
        shop.ids(
            12, now=NOW + hour * 3600, scores=[1.0] * 6 + [0.5] * 6, shopper=Shopper(user_id=user)
        )
    )


def test_equals_take_turns_from_period_to_period() -> None:
    lists = [rotated(hour) for hour in range(24)]
    assert len({tuple(found) for found in lists}) > 12
    for found in lists:
        assert sorted(found[:6]) == [0, 1, 2, 3, 4, 5]  # equals change places with equals only
        assert sorted(found[6:]) == [6, 7, 8, 9, 10, 11]
    assert len({found[0] for found in lists}) >= 5
    assert rotated(3) == rotated(3)


def test_rotation_may_differ_from_shopper_to_shopper() -> None:
    shop = Shop(rule({"type": "rotate", "every": "week", "per_shopper": True}))
    lists = {
        tuple(shop.ids(12, scores=[1.0] * 12, shopper=Shopper(user_id=str(n)))) for n in range(10)
    }
    assert len(lists) == 10
    together = Shop(rule({"type": "rotate", "every": "week"}))
    lists = {
        tuple(together.ids(12, scores=[1.0] * 12, shopper=Shopper(user_id=str(n))))
        for n in range(10)
    }
    assert len(lists) == 1


def test_rotation_keeps_to_the_first_and_to_the_tolerance() -> None:
    assert rotated(5, first=1) == list(range(12))
    shop = Shop(rule({"type": "rotate", "every": "hour", "tolerance": 0}))
    assert numbers(shop.ids(12)) == list(range(12))


# Conditions


def active(when: Mapping[str, Any], **facts: Any) -> bool:
    """Whether a rule with the condition is, for a request."""
    shop = Shop(
        rule({"type": "exclude", "items": {"type": "every"}}, when=when),
        expressions={"reds": RED, "acme-reds": {"type": "and", "of": [
            {"type": "named", "name": "reds"}, ACME]}},
    )  # fmt: skip
    return not shop.ids(**facts)


BETWEEN = {
    "type": "between",
    "start": "2026-11-24T11:00:00Z",
    "end": "2026-11-24T14:00:00+01:00",
}


def at(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("when", "facts", "expected"),
    [
        ({"type": "pod", "ids": ["pod"]}, {}, True),
        ({"type": "pod", "ids": ["pod"]}, {"pod": "other"}, False),
        ({"type": "strategy", "ids": ["first"]}, {}, True),
        ({"type": "strategy", "ids": ["similar"]}, {}, True),
        ({"type": "strategy", "ids": ["popular"]}, {}, False),
        ({"type": "strategy", "ids": ["popular"]}, {"offers": [[], ["i0"]]}, True),
        ({"type": "seed", "items": RED}, {"seeds": ["i2"]}, True),
        ({"type": "seed", "items": RED}, {"seeds": ["i1"]}, False),
        ({"type": "seed", "items": RED}, {"seeds": ["i1", "i0"]}, True),
        ({"type": "seed", "items": RED}, {"seeds": ["nope"]}, False),
        ({"type": "not", "of": {"type": "seed", "items": RED}}, {}, True),
        ({"type": "seed", "items": {"type": "new", "days": 101}}, {"seeds": ["i1"]}, True),
        ({"type": "seed", "items": {"type": "new", "days": 99}}, {"seeds": ["i1"]}, False),
        ({"type": "seed", "items": {"type": "named", "name": "acme-reds"}},
         {"seeds": ["i6"]}, True),
        ({"type": "seed", "items": {"type": "named", "name": "acme-reds"}},
         {"seeds": ["i3"]}, False),
        ({"type": "seed", "items": {"type": "range", "attribute": "price", "at_most": 20}},
         {"seeds": ["i1"]}, True),
        ({"type": "seed", "items": {"type": "range", "attribute": "price", "at_least": 21}},
         {"seeds": ["i1"]}, False),
        ({"type": "filter", "name": "color"}, {"filters": {"color": ("red",)}}, True),
        ({"type": "filter", "name": "color"}, {"filters": {"size": ("red",)}}, False),
        ({"type": "filter", "name": "color", "values": ["red"]},
         {"filters": {"color": ("blue", "red")}}, True),
        ({"type": "filter", "name": "color", "values": ["red"]},
         {"filters": {"color": ("blue",)}}, False),
        ({"type": "term", "terms": ["Red  Shoes"]}, {"term": " red shoes"}, True),
        ({"type": "term", "terms": ["shoes"]}, {"term": "red shoes"}, False),
        ({"type": "term", "terms": ["shoes"], "match": "contains"}, {"term": "red shoes"}, True),
        ({"type": "term", "terms": ["red"], "match": "starts_with"}, {"term": "red shoes"}, True),
        ({"type": "term", "terms": ["shoes"], "match": "starts_with"},
         {"term": "red shoes"}, False),
        ({"type": "term", "terms": ["shoes"]}, {}, False),
        ({"type": "segment", "ids": ["vip", "staff"]}, {"segments": ("staff",)}, True),
        ({"type": "segment", "ids": ["vip"]}, {"segments": ("staff",)}, False),
        ({"type": "shopper", "attribute": "country", "values": ["de", "at"]},
         {"segments": ("country:at",)}, True),
        ({"type": "shopper", "attribute": "country", "values": ["de"]},
         {"segments": ("country:at",)}, False),
        ({"type": "shopper", "attribute": "known", "values": ["true"]},
         {"shopper": Shopper(user_id="u")}, True),
        ({"type": "shopper", "attribute": "known", "values": ["true"]},
         {"shopper": Shopper(client_id="c")}, False),
        ({"type": "shopper", "attribute": "known", "values": ["false"]}, {}, True),
        ({"type": "acted", "what": "bought", "days": 7},
         {"acts": [("i1", EventType.PURCHASE, 6.0 * DAY)]}, True),
        ({"type": "acted", "what": "bought", "days": 7},
         {"acts": [("i1", EventType.PURCHASE, 8.0 * DAY)]}, False),
        ({"type": "acted", "what": "viewed", "days": 7, "items": RED},
         {"acts": [("i1", EventType.VIEW, 1.0)]}, False),
        ({"type": "acted", "what": "viewed", "days": 7, "items": RED},
         {"acts": [("i1", EventType.VIEW, 1.0), ("i2", EventType.VIEW, 2.0)]}, True),
        ({"type": "cell", "experiment": "e", "cells": ["b"]}, {"cells": {"e": "b"}}, True),
        ({"type": "cell", "experiment": "e", "cells": ["b"]}, {"cells": {"e": "a"}}, False),
        ({"type": "cell", "experiment": "e", "cells": ["b"]}, {"cells": {"f": "b"}}, False),
        (BETWEEN, {"now": at("2026-11-24T10:59:59+00:00")}, False),
        (BETWEEN, {"now": at("2026-11-24T11:00:00+00:00")}, True),
        (BETWEEN, {"now": at("2026-11-24T12:59:59+00:00")}, True),
        (BETWEEN, {"now": at("2026-11-24T13:00:00+00:00")}, False),
        ({"type": "and", "of": [{"type": "segment", "ids": ["a"]},
                                {"type": "segment", "ids": ["b"]}]},
         {"segments": ("b",)}, False),
        ({"type": "and", "of": [{"type": "segment", "ids": ["a"]},
                                {"type": "segment", "ids": ["b"]}]},
         {"segments": ("b", "a")}, True),
        ({"type": "or", "of": [{"type": "segment", "ids": ["a"]},
                               {"type": "pod", "ids": ["elsewhere"]}]},
         {"segments": ("a",)}, True),
        ({"type": "or", "of": [{"type": "segment", "ids": ["a"]},
                               {"type": "not", "of": {"type": "segment", "ids": ["b"]}}]},
         {"segments": ("b",)}, False),
        ({"type": "not", "of": {"type": "and", "of": [{"type": "pod", "ids": ["pod"]},
                                                      {"type": "segment", "ids": ["b"]}]}},
         {"segments": ("b",)}, False),
    ],
)  # fmt: skip
def test_a_condition_holds_or_not(
    when: dict[str, Any], facts: dict[str, Any], expected: bool
) -> None:
    assert active(when, **facts) is expected


WEEKLY = {"type": "weekly", "zone": "Europe/London", "days": ["sat"], "start": "09:00"}


@pytest.mark.parametrize(
    ("change", "now", "expected"),
    [
        ({"end": "17:00"}, "2026-11-28T09:00:00+00:00", True),
        ({"end": "17:00"}, "2026-11-28T08:59:00+00:00", False),
        ({"end": "17:00"}, "2026-11-28T17:00:00+00:00", False),
        ({"end": "17:00"}, "2026-11-27T10:00:00+00:00", False),
        ({"end": "17:00"}, "2026-07-04T08:30:00+00:00", True),  # 09:30 of British summer
        ({"start": "22:00", "end": "02:00"}, "2026-11-28T23:00:00+00:00", True),
        ({"start": "22:00", "end": "02:00"}, "2026-11-29T01:00:00+00:00", True),
        ({"start": "22:00", "end": "02:00"}, "2026-11-28T01:00:00+00:00", False),
        ({}, "2026-11-28T23:59:59+00:00", True),
        ({"zone": "Asia/Tokyo"}, "2026-11-28T00:00:00+00:00", True),
        ({"zone": "Asia/Tokyo"}, "2026-11-27T23:59:00+00:00", False),
    ],
)
def test_weekly_hours_by_the_clock_of_a_zone(
    change: dict[str, Any], now: str, expected: bool
) -> None:
    assert active({**WEEKLY, **change}, now=at(now)) is expected


def test_a_rule_that_is_not_enabled_does_nothing() -> None:
    assert numbers(Shop(rule({"type": "exclude", "items": RED}, enabled=False)).ids(3)) == [0, 1, 2]


def test_with_a_strategy_as_condition_only_what_it_brought_is_left_out() -> None:
    shop = Shop(rule(ONLY_RED, when={"type": "strategy", "ids": ["second"]}))
    assert numbers(shop.ids(6, offers=[["i0", "i1"], ["i2", "i3", "i4"]])) == [0, 1, 2, 4]


def test_rules_follow_the_catalogue() -> None:
    shop = Shop(rule({"type": "exclude", "items": RED}))
    assert numbers(shop.ids(3)) == [1, 3, 5]
    shop.index.apply(
        [shop.index.prepare([item(1, attributes={"color": ("red",)}),
                             item(2, attributes={"color": ("blue",)})])], 2
    )  # fmt: skip
    assert numbers(shop.ids(3)) == [2, 3, 5]
    assert shop.rules.catch_up()
    assert numbers(shop.ids(3)) == [2, 3, 5]


def test_new_items_are_counted_back_from_the_request() -> None:
    items = [item(n, created=int(NOW) - n * DAY - 60) for n in range(12)]
    shop = Shop(rule({"type": "include_only", "items": {"type": "new", "days": 3}}), items=items)
    assert numbers(shop.ids(12)) == [0, 1, 2]
    assert numbers(shop.ids(12, now=NOW + DAY)) == [0, 1]


def test_how_long_a_ruling_stands_is_said() -> None:
    def expires(*then: Any, when: Any = None) -> float:
        shop = Shop(rule(*then, when=when))
        facts = Facts(request=RecommendationRequest(pod_id="pod"), now=NOW + 61)
        ruling = ruling_for(shop.rules, facts, CHAIN)
        return math.inf if ruling is None else ruling.expires

    assert expires(ONLY_RED) == math.inf
    assert expires(ONLY_RED, when=BETWEEN) == at("2026-11-24T13:00:00+00:00")
    later = {"type": "between", "start": "2026-11-30T00:00:00Z"}
    assert expires(ONLY_RED, when=later) == at("2026-11-30T00:00:00+00:00")
    assert expires({"type": "exclude", "items": {"type": "new", "days": 1}}) == NOW + 120
    assert expires({"type": "rotate", "every": "hour"}) == NOW + 3600
    assert expires({"type": "rotate", "every": "week"}) == at("2026-11-30T00:00:00+00:00")


def test_a_strategy_is_told_what_may_stay_where_that_is_little() -> None:
    def told(shop: Shop) -> list[bool] | None:
        facts = Facts(request=RecommendationRequest(pod_id="pod"), now=NOW)
        ruling = ruling_for(shop.rules, facts, CHAIN)
        assert ruling is not None
        mask = ruling.eligible(rows, 0)
        assert ruling.whole_catalogue is (mask is not None)
        return None if mask is None else mask.tolist()

    rows = np.array([9, 3, 1, 6, 0], np.int32)
    acme = Shop(rule({"type": "include_only", "items": ACME}))
    acme.rules.catch_up()
    assert told(acme) == [True, True, False, True, True]
    acme.index.apply(
        [acme.index.prepare([item(3, available=False), item(1, attributes={"brand": ("acme",)})])],
        2,
    )
    assert told(acme) == [True, False, True, True, True]
    most = Shop(rule({"type": "exclude", "items": ACME}))
    most.rules.catch_up()
    assert told(most) is None


def test_groups_of_rules_with_different_conditions_add_up() -> None:
    def out(*ns: int) -> list[dict[str, Any]]:
        return [{"type": "exclude", "items": listed(f"i{n}")} for n in ns]

    def up(n: int) -> dict[str, Any]:
        return {"type": "boost", "items": listed(f"i{n}"), "strength": 2}

    vip = {"type": "segment", "ids": ["vip"]}
    new = {"type": "segment", "ids": ["new"]}
    shop = Shop(
        rule(*out(0, 1), up(7), up(7)), rule(*out(2, 3), up(7), when=vip), rule(*out(4), when=new)
    )
    for _ in range(4):  # whether they are added up for every signature or for these
        assert numbers(shop.ids(3)) == [2, 7, 3]  # seventh, and sixth that is left: as if at 1.5
        assert numbers(shop.ids(3, segments=("vip",))) == [7, 4, 5]
        assert numbers(shop.ids(3, segments=("vip", "new"))) == [7, 5, 6]
        assert numbers(shop.ids(3, segments=("new",))) == [2, 7, 3]


def test_only_one_strategy_s_candidates_are_each_other_s_equals() -> None:
    shop = Shop(rule({"type": "rotate", "every": "hour", "tolerance": 1}))
    offers = [["i0", "i1", "i2", "i3"], ["i4", "i5", "i6", "i7"]]
    for hour in range(12):
        ids = numbers(shop.ids(8, offers=offers, scores=[1.0] * 4, now=NOW + hour * 3600))
        assert sorted(ids[:4]) == [0, 1, 2, 3]


def test_what_is_brought_from_the_catalogue_is_what_the_request_allows() -> None:
    only = listed("i9", "i10")
    shop = Shop(rule({"type": "fill", "slots": [1], "items": only}))
    offers = [["i0", "i1", "i2"]]
    assert numbers(shop.ids(3, offers=offers, seeds=["i9"])) == [10, 0, 1]
    assert numbers(shop.ids(3, offers=offers, seeds=["i10"])) == [9, 0, 1]
    assert numbers(shop.ids(3, offers=offers, seeds=["i9", "i10"])) == [0, 1, 2]


def test_programs_say_the_same_when_they_are_added_up_and_when_not() -> None:
    rules = [
        rule({"type": "boost", "items": listed(f"i{n}", f"i{n + 1}"), "strength": 1 + n % 10})
        for n in range(11)
    ] + [rule({"type": "exclude", "items": listed("i3")}), rule(ONLY_RED, priority=3)]
    shop = Shop(*rules)
    assert len({tuple(shop.ids(12)) for _ in range(5)}) == 1


def test_work_ahead_of_requests_is_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.domain.rule_table.WORK", 1)  # as with thousands of rules
    rules = [
        rule({"type": "boost", "items": listed(f"i{n}"), "strength": 1 + n % 10})
        for n in range(700)
    ]
    shop, other = Shop(*rules, items=700), Shop(*rules, items=700)
    signed = []
    while not shop.rules.catch_up():
        signed.append(int(shop.rules.signatures.sizes().sum()))
    assert signed[:3] == [256, 512, 700], "rows are signed 256 at a time"
    assert len(signed) == 3 + 2, "then their sums are made likewise, once for both pods"
    assert shop.ids(40) == other.ids(40), "the same as when nothing was done ahead"


# What always holds

ITEM_TESTS = st.one_of(
    st.sampled_from(BRANDS).map(lambda v: {"type": "is", "attribute": "brand", "values": [v]}),
    st.sampled_from(["red", "blue"]).map(
        lambda v: {"type": "is", "attribute": "color", "values": [v]}
    ),
    st.integers(0, 250).map(lambda v: {"type": "range", "attribute": "price", "at_most": v}),
    st.lists(st.integers(0, 25), min_size=1, max_size=4).map(
        lambda ns: listed(*(f"i{n}" for n in ns))
    ),
    st.integers(1, 30).map(lambda v: {"type": "new", "days": v}),
)
EXPRESSIONS = st.recursive(
    ITEM_TESTS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda of: {"type": "and", "of": of}),
        st.lists(inner, min_size=1, max_size=3).map(lambda of: {"type": "or", "of": of}),
        inner.map(lambda of: {"type": "not", "of": of}),
    ),
    max_leaves=4,
)
SLOTS = st.integers(1, 12)
PINS = st.builds(
    lambda n, slot: {"type": "pin", "item_id": f"i{n}", "slot": slot}, st.integers(0, 25), SLOTS
)
CAPS = st.builds(
    lambda count, attribute, first: {
        "type": "at_most", "count": count, "attribute": attribute, "first": first},
    st.integers(0, 4), st.sampled_from(["brand", "color"]), SLOTS,
)  # fmt: skip
SHARES = st.builds(
    lambda percent, items: {"type": "at_least", "percent": percent, "items": items},
    st.integers(1, 100),
    EXPRESSIONS,
)
OTHERS = st.one_of(
    PINS,
    CAPS,
    SHARES,
    st.builds(lambda slots, items: {"type": "fill", "slots": sorted(slots), "items": items},
              st.sets(SLOTS, min_size=1, max_size=3), EXPRESSIONS),
    st.builds(lambda items, s: {"type": "boost", "items": items, "strength": s},
              EXPRESSIONS, st.integers(1, 10)),
    st.builds(lambda items, s: {"type": "bury", "items": items, "strength": s},
              EXPRESSIONS, st.integers(1, 10)),
    EXPRESSIONS.map(lambda items: {"type": "include_only", "items": items}),
    EXPRESSIONS.map(lambda items: {"type": "exclude", "items": items}),
    st.just({"type": "rotate", "every": "day", "tolerance": 0.2}),
    st.floats(0, 1).map(lambda v: {"type": "min_relevance", "at_least": v}),
    st.just({"type": "same_as_seed", "attribute": "brand"}),
    st.just({"type": "different_from_seed", "attribute": "price", "bands": [50, 100]}),
    st.just({"type": "price_of_seed", "at_most": 3}),
    st.just({"type": "leave_out", "what": "bought", "days": 9}),
)  # fmt: skip
CONDITIONS = st.one_of(
    st.none(),
    st.just({"type": "pod", "ids": ["pod"]}),
    st.just({"type": "segment", "ids": ["vip"]}),
    st.just({"type": "seed", "items": RED}),
    st.just({"type": "strategy", "ids": ["similar"]}),
)
RULES = st.lists(
    st.builds(
        lambda then, when, priority: rule(*then, when=when, priority=priority),
        st.lists(OTHERS, min_size=1, max_size=3),
        CONDITIONS,
        st.integers(-2, 2),
    ),
    max_size=5,
)
CATALOGUES = st.lists(
    st.tuples(st.booleans() | st.just(True), st.integers(0, 40)), min_size=1, max_size=26
).map(
    lambda rows: [
        item(n, available=available, created=int(NOW) - age * DAY)
        for n, (available, age) in enumerate(rows)
    ]
)
REQUESTS = st.fixed_dictionaries(
    {
        "want": st.integers(1, 12),
        "seeds": st.lists(st.integers(0, 25).map("i{}".format), max_size=2),
        "segments": st.sampled_from([(), ("vip",)]),
        "acts": st.lists(
            st.tuples(st.integers(0, 25).map("i{}".format), st.sampled_from(EventType),
                      st.floats(0, 20 * DAY)),
            max_size=4,
        ),
    }
)  # fmt: skip


def offers_of(items: Sequence[ItemFeatures], offered: int) -> list[list[str]]:
    ids = [i.id for i in items][:offered]
    return [ids[: len(ids) // 2], ids[len(ids) // 2 :]]


def request_for(shop: Shop, facts: Mapping[str, Any], offered: int = 26) -> tuple[Pool, Selection]:
    known = {i.id for i in shop.items}
    acts = [act for act in facts["acts"] if act[0] in known]
    return shop.pool(**{**facts, "acts": acts}, offers=offers_of(shop.items, offered))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    items=CATALOGUES, rules=RULES, excluded=EXPRESSIONS, facts=REQUESTS, offered=st.integers(0, 26)
)
def test_an_excluded_item_never_appears(
    items: list[ItemFeatures], rules: list[Any], excluded: Any, facts: Any, offered: int
) -> None:
    shop = Shop(*rules, rule({"type": "exclude", "items": excluded}, priority=2), items=items)
    pool, _ = request_for(shop, facts, offered)
    test = Shop(rule({"type": "include_only", "items": excluded}), items=items)
    every, _ = test.pool(len(items))
    assert not set(pool.rows.tolist()) & set(every.rows.tolist())


@settings(max_examples=EXAMPLES, deadline=None)
@given(items=CATALOGUES, rules=RULES, facts=REQUESTS, offered=st.integers(0, 26))
def test_a_list_has_no_item_twice_none_that_is_away_and_is_the_same_again(
    items: list[ItemFeatures], rules: list[Any], facts: Any, offered: int
) -> None:
    shop = Shop(*rules, items=items)
    pool, _ = request_for(shop, facts, offered)
    rows = pool.rows.tolist()
    assert len(rows) == len(set(rows)) <= facts["want"]
    assert all(items[row].available for row in rows)
    assert not {items[row].id for row in rows} & set(facts["seeds"])
    for _ in range(2):
        again, _ = request_for(shop, facts, offered)
        assert again.rows.tolist() == rows
    fresh, _ = request_for(Shop(*rules, items=items), facts, offered)
    assert fresh.rows.tolist() == rows


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    items=CATALOGUES,
    pins=st.dictionaries(SLOTS, st.integers(0, 25), max_size=5),
    rules=RULES,
    facts=REQUESTS,
)
def test_pins_stand_where_they_are_set(
    items: list[ItemFeatures], pins: dict[int, int], rules: list[Any], facts: Any
) -> None:
    pins = {slot: n for slot, n in pins.items() if list(pins.values()).count(n) == 1}
    actions = [{"type": "pin", "item_id": f"i{n}", "slot": slot} for slot, n in pins.items()]
    above = [rule(*actions, priority=9)] if actions else []
    shop = Shop(*rules, *above, items=items)
    pool, _ = request_for(shop, facts)
    ids = [items[row].id for row in pool.rows.tolist()]
    for slot, n in pins.items():
        able = n < len(items) and items[n].available and f"i{n}" not in facts["seeds"]
        if able and slot <= len(ids):
            assert ids[slot - 1] == f"i{n}"
        elif able and slot <= facts["want"]:
            assert f"i{n}" in ids  # a list too short for the slot


@settings(max_examples=EXAMPLES, deadline=None)
@given(items=CATALOGUES, cap=CAPS, rules=RULES, facts=REQUESTS)
def test_caps_hold(items: list[ItemFeatures], cap: Any, rules: list[Any], facts: Any) -> None:
    unpinned = [
        {**r, "then": [a for a in r["then"] if a["type"] != "pin"] or [ONLY_RED]} for r in rules
    ]
    shop = Shop(*unpinned, rule(cap), items=items)
    pool, _ = request_for(shop, facts)
    first = pool.rows.tolist()[: cap["first"]]
    values = [items[row].attributes[cap["attribute"]][0] for row in first]
    assert all(values.count(value) <= cap["count"] for value in values)


@settings(max_examples=EXAMPLES, deadline=None)
@given(items=CATALOGUES, share=SHARES, facts=REQUESTS, data=st.data())
def test_shares_hold_while_enough_match(
    items: list[ItemFeatures], share: Any, facts: Any, data: st.DataObject
) -> None:
    boosts = data.draw(
        st.lists(
            st.builds(
                lambda items, s: rule({"type": "boost", "items": items, "strength": s}),
                EXPRESSIONS,
                st.integers(1, 10),
            ),
            max_size=3,
        )
    )
    shop = Shop(*boosts, rule(share), items=items)
    pool, _ = request_for(shop, facts)
    test = Shop(rule({"type": "include_only", "items": share["items"]}), items=items)
    matching = set(request_for(test, {**facts, "want": 26})[0].rows.tolist())
    rows = pool.rows.tolist()
    hits = [row in matching for row in rows]
    needed = math.ceil(len(rows) * share["percent"] / 100 - 1e-9)
    if len(matching) >= needed:
        assert sum(hits) >= needed
        for k in range(1, len(rows) + 1):  # spread over the list
            assert sum(hits[:k]) >= k * needed // len(rows)
    else:
        assert sum(hits) == len(matching)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    items=CATALOGUES, excluded=EXPRESSIONS, only=EXPRESSIONS, facts=REQUESTS, pins=st.lists(PINS)
)
def test_a_list_is_full_while_enough_qualify(
    items: list[ItemFeatures], excluded: Any, only: Any, facts: Any, pins: list[Any]
) -> None:
    leaving_out = rule(
        {"type": "exclude", "items": excluded}, {"type": "include_only", "items": only}
    )
    shop = Shop(leaving_out, *(rule(pin) for pin in pins), items=items)
    pool, _ = request_for(shop, facts)
    qualifying = Shop(leaving_out, items=items)
    count = len(request_for(qualifying, {**facts, "want": 26})[0])
    assert len(pool) == min(count, facts["want"])


@settings(max_examples=EXAMPLES, deadline=None)
@given(items=CATALOGUES, before=RULES, after=RULES, same=st.booleans(), facts=REQUESTS)
def test_rules_that_replace_others_say_what_they_say_alone(
    items: list[ItemFeatures], before: list[Any], after: list[Any], same: bool, facts: Any
) -> None:
    shop = Shop(*before, items=items)
    request_for(shop, facts)
    after = before[::-1] if same else after
    shop.publish(*after)
    while not shop.rules.catch_up():
        pass
    replaced, alone = request_for(shop, facts)[0], request_for(Shop(*after, items=items), facts)[0]
    assert replaced.rows.tolist() == alone.rows.tolist()


def test_what_rules_ask_of_items_is_not_worked_out_again_where_it_is_the_same() -> None:
    shop = Shop(rule({"type": "boost", "items": RED, "strength": 2}))
    shop.ids()
    signatures = shop.rules.signatures
    shop.publish(rule({"type": "bury", "items": RED, "strength": 9}))
    assert shop.rules.signatures is signatures
    assert numbers(shop.ids()) == [1, 3, 5, 7, 9]
    shop.publish(rule({"type": "bury", "items": ACME, "strength": 9}))
    assert shop.rules.signatures is not signatures


item_tests = st.sampled_from(
    [RED, ACME, BOLT, {"type": "range", "attribute": "price", "at_most": 150}]
)
common_actions = (
    st.builds(lambda items: {"type": "exclude", "items": items}, item_tests)
    | st.builds(
        lambda kind, items, strength: {"type": kind, "items": items, "strength": strength},
        st.sampled_from(["boost", "bury"]),
        item_tests,
        st.integers(1, 10),
    )
    | st.builds(
        lambda count, first, attribute, values: {
            "type": "at_most", "count": count, "first": first, **attribute,
            **({"values": values} if values and attribute == {"attribute": "brand"} else {}),
        },
        st.integers(0, 4),
        st.integers(1, 20),
        st.sampled_from([{"attribute": "brand"}, {"attribute": "size"}, {"attribute": "group_id"}]),
        st.sampled_from([[], ["acme"], ["bolt", "core"]]),
    )
)  # fmt: skip


@settings(max_examples=4 * EXAMPLES, deadline=None)
@given(
    actions=st.lists(common_actions, max_size=6),
    order=st.permutations(range(30)),
    away=st.sets(st.integers(0, 29), max_size=6),
    sizes=st.lists(st.sets(st.sampled_from("smlx")), min_size=30, max_size=30),
    first=st.integers(0, 30),
    want=st.integers(1, 30),
)
def test_the_kernel_and_its_twin_choose_the_same(
    actions: list[Any],
    order: list[int],
    away: set[int],
    sizes: list[set[str]],
    first: int,
    want: int,
) -> None:
    items = [
        item(n, available=n not in away, attributes={"size": tuple(sorted(sizes[n]))})
        for n in range(30)
    ]
    shop = Shop(rule(*actions) if actions else rule(ONLY_RED), items=items)
    ids = [f"i{n}" for n in order]
    offers = [ids[:first], ids[first // 2 :]]  # the second offers some of the first's again

    def chosen() -> tuple[Any, ...]:
        pool, selection = shop.pool(want, offers=offers, seeds=["i3"])
        arrays = (pool.rows, pool.scores, pool.sources, pool.reasons)
        assert not shop.index.marks.any()
        types = [array.dtype for array in arrays]
        return types, [array.tolist() for array in arrays], selection.left_out, selection.count

    compiled = kernel.compiled
    if compiled is None:
        return  # the module's other turn compares them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule_program, "OFTEN", 0)
        patch.setattr(kernel, "compiled", None)
        expected = chosen()
        patch.setattr(kernel, "compiled", compiled)
        assert chosen() == expected
        assert chosen() == expected, "scratch is left clean"
