"""The query of a recommendation request, as Constructor's clients write it.

Arrays come repeated (`item_id=a&item_id=b`), objects with brackets (`filters[color]=red`), both
nested; some parameters are JSON. Measured: aiohttp's `request.query` takes 25 µs of such a query,
splitting it by hand 4 µs, and what a ready list does not need is not decoded at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import unquote_plus

import msgspec

from app.domain.catalogue import ItemId, Section
from app.domain.errors import InvalidInput, TooLarge
from app.domain.event import Shopper
from app.domain.recommendation import RecommendationRequest

MAX_VALUES: Final = 200
"""Values of one parameter."""
MAX_TEXT: Final = 1_000
"""Characters of one value; JSON may have more."""
MAX_JSON: Final = 8_000
MAX_JSON_BRACKETS: Final = 1_000

_SHOPPER: Final = frozenset({"i", "s", "ui", "key", "consent"})
"""Read before anything else: who asks."""
_LISTED: Final = frozenset(
    {"item_id", "variation_id", "num_results", "section", "term", "us", "variations_map",
     "pre_filter_expression"}
)  # fmt: skip
_PREFIXES: Final = ("filters", "fmt_options", "ef-")
_VARIATIONS: Final = ("default", "all", "matched")
_OPTIONS: Final = frozenset({"fields", "hidden_fields", "variations_return_type"})
_IGNORED_OPTIONS: Final = frozenset({"groups_max_depth", "groups_start", "show_hidden_fields"})
"""Of search results; the clients' type allows them here too."""

_decode_json = msgspec.json.Decoder().decode


class PodQuery:
    """A query split into who asks and what is asked for.

    `dependence` is all of it that a list without history depends on: two requests with the same
    one get the same list.
    """

    __slots__ = ("_about", "_shopper", "dependence")

    def __init__(self, raw: str) -> None:
        """Args: raw: the query as it came, without "?"."""
        shopper: dict[str, str] = {}
        about: list[str] = []
        for part in raw.split("&"):
            name, _, value = part.partition("=")
            if name in _SHOPPER:
                shopper[name] = value
            elif name in _LISTED or name.startswith(_PREFIXES) or "%" in name:
                about.append(part)
        self._shopper = shopper
        self._about = about
        self.dependence = "&".join(about)

    @property
    def key(self) -> str | None:
        return self._one("key")

    @property
    def shopper(self) -> Shopper:
        session = self._one("s")
        return Shopper(
            client_id=self._one("i"),
            user_id=self._one("ui"),
            session=int(session) if session is not None and _is_count(session) else None,
        )

    def request(self, pod_id: str) -> RecommendationRequest:
        """
        Raises:
            InvalidInput: naming the parameter and the mend.
        """
        values, nested = _parse(self._about)
        count = _single(values, "num_results")
        section = _single(values, "section")
        # Left at their defaults, most of the fields cost nothing.
        more: dict[str, Any] = {}
        if "us" in values:
            more["segments"] = tuple(values["us"])
        if "filters" in nested:
            filters = nested["filters"]
            more["filters"] = {name: tuple(of_name) for name, of_name in filters.items()}
        if "fmt_options" in nested:
            more.update(_options(nested["fmt_options"]))
        if "pre_filter_expression" in values:
            more["pre_filter"] = _json(values, "pre_filter_expression")
        if "variations_map" in values:
            more["variations_map"] = _json(values, "variations_map")
        if "consent" in self._shopper:
            more["consent"] = self._shopper["consent"].lower() != "false"
        for name in values:
            if name.startswith("ef-"):
                more.setdefault("cells", {})[name.removeprefix("ef-")] = values[name][-1]
        return RecommendationRequest(
            pod_id=pod_id,
            num_results=None if count is None else _count(count),
            shopper=self.shopper,
            item_ids=cast(tuple[ItemId, ...], tuple(values.get("item_id", ()))),
            variation_id=_single(values, "variation_id"),
            term=_single(values, "term"),
            section=None if section is None else Section(section),
            **more,
        )

    def _one(self, name: str) -> str | None:
        value = self._shopper.get(name)
        return _decoded(value, name) if value else None


def _parse(
    parts: Sequence[str],
) -> tuple[dict[str, list[str]], dict[str, dict[str, list[str]]]]:
    """Values by name, and those of `name[inner]` by name and inner name."""
    values: dict[str, list[str]] = {}
    nested: dict[str, dict[str, list[str]]] = {}
    for part in parts:
        name, _, raw_value = part.partition("=")
        if name in _LISTED:  # as most are written
            found = values.setdefault(name, [])
        else:
            name = _decoded(name, "query")
            outer, bracket, inner = name.partition("[")
            if outer in ("filters", "fmt_options"):
                inner = inner.removesuffix("[]")
                if not bracket or not inner.endswith("]") or "[" in inner:
                    raise InvalidInput.field(name, f"write it as {outer}[name]=value")
                found = nested.setdefault(outer, {}).setdefault(inner[:-1], [])
            else:
                name = name.removesuffix("[]")
                if name not in _LISTED and not name.startswith("ef-"):
                    continue
                found = values.setdefault(name, [])
        value = _decoded(raw_value, name)
        if len(value) > MAX_TEXT and name not in _JSON:
            raise TooLarge.field(name, f"at most {MAX_TEXT} characters are taken")
        found.append(value)
        if len(found) > MAX_VALUES:
            raise TooLarge.field(name, f"at most {MAX_VALUES} values are taken")
    if "item_id" in values:
        values["item_id"] = [value for value in values["item_id"] if value]
    return values, nested


_JSON: Final = frozenset({"variations_map", "pre_filter_expression"})


def _decoded(raw: str, name: str) -> str:
    if "%" not in raw and "+" not in raw and raw.isascii():
        return raw
    try:
        text = unquote_plus(raw, errors="strict")
        text.encode()  # raw bytes that are no UTF-8 came as lone surrogates
        return text
    except UnicodeError:
        raise InvalidInput.field(name, "is not valid UTF-8, percent-encoded") from None


def _single(values: Mapping[str, Sequence[str]], name: str) -> str | None:
    found = values.get(name)
    if not found:
        return None
    if len(found) > 1:
        raise InvalidInput.field(name, "is given more than once")
    return found[0] or None


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _count(text: str) -> int:
    if not _is_count(text):
        raise InvalidInput.field("num_results", f"must be a whole number, not {text[:50]!r}")
    return int(text)


def _json(values: Mapping[str, Sequence[str]], name: str) -> Any | None:
    text = _single(values, name)
    if text is None:
        return None
    # The brackets bound the depth, before a recursive decoder sees them.
    if len(text) > MAX_JSON or text.count("[") + text.count("{") > MAX_JSON_BRACKETS:
        raise TooLarge.field(name, f"at most {MAX_JSON} characters are taken")
    try:
        document = _decode_json(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput.field(name, f"is not valid JSON: {error}") from None
    if document is None:
        raise InvalidInput.field(name, "must be an object, not null")
    return document


def _options(options: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    for name in options:
        if name not in _OPTIONS and name not in _IGNORED_OPTIONS:
            raise InvalidInput.field(
                f"fmt_options[{name}]",
                f"there is no such option: {', '.join(sorted(_OPTIONS))} are",
            )
    variations = options.get("variations_return_type", ["default"])[-1]
    if variations not in _VARIATIONS:
        raise InvalidInput.field(
            "fmt_options[variations_return_type]", f"must be one of {', '.join(_VARIATIONS)}"
        )
    return {
        "fields": tuple(options.get("fields", ())),
        "hidden_fields": tuple(options.get("hidden_fields", ())),
        "variations_return": variations,
    }
