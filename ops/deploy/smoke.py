"""Asks a running Vitrine what a load balancer and a shop would: `python ops/deploy/smoke.py URL
[KEY POD]`. Ends with 1 and says why where an answer is wrong."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

PATIENCE = 120.0  # seconds until it must be ready


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, urllib.error.URLError) as error:
        return 0, str(error).encode()


def main(url: str, key: str | None = None, pod: str | None = None) -> int:
    until = time.monotonic() + PATIENCE
    while True:
        status, body = get(f"{url}/health/ready")
        if status == 200:
            break
        if time.monotonic() > until:
            print(f"not ready after {PATIENCE:.0f} s: {status} {body[:500]!r}", file=sys.stderr)
            return 1
        time.sleep(1)
    checks = {
        "/health/live": lambda body: json.loads(body)["alive"] is True,
        "/openapi.json": lambda body: json.loads(body)["openapi"].startswith("3.1"),
        "/metrics": lambda body: b"vitrine_workers_ready" in body,
    }
    if key and pod:
        path = f"/recommendations/v1/pods/{pod}?key={key}&i=smoke&s=1&num_results=3"
        checks[path] = lambda body: bool(json.loads(body)["response"]["results"])
    failed = 0
    for path, right in checks.items():
        status, body = get(url + path)
        good = status == 200 and right(body)
        failed += not good
        print(f"{'ok' if good else 'WRONG'} {status} {path.partition('?')[0]}")
    return min(1, failed)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4:
        raise SystemExit(__doc__)
    raise SystemExit(main(sys.argv[1].rstrip("/"), *sys.argv[2:]))
