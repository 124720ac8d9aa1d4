"""README.md says what is true: its settings, its files, its make targets."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from app.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_every_setting_has_its_row_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(VITRINE_\w+)` \| (.*?) \| ", README, re.MULTILINE))
    defaults = Settings()
    expected = {}
    for field in msgspec.structs.fields(Settings):
        value = getattr(defaults, field.name)
        expected[PREFIX + field.name.upper()] = f"`{value}`" if value not in (None, "") else ""
    assert rows == expected


def test_every_file_that_it_links_to_is_there() -> None:
    linked = [path for path in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in path]
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_every_make_target_that_it_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert named
    assert named - targets == set()
