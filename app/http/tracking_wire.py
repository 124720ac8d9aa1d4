"""The storefront tracker's wire: one table says how each of its actions becomes a domain event.

Source: Constructor's public clients (`lib/modules/tracker.js`). A call's parameters come in the
query, in the JSON body (sent as text/plain), or in both; where they differ, the body counts.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from app.domain import fingerprint, personal_data
from app.domain.catalogue import DEFAULT_SECTION, ItemId, Section
from app.domain.errors import InvalidInput, TooLarge
from app.domain.event import Event, Line, Shopper
from app.domain.merchant import Merchant
from vitrine_sdk import EventType

MAX_ID: Final = 256  # characters of any id
MAX_TERM: Final = 1000  # characters; longer terms are cut
MAX_LINES: Final = 1000  # items of one event
MAX_PAST_SECONDS: Final = 30 * 86400.0
MAX_AHEAD_SECONDS: Final = 300.0
_INT64: Final = 2**63


class Items(enum.Enum):
    """Where an action names its items."""

    NONE = "none"
    ONE = "item_id"  # item_id, variation_id
    LIST = "items"  # items: [{item_id, variation_id, count, price}]


class Action(msgspec.Struct, frozen=True):
    """How one of the tracker's actions becomes an event."""

    type: EventType
    items: Items = Items.NONE
    without_item: EventType | None = None  # the type, where no item is named; None: the same
    term: str | None = None  # the parameter that holds the search term
    converts: bool = False  # the parameter `type` says what it is: a cart, or the merchant's own
    viewed: bool = False  # of the items, only the first `num_results_viewed` were seen


_STORED: Final = Action(EventType.OTHER)
_ITEM_CLICK: Final = Action(EventType.CLICK, Items.ONE)
_SEARCH_CLICK: Final = Action(EventType.CLICK, Items.ONE, term="search_term")
_CONVERSION: Final = Action(EventType.CONVERSION, Items.ONE, term="search_term", converts=True)

ACTIONS: Final[Mapping[str, Action]] = {
    # learned from
    "item_detail_load": Action(EventType.VIEW, Items.ONE),
    "recommendation_result_view": Action(EventType.IMPRESSION, Items.LIST, viewed=True),
    "recommendation_result_click": _ITEM_CLICK,
    "search_submit": Action(EventType.SEARCH, term="search_term"),
    "search_result_load": Action(EventType.SEARCH, term="search_term"),
    "search_result_click": _SEARCH_CLICK,
    "autocomplete_select": Action(
        EventType.CLICK, Items.ONE, without_item=EventType.SEARCH, term="user_input"
    ),
    "browse_result_click": _ITEM_CLICK,
    "result_click": _ITEM_CLICK,
    "quiz_result_click": _ITEM_CLICK,
    "assistant_search_result_click": _ITEM_CLICK,
    "product_insights_agent_result_click": _ITEM_CLICK,
    "conversion": _CONVERSION,
    "quiz_conversion": _CONVERSION,
    "purchase": Action(EventType.PURCHASE, Items.LIST),
    # stored
    "session_start": _STORED,
    "focus": _STORED,
    "impression_view": _STORED,
    "browse_result_load": _STORED,
    "browse_redirect": _STORED,
    "quiz_result_load": _STORED,
    "assistant_submit": _STORED,
    "assistant_result_load_start": _STORED,
    "assistant_result_load_finish": _STORED,
    "assistant_search_result_view": _STORED,
    "assistant_search_submit": _STORED,
    "product_insights_agent_view": _STORED,
    "product_insights_agent_views": _STORED,
    "product_insights_agent_out_of_view": _STORED,
    "product_insights_agent_focus": _STORED,
    "product_insights_agent_question_click": _STORED,
    "product_insights_agent_question_submit": _STORED,
    "product_insights_agent_answer_view": _STORED,
    "product_insights_agent_answer_feedback": _STORED,
    "display_ad_view": _STORED,
    "display_ad_click": _STORED,
}
"""Below /v2/behavioral_action/, /v2/ad_behavioral_action/ and as `action` of /behavior."""


class TermAction(msgspec.Struct, frozen=True):
    """An older call, /autocomplete/{term}/<name>: the same action with other names."""

    action: str
    term: str  # the parameter that the path's term is
    renamed: Mapping[str, str] = {}


TERM_ACTIONS: Final[Mapping[str, TermAction]] = {
    "select": TermAction("autocomplete_select", "item_name", {"original_query": "user_input"}),
    "search": TermAction("search_submit", "search_term", {"original_query": "user_input"}),
    "click_through": TermAction(
        "search_result_click", "search_term", {"customer_id": "item_id", "name": "item_name"}
    ),
}

_TERM_UNKNOWN: Final = "TERM_UNKNOWN"  # what the client sends for a conversion without a term
_ADD_TO_CART: Final = "add_to_cart"  # a conversion's type where it says none

# Parameters of every action that become a field of the event, or say nothing that is kept.
_COMMON: Final = frozenset(
    [
        *("key", "i", "s", "ui", "_dt", "beacon", "action", "consent", "section", "order_id"),
        *("result_id", "pod_id", "strategy_id", "revenue"),
    ]
)


def _consumed(rule: Action) -> frozenset[str]:
    """Parameters that an action's event holds in fields; the rest is its payload."""
    names = set(_COMMON)
    if rule.term:
        names.add(rule.term)
    if rule.items is Items.ONE:
        names |= {"item_id", "variation_id"}
    elif rule.items is Items.LIST:
        names.add("items")
    if rule.converts:
        names.add("type")
    return frozenset(names)


_CONSUMED: Final[Mapping[str, frozenset[str]]] = {
    name: _consumed(rule) for name, rule in ACTIONS.items()
}

Parameters = dict[str, Any]


def convert(
    merchant: Merchant, key: str, action: str, parameters: Parameters, received: float
) -> Event:
    """The event that a call states. `received`: Unix seconds. `parameters`: query and body in one.

    Raises:
        InvalidInput: names the parameter and what it must be.
    """
    rule = ACTIONS.get(action)
    if rule is None:
        raise InvalidInput.field(
            "action", f"there is no action {action[:100]!r}; known are {', '.join(sorted(ACTIONS))}"
        )
    stated = _number(parameters, "_dt")
    stated_at = None if stated is None else stated / 1000.0
    shopper = Shopper(
        client_id=identifier(parameters, "i"),
        user_id=identifier(parameters, "ui"),
        session=_session(parameters),
    )
    order_id = identifier(parameters, "order_id")
    lines = _LINES[rule.items](parameters)
    if rule.viewed and (viewed := _number(parameters, "num_results_viewed")) is not None:
        lines = lines[: max(0, int(viewed))]
    type_ = rule.type if lines or rule.without_item is None else rule.without_item
    conversion_type = None
    if rule.converts:
        type_, conversion_type = _conversion(merchant, parameters)
    term = text(parameters.get(rule.term), rule.term) if rule.term else None
    consumed = _CONSUMED[action]
    return Event(
        merchant=merchant.id,
        type=type_,
        action=action,
        time=event_time(stated_at, received),
        received=received,
        shopper=shopper,
        fingerprint=(
            fingerprint.of_order(merchant.id, order_id)
            if type_ is EventType.PURCHASE and order_id is not None
            else fingerprint.of_tracked(
                key, shopper.client_id, shopper.session, action, parameters, stated_at
            )
        ),
        section=Section(identifier(parameters, "section") or DEFAULT_SECTION),
        lines=lines,
        revenue=amount(parameters.get("revenue"), "revenue"),
        order_id=order_id,
        result_id=identifier(parameters, "result_id"),
        pod_id=identifier(parameters, "pod_id"),
        strategy=identifier(parameters, "strategy_id"),
        term=None if term == _TERM_UNKNOWN else term,
        conversion_type=conversion_type,
        learn=type_ is not EventType.OTHER,
        payload=personal_data.scrub(
            {name: value for name, value in parameters.items() if name not in consumed}
        ),
    )


def consent(parameters: Parameters) -> bool | None:
    """What the event itself says of the shopper's consent; None: nothing."""
    value = parameters.get("consent")
    if value is None:
        return None
    return str(value).lower() not in ("false", "0", "no", "denied", "")


def event_time(stated_at: float | None, received: float) -> float:
    """The shopper's clock where it can be right, else ours; whole milliseconds.

    A public key is no reason to believe any time: one outside of the last 30 days would open
    partitions at will, one that is ahead would stay the newest for ever.
    """
    if stated_at is not None:
        behind = received - stated_at
        if -MAX_AHEAD_SECONDS <= behind <= MAX_PAST_SECONDS:
            return round(min(stated_at, received), 3)
    return round(received, 3)


def identifier(parameters: Mapping[str, Any], name: str) -> str | None:
    """An id, which JSON may give as a number; an empty one is none."""
    value = parameters.get(name)
    if type(value) is str and 0 < len(value) <= MAX_ID and "\x00" not in value:
        return value  # nearly always
    return as_identifier(value, name)


def as_identifier(value: Any, field: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InvalidInput.field(field, "must be a string")
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    name = str(value)
    if len(name) > MAX_ID:
        raise TooLarge.field(field, f"has {len(name)} characters, {MAX_ID} are allowed")
    if "\x00" in name:
        raise InvalidInput.field(field, "must not hold a NUL character")
    return name


def text(value: Any, field: str) -> str | None:
    """A search term without personal data, cut to its greatest length; None where it is empty."""
    if value is None:
        return None
    if isinstance(value, (dict, list, bool)):
        raise InvalidInput.field(field, "must be a string")
    cleaned = personal_data.scrub_text(str(value)[:MAX_TERM]).strip()
    return cleaned or None


def amount(value: Any, field: str, *, least: float = 0.0, most: float = 1e12) -> float | None:
    """A number, which the wire may give as text."""
    number = _as_number(value, field)
    if number is not None and not least <= number <= most:
        raise InvalidInput.field(field, f"must be a number from {least:g} to {most:g}")
    return number


def _number(parameters: Parameters, name: str) -> float | None:
    return _as_number(parameters.get(name), name)


def _as_number(value: Any, field: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput.field(field, "must be a number") from None
    if not math.isfinite(number):
        raise InvalidInput.field(field, "must be a finite number")
    return number


def _session(parameters: Parameters) -> int | None:
    number = _number(parameters, "s")
    if number is None:
        return None
    if not number.is_integer() or not -_INT64 <= number < _INT64:
        raise InvalidInput.field("s", "must be a whole number of 64 bits")
    return int(number)


def _no_lines(_: Parameters) -> tuple[Line, ...]:
    return ()


def _one_line(parameters: Parameters) -> tuple[Line, ...]:
    item_id = identifier(parameters, "item_id")
    if item_id is None:
        return ()  # the tracker may name an item by its name only: kept, but not learned from
    return (Line(item_id=ItemId(item_id), variation_id=identifier(parameters, "variation_id")),)


def _list_lines(parameters: Parameters) -> tuple[Line, ...]:
    items = parameters.get("items")
    if not items:
        return ()
    if not isinstance(items, list):
        raise InvalidInput.field("items", "must be a list of objects")
    if len(items) > MAX_LINES:
        raise TooLarge.field("items", f"holds {len(items)} items, {MAX_LINES} are allowed")
    lines = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidInput.field(f"/items/{index}", "must be an object with an item_id")
        item_id = as_identifier(item.get("item_id"), f"/items/{index}/item_id")
        if item_id is None:
            continue
        lines.append(
            Line(
                item_id=ItemId(item_id),
                variation_id=as_identifier(
                    item.get("variation_id"), f"/items/{index}/variation_id"
                ),
                quantity=_quantity(item, index),
                price=amount(item.get("price"), f"/items/{index}/price"),
            )
        )
    return tuple(lines)


def _quantity(item: dict[str, Any], index: int) -> float:
    name = "count" if "count" in item else "quantity"
    quantity = amount(item.get(name), f"/items/{index}/{name}", most=1e6)
    return 1.0 if quantity is None else quantity


_LINES: Final[Mapping[Items, Callable[[Parameters], tuple[Line, ...]]]] = {
    Items.NONE: _no_lines,
    Items.ONE: _one_line,
    Items.LIST: _list_lines,
}


def _conversion(merchant: Merchant, parameters: Parameters) -> tuple[EventType, str | None]:
    name = identifier(parameters, "type") or _ADD_TO_CART
    if name == _ADD_TO_CART:
        return EventType.CART, None
    known = merchant.tracking.conversion_types
    if name not in known and parameters.get("is_custom_type") not in (True, "true"):
        raise InvalidInput.field(
            "type",
            f"{name[:100]!r} is no conversion type of this merchant; known are "
            f"{', '.join((_ADD_TO_CART, *known))}; send is_custom_type with one of your own",
        )
    return EventType.CONVERSION, name
