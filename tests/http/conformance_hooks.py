"""What schemathesis cannot know of a running shop: its tokens, its key, what is there to be found.

Loaded by schemathesis itself (SCHEMATHESIS_HOOKS), in its process. The shop is told by
VITRINE_CONFORMANCE, as JSON: `key`, `tokens` and, a path parameter, `known` values.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from typing import Any

import schemathesis

SHOP = json.loads(os.environ["VITRINE_CONFORMANCE"])
TOKENS = itertools.cycle(SHOP["tokens"])  # the bound on calls is a token's
KNOWN = SHOP["known"]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Let every call in, and half of those that name something find it."""
    security = case.operation.definition.raw.get("security", [])
    if {"bearer": []} in security:
        case.headers["Authorization"] = f"Bearer {next(TOKENS)}"
    if {"key": []} in security:
        case.query = {**(case.query or {}), "key": SHOP["key"]}
    if case.method.upper() != "DELETE":
        for name, value in list((case.path_parameters or {}).items()):
            number = zlib.crc32(repr(value).encode())
            if name in KNOWN and number % 2:
                case.path_parameters[name] = KNOWN[name][number // 2 % len(KNOWN[name])]
    if "If-Match" in case.headers and zlib.crc32(case.headers["If-Match"].encode()) % 2:
        case.headers["If-Match"] = "*"


@schemathesis.serializer("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
def json_lines(context: Any, value: Any) -> bytes:
    lines = value if isinstance(value, list) else [value]
    return b"\n".join(json.dumps(line).encode() for line in lines)
