"""Takes personal data out of what a tracker sends beside the ids that it is meant to send."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

MAX_DEPTH: Final = 8
_MAX_CACHED_NAME: Final = 64  # characters; longer ones are not worth the memory

# Fields that name a person or reach one, whatever they hold.
_FIELD: Final = re.compile(
    r"(^|[_\-.])(e?[_\-]?mails?|phones?|telephone|mobile|fax|ip|ip[_\-]?addr(ess)?|user[_\-]?ip|"
    r"first[_\-]?name|last[_\-]?name|full[_\-]?name|surname|customer[_\-]?name|street|address([_\-]?line)?\d?|"
    r"post[_\-]?code|postal[_\-]?code|zip([_\-]?code)?|birth[_\-]?(day|date)|date[_\-]?of[_\-]?birth|dob|ssn|iban|"
    r"credit[_\-]?card|card[_\-]?number|cvv|passw(or)?d|secret|token|authorization)($|[_\-.])",
    re.IGNORECASE,
)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_EMAIL: Final = re.compile(r"[\w.+\-]+@(?:[\w\-]+\.)+\w{2,}")
_CARD: Final = re.compile(r"(?<![\w.\-])(?:\d[ \-]?){12,18}\d(?![\w\-]|\.\d)")
_PHONE: Final = re.compile(
    r"(?<![\w.])(?:\+\d[\d ()./\-]{8,18}\d|\(\d{3}\) ?\d{3}[ \-]?\d{4}|0\d{2,4}[ /\-]\d{5,9})"
    r"(?![\w.])"
)
_IPV4: Final = re.compile(
    r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.])"
)
_IPV6: Final = re.compile(
    r"(?<![\w:])(?:[0-9a-f]{1,4}:){4,7}[0-9a-f:]{1,19}(?![\w:])", re.IGNORECASE
)
# Nothing is found where this is not: most texts are let through by it alone.
_SUSPECT: Final = re.compile(
    r"@|\d[\d .()/\-]{6,}|\d\.\d+\.\d+\.\d|[0-9a-fA-F]:[0-9a-fA-F:]+:[0-9a-fA-F]"
)
_URL_FIELDS: Final = frozenset(
    ("url", "origin_referrer", "document_referrer", "canonical_url", "redirect_to_url")
)


def _is_card(digits: str) -> bool:
    """Luhn's check, so that order numbers and barcodes stay."""
    total = 0
    for index, digit in enumerate(reversed([int(c) for c in digits if c.isdigit()])):
        doubled = digit * 2 if index % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def scrub_text(text: str) -> str:
    """`text` without e-mail addresses, telephone, card and IP numbers, and NUL characters."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    if _SUSPECT.search(text) is None:
        return text
    text = _EMAIL.sub("<email_omitted>", text)
    text = _CARD.sub(lambda m: "<card_omitted>" if _is_card(m[0]) else m[0], text)
    text = _IPV4.sub("<ip_omitted>", text)
    text = _IPV6.sub("<ip_omitted>", text)
    return _PHONE.sub("<phone_omitted>", text)


def scrub_url(url: str) -> str:
    """An address without user, fragment and query; of the query, `utm_` parameters stay."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    query = "&".join(pair for pair in parts.query.split("&") if pair.startswith("utm_"))
    host = parts.netloc.rpartition("@")[2]
    prefix = f"{parts.scheme}://{host}" if parts.scheme and host else host
    return scrub_text(prefix + parts.path + (f"?{query}" if query else ""))


def scrub(value: dict[str, Any], depth: int = MAX_DEPTH) -> dict[str, Any]:
    """A payload without personal data. What lies deeper than `depth` is left out."""
    cleaned: dict[str, Any] = {}
    for name, content in value.items():
        kept = _kept_name(name) if len(name) <= _MAX_CACHED_NAME else _kept_name.__wrapped__(name)
        if kept is None:
            continue
        if isinstance(content, str):
            content = scrub_url(content) if name in _URL_FIELDS else scrub_text(content)
        elif isinstance(content, (dict, list)):
            if depth <= 1:
                continue
            content = _scrub_nested(content, depth - 1)
        cleaned[kept] = content
    return cleaned


@lru_cache(maxsize=4096)
def _kept_name(name: str) -> str | None:
    """The field's name as it is kept, or None where the field is not."""
    return None if _FIELD.search(_CAMEL.sub("_", name)) else scrub_text(name)


def _scrub_nested(value: dict[str, Any] | list[Any], depth: int) -> Any:
    if isinstance(value, dict):
        return scrub(value, depth)
    cleaned: list[Any] = []
    for element in value:
        if isinstance(element, str):
            cleaned.append(scrub_text(element))
        elif not isinstance(element, (dict, list)):
            cleaned.append(element)
        elif depth > 1:
            cleaned.append(_scrub_nested(element, depth - 1))
    return cleaned
