"""CloudFormation and Terraform are one topology, and every type has its counterpart in the other
clouds: ops/deploy/topology.md lists it, these tests hold the list against both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.test_infrastructure import everything, loaded, resources

pytest.importorskip("yaml", reason="PyYAML: make ops-check")

ROOT = Path(__file__).resolve().parents[2]
MODULE = "\n".join(
    path.read_text() for path in sorted((ROOT / "ops/deploy/terraform").glob("*.tf"))
)
TOPOLOGY = (ROOT / "ops/deploy/topology.md").read_text()


def rows(title: str) -> list[list[str]]:
    """The cells of the table under a heading, without the backquotes."""
    part = TOPOLOGY.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def bare(cell: str) -> str:
    return cell.strip("`")


def closing(text: str, opening: int) -> int:
    """Where the bracket at `opening` is closed."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] in "{[(") - (text[place] in "}])")
        if depth == 0:
            return place
    raise AssertionError("a bracket is not closed")


def bodies() -> dict[str, str]:
    """The body of each resource block, by its address."""
    found = {}
    for match in re.finditer(r'^resource "(\w+)" "(\w+)" \{', MODULE, re.MULTILINE):
        opening = match.end() - 1
        found[f"{match[1]}.{match[2]}"] = MODULE[opening + 1 : closing(MODULE, opening)]
    return found


def keys(expression: str) -> list[str]:
    """What a `for_each` goes through."""
    expression = expression.strip()
    if expression.startswith("toset"):
        return re.findall(r'"([^"]+)"', expression)
    if expression.startswith("local."):
        name = expression.removeprefix("local.")
        start = re.search(rf"^  {name}\s*= \{{", MODULE, re.MULTILINE)
        assert start is not None, expression
        opening = start.end() - 1
        expression = MODULE[opening : closing(MODULE, opening) + 1]
    if expression.startswith("{"):
        inner, flat = expression[1:-1], ""
        while inner:  # what is nested is no key
            bracket = re.search(r"[{\[(]", inner)
            if bracket is None:
                flat, inner = flat + inner, ""
            else:
                flat += inner[: bracket.start()]
                inner = inner[closing(inner, bracket.start()) + 1 :]
        return re.findall(r'(?:^|[\n,])\s*"?([\w-]+)"?\s*=', flat)
    return [address.rpartition('["')[2].rstrip('"]') for address in instances(expression)]


def instances(address: str) -> list[str]:
    """The instances of a resource block, with its variables as they are by default."""
    body = bodies()[address]
    each = re.search(r"^  for_each\s*= ", body, re.MULTILINE)
    if each is not None:
        rest = body[each.end() :]
        bracket = re.match(r"(?:toset)?([({])", rest)
        end = rest.index("\n") if bracket is None else closing(rest, bracket.start(1)) + 1
        found = keys(rest[:end])
        assert found, f"{address}: {rest[:end]}"
        return [f'{address}["{key}"]' for key in found]
    count = re.search(r"^  count\s*= (.+)$", body, re.MULTILINE)
    if count is None:
        return [address]
    number = count[1].rpartition(" : ")[2]  # of a condition: where it is there
    if number.startswith("var."):
        variable = MODULE.partition(f'variable "{number[4:]}" {{')[2]
        default = re.search(r"default = (\d+)", variable)
        assert default is not None
        number = default[1]
    return [f"{address}[{place}]" for place in range(int(number))]


def test_the_reader_of_the_module_reads_it() -> None:
    assert instances("aws_lb.this") == ["aws_lb.this"]
    assert instances("aws_subnet.public") == ["aws_subnet.public[0]", "aws_subnet.public[1]"]
    assert instances("aws_nat_gateway.this") == [
        "aws_nat_gateway.this[0]",
        "aws_nat_gateway.this[1]",
    ]
    assert keys("local.ways") == ["service", "database", "redis", "spool"]
    assert keys("local.tasks") == ["api", "worker", "scheduler", "migrate"]
    assert keys("aws_s3_bucket.this") == ["artefacts", "archive"]
    assert keys('{ "80" = "a, b", "443" = "c" }') == ["80", "443"]


def test_each_resource_of_cloudformation_is_in_terraform_and_the_other_way_round() -> None:
    listed = [(stack, bare(name), bare(address)) for stack, name, address in rows("By resource")]
    there = {(stack, name) for stack, name, _ in everything() if stack != "alarms"}
    assert len(listed) == len({(stack, name) for stack, name, _ in listed})
    assert {(stack, name) for stack, name, _ in listed} == there

    module = {instance for address in bodies() for instance in instances(address)}
    named = {address for _, _, address in listed} | {"aws_cloudformation_stack.alarms"}
    for address, _ in rows("Terraform alone"):
        plain = bare(address)
        named |= set(instances(plain)) if plain in bodies() else {plain}
    assert named - module == set(), "listed, and not in the module"
    assert module - named == set(), "in the module, and not listed"


def test_every_type_has_its_counterparts() -> None:
    listed = {
        bare(aws): (terraform, azure, google) for aws, terraform, azure, google in rows("By type")
    }
    stack = "AWS::CloudFormation::Stack"
    assert set(listed) == {resource["Type"] for _, _, resource in everything()} | {stack}
    for stack, name, address in rows("By resource"):
        type_ = resources(stack)[bare(name)]["Type"]
        assert f"`{bare(address).partition('.')[0]}`" in listed[type_][0], f"{type_}: {address}"
    for type_, cells in listed.items():
        assert all(len(cell) >= 3 for cell in cells), type_


def test_both_give_tasks_the_same_settings() -> None:
    of_stacks = set(
        re.findall(
            r"VITRINE_[A-Z_]+", (ROOT / "ops/deploy/cloudformation/service.yaml").read_text()
        )
    )
    assert set(re.findall(r"VITRINE_[A-Z_]+", MODULE)) == of_stacks


def test_both_bound_the_same_parameters_alike() -> None:
    parameters = {
        name.lower(): parameter
        for stack in ("vitrine", "foundation", "network", "data", "load-balancer", "service")
        for name, parameter in loaded(stack)["Parameters"].items()
    }
    variables = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', MODULE, re.MULTILINE | re.DOTALL)
    compared = 0
    for name, body in variables:
        assert "validation {" in body, f"{name} may be anything"
        known = parameters[name.replace("_", "")]
        bounds = re.search(r">= (\d+) && var\.\w+ <= (\d+)", body)
        if bounds is not None:
            assert (known["MinValue"], known["MaxValue"]) == (int(bounds[1]), int(bounds[2])), name
            compared += 1
        choices = re.search(r"contains\(\[(.+?)\], var", body)
        if choices is not None and "AllowedValues" in known:
            given = [choice.strip(' "') for choice in choices[1].split(",")]
            assert given == [str(value) for value in known["AllowedValues"]], name
            compared += 1
        default = re.search(r'^  default\s*= "?([^"\n]+)"?$', body, re.MULTILINE)
        assert default is None or str(known["Default"]) == default[1], name
    assert compared >= 14


def test_terraforms_own_test_tries_each_variable() -> None:
    text = (ROOT / "ops/deploy/terraform/tests/module.tftest.hcl").read_text()
    tried = set(re.findall(r"var\.(\w+)", text.partition("expect_failures")[2]))
    assert tried == set(re.findall(r'^variable "(\w+)"', MODULE, re.MULTILINE))
