"""How soon a change is in effect, seen from outside: event, rule, catalogue; in every worker.

    python ops/bench/freshness.py [--changes 200] [--workers 2]

Examples:
    python ops/bench/freshness.py                             # some three minutes
    python ops/bench/freshness.py --changes 12 --only rule    # a trial of one kind

A change is sent, and each worker is asked every few milliseconds, over a connection of its own,
until its answer shows it. The time is from before the change is sent until the last worker shows
it. Of a rule it is the publication alone, the gate (VITRINE_RULE_GATE) included; its draft was
saved before. Changes come at moments that have nothing to do with the workers' polls.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import os
import random
import statistics
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

from compare import vitrine
from measure import LOAD_CORE, Server, record, stay_on
from shop import MERCHANT, Shop, prepared, stores

POD = "bench_fresh"
KINDS = ("event", "rule", "catalogue")


class Client:
    """One kept connection, and so one worker."""

    def __init__(self, port: int, shop: Shop) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.shop = shop
        basic = b64encode(f"{shop.token}:".encode()).decode()
        self._headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {**self._headers, **headers})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:500]!r}")
        return json.loads(content) if content else None

    def close(self) -> None:
        """The next call opens another connection."""
        self._connection.close()

    def list(self, pod: str, rest: str) -> Any:
        return self.call("GET", f"/recommendations/v1/pods/{pod}?key={self.shop.key}&s=1&{rest}")

    @property
    def worker(self) -> str:
        """The beginning of result ids is a process'."""
        answer = self.list("home_popular", "i=x&num_results=1")
        return str(answer["result_id"][:16])


def one_a_worker(server: Server, shop: Shop, workers: int) -> list[Client]:
    found: dict[str, Client] = {}
    until = time.monotonic() + 60  # the first may answer for all, while the others start
    while time.monotonic() < until:
        client = Client(server.port, shop)
        if found.setdefault(client.worker, client) is not client:
            client.close()
        if len(found) == workers:
            return list(found.values())
        time.sleep(0.01)
    raise RuntimeError(f"{len(found)} of {workers} workers answered")


def until_all(clients: list[Client], shows: Callable[[Client], bool]) -> None:
    until = time.monotonic() + 30
    waiting = list(clients)
    while waiting:
        waiting = [client for client in waiting if not shows(client)]
        if time.monotonic() > until:
            raise RuntimeError("a change had no effect within 30 s")
        time.sleep(0.002)


def events(clients: list[Client], number: int) -> float:
    """A click: the item is not in the list any more, where the pod leaves out what was seen."""
    shopper = f"i=fresh-{os.getpid()}-{number}"
    shown = clients[0].list(POD, shopper)["response"]["results"]
    item = shown[0]["data"]["id"]
    began = time.perf_counter()
    query = f"key={clients[0].shop.key}&{shopper}&s=1&c=bench&_dt={time.time_ns() // 1_000_000}"
    clients[number % len(clients)].call(
        "POST",
        f"/v2/behavioral_action/recommendation_result_click?{query}",
        {"item_id": item, "item_name": "x", "pod_id": POD, "section": "Products"},
    )
    until_all(
        clients,
        lambda client: all(
            result["data"]["id"] != item
            for result in client.list(POD, shopper)["response"]["results"]
        ),
    )
    return time.perf_counter() - began


def rules(clients: list[Client], number: int, items: list[str]) -> float:
    """A published pin: the item is the first."""
    item = items[number % len(items)]
    pin = {"type": "pin", "item_id": item, "slot": 1}
    rule = {"id": "pin", "when": {"type": "pod", "ids": ["home_popular"]}, "then": [pin]}
    path = "/admin/v1/rule-sets"
    body = {"id": "fresh", "rules": [rule]}
    clients[0].call("PUT", f"{path}/fresh", body, **{"If-Match": "*"})
    time.sleep(random.random() / 4)
    began = time.perf_counter()
    # What the gate finds counts for its time, not for its verdict.
    clients[0].call("POST", f"{path}/fresh/publish", {"force": True}, **{"If-Match": "*"})
    until_all(
        clients,
        lambda client: (
            client.list("home_popular", "i=x&num_results=1")["response"]["results"][0]["data"]["id"]
            == item
        ),
    )
    return time.perf_counter() - began


def catalogue(clients: list[Client], number: int, item: str) -> float:
    """A price: it is in the answer."""
    price = round(1 + number / 100 + time.time() % 1, 4)
    began = time.perf_counter()
    clients[0].call(
        "PATCH",
        f"/v2/items?key={clients[0].shop.key}&section=Products",
        {"items": [{"id": item, "data": {"price": price}}]},
    )
    until_all(
        clients,
        lambda client: (
            client.list("home_popular", "i=x&num_results=20&us=")["response"]["results"][0][
                "data"
            ].get("price")
            == price
        ),
    )
    return time.perf_counter() - began


def measure(
    server: Server, shop: Shop, changes: int, workers: int, only: Sequence[str] = KINDS
) -> dict[str, list[float]]:
    clients = one_a_worker(server, shop, workers)
    first = clients[0]
    with contextlib.suppress(RuntimeError):  # of a run that was broken off
        first.call("POST", "/admin/v1/rule-sets/fresh/withdraw", {}, **{"If-Match": "*"})
        time.sleep(1.5)
    ids = [
        result["data"]["id"]
        for result in first.list("home_popular", "i=x&num_results=50")["response"]["results"]
    ]
    pod = {"id": POD, "display_name": "Fresh", "chain": ["popular"], "exclude_seen": True}
    try:
        first.call("POST", "/admin/v1/pods", pod)
    except RuntimeError:
        first.call("PUT", f"/admin/v1/pods/{POD}", pod, **{"If-Match": "*"})
    with contextlib.suppress(RuntimeError):  # by an earlier run
        first.call("POST", "/admin/v1/rule-sets", {"id": "fresh", "rules": []})
    time.sleep(1.5)
    found: dict[str, list[float]] = {kind: [] for kind in only}
    pinned = ids[0]
    begun = time.monotonic()
    for number in range(changes):
        kind = only[number % len(only)]
        time.sleep(random.random() / 4)
        if kind == "event":
            taken = events(clients, number)
        elif kind == "rule":
            pinned = ids[1:][number % (len(ids) - 1)]
            taken = rules(clients, number, ids[1:])
        else:
            taken = catalogue(clients, number, pinned)
        found[kind].append(taken)
        if number % 20 == 19:
            slowest = {name: round(max(times), 2) for name, times in found.items()}
            print(f"{number + 1} of {changes}, {time.monotonic() - begun:.0f} s; slowest, s:"
                  f" {json.dumps(slowest)}", flush=True)  # fmt: skip
    with contextlib.suppress(RuntimeError):  # none was published
        first.call("POST", "/admin/v1/rule-sets/fresh/withdraw", {}, **{"If-Match": "*"})
    return found


def quantile(times: list[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[max(math.ceil(len(ordered) * share) - 1, 0)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    with stores() as running:
        shop = prepared(running)
        with vitrine(running, also={"VITRINE_WORKERS": str(given.workers)}, core=None) as server:
            stay_on(LOAD_CORE)
            found = measure(server, shop, given.changes, given.workers, given.only)
    rows = {}
    everything = [one for times in found.values() for one in times]
    print(f"\n{'':<10} {'changes':>8} {'p50, s':>8} {'p99, s':>8} {'longest':>8}")
    for kind, times in (*found.items(), ("all", everything)):
        rows[kind] = {
            "changes": len(times),
            "p50_s": round(statistics.median(times), 3),
            "p99_s": round(quantile(times, 0.99), 3),
            "max_s": round(max(times), 3),
        }
        print(f"{kind:<10}" + "".join(f" {value:>8}" for value in rows[kind].values()))
    if set(given.only) != set(KINDS):
        return  # another figure than the one that is asked for
    record(
        {"change_to_effect_p99_s": rows["all"]["p99_s"]},
        freshness={"workers": given.workers, "merchant": MERCHANT, **rows},
    )


if __name__ == "__main__":
    main()
