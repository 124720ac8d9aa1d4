"""What counts as personal data, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.personal_data import MAX_DEPTH, scrub, scrub_text, scrub_url


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("ann@example.com", "<email_omitted>"),
        ("to x.y+z@mail.example.co.uk now", "to <email_omitted> now"),
        ("+49 170 1234567", "<phone_omitted>"),
        ("+15551234567", "<phone_omitted>"),
        ("(555) 123-4567", "<phone_omitted>"),
        ("0170 1234567", "<phone_omitted>"),
        ("4111 1111 1111 1111", "<card_omitted>"),
        ("4111111111111111", "<card_omitted>"),
        ("at 192.0.2.7:80", "at <ip_omitted>:80"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "<ip_omitted>"),
        ("nul\x00nul", "nulnul"),
    ],
)
def test_personal_data_is_taken_out(text: str, cleaned: str) -> None:
    assert scrub_text(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "Red T-Shirt, size 42",
        "4006381333931",  # a barcode
        "1234567890123456",  # fails Luhn's check
        "019927c2-f955-4020-8b8d-6b21b93cb5a2",
        "2026-11-24T12:30:00.123Z",
        "2026-11-24 12:30",
        "ciojs-client-2.70.0",
        "12.50 + 3.20",
        "10:30:00",
        "@home",
        "item 123456789",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert scrub_text(text) == text


@given(st.text())
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    once = scrub_text(text)
    assert scrub_text(once) == once
    assert "\x00" not in once


@pytest.mark.parametrize(
    ("url", "cleaned"),
    [
        (
            "https://ann:pw@shop.example/a/b?mail=x&utm_source=n#f",
            "https://shop.example/a/b?utm_source=n",
        ),
        ("shop.example/path?utm_x=1&y=2", "shop.example/path?utm_x=1"),
        (
            "https://shop.example/reset/ann@example.com",
            "https://shop.example/reset/<email_omitted>",
        ),
        ("N/A", "N/A"),
        ("http://[bad", ""),
    ],
)
def test_addresses_keep_their_path(url: str, cleaned: str) -> None:
    assert scrub_url(url) == cleaned


def test_fields_that_name_a_person_are_dropped_wherever_they_are() -> None:
    payload = {
        "userEmail": "x",
        "phone": 1,
        "client_ip": "x",
        "addressLine1": "x",
        "zip": "x",
        "item_name": "Shirt",
        "display_name": "Facet",
        "strip": True,
        "group": {"first-name": "x", "id": [{"password": "x", "ok": 1}, "ann@example.com"]},
    }
    assert scrub(payload) == {
        "item_name": "Shirt",
        "display_name": "Facet",
        "strip": True,
        "group": {"id": [{"ok": 1}, "<email_omitted>"]},
    }


def test_what_lies_too_deep_is_left_out() -> None:
    deep: dict[str, object] = {"end": "ann@example.com"}
    for _ in range(100):
        deep = {"next": deep}
    kept = scrub(deep)
    for _ in range(MAX_DEPTH - 1):
        kept = kept["next"]
    assert kept == {}
