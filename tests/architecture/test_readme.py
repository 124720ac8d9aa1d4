"""README.md says what is true: its settings, its files, its make targets."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import msgspec

from app.domain.rule import RuleSet
from app.domain.rule_action import Action
from app.domain.rule_check import check
from app.domain.rule_condition import Condition
from app.http.admin_rule_versions import Publication
from app.http.admin_rules import RuleSetBody
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


def test_every_action_and_condition_has_its_row_with_its_test() -> None:
    shelf = (ROOT / "tests/http/test_rules_on_the_shelf.py").read_text()
    tests = set(re.findall(r"^async def (test_\w+)\(", shelf, re.MULTILINE))
    for name, union in (("action", Action), ("condition", Condition)):
        table = README.partition(f"\n| {name} | ")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| `(\w+)` \| .+ \| `(\w+)` \|$", table, re.MULTILINE)
        kinds = [str(kind.__struct_config__.tag) for kind in typing.get_args(union)]
        assert sorted(kind for kind, _ in rows) == sorted(kinds)
        assert [test for kind, test in rows] == [f"test_{name}_{kind}" for kind, _ in rows]
        assert {test for _, test in rows} <= tests


def test_the_first_rule_set_that_it_publishes_is_valid() -> None:
    bodies = re.findall(r"/admin/v1/rule-sets(\S*) .*?-d '(.*)'$", README, re.MULTILINE)
    assert [path for path, _ in bodies] == ["", "/main/publish"]
    made = msgspec.json.decode(bodies[0][1], type=RuleSetBody)
    assert made.id == "main"
    assert check(RuleSet(rules=made.rules), frozenset({"brand"})) == []
    assert msgspec.json.decode(bodies[1][1], type=Publication).reason
