"""Vitrine beside its peers, in one run: requests/s, CPU µs a request, latencies, ratios.

    python ops/bench/compare.py [--rounds 5] [--seconds 2]

Every server is one process on core 0; wrk (32 connections), Redis and PostgreSQL are on core 1.
Rounds are interleaved: what disturbs the machine disturbs all alike. Medians are printed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import (
    LOAD_CORE,
    SERVER_CORE,
    Round,
    Server,
    closed_loop,
    free_port,
    median_round,
    record,
    require_wrk,
    stay_on,
)
from shop import HOME, ROOT, RULES, Shop, Stores, prepared, stores
from sink import tracing

HERE = Path(__file__).resolve().parent
WARM_UP = 15
"""Rounds' worth of requests that fill what is kept of lists, before anything is measured."""

FILL = 3
"""The same before each round of pdp_similar: a list is kept for five minutes, in which a shop that
runs gets far more requests than the bench sends between two such rounds. Other lines of the file
than those that are measured then, as other shoppers would."""

PEERS = HERE / "peers"
VENV = HOME / "peers" / "venv"
FASTIFY = HOME / "peers" / "fastify"


@dataclass(frozen=True)
class Subject:
    """One line of the table."""

    name: str
    server: str
    paths: str  # file of requests; "cold": another one each round
    step: int = 7_919  # requests that a round begins further on
    fill: bool = False  # ask for others' lists before each round

    def run(self, servers: Mapping[str, Server], folder: Path, turn: int, seconds: float) -> Round:
        name = f"cold-{turn % 12}" if self.paths == "cold" else self.paths
        return closed_loop(
            servers[self.server], folder / name, seconds=seconds, start=turn * self.step
        )


SUBJECTS = (
    Subject("bare aiohttp, 4 KB", "bare", "similar"),
    Subject("pdp_similar", "vitrine", "similar", fill=True),
    Subject("pdp_similar, cold", "vitrine", "cold"),
    Subject("100 rules", "vitrine", "rules"),
    Subject("home_for_you", "vitrine", "for_you"),
    Subject("home_popular", "vitrine", "popular"),
    Subject("page of 4 pods", "vitrine", "page"),
    Subject("tracking", "vitrine", "tracking", 9_001),
    Subject("FastAPI", "fastapi", "similar"),
    Subject("fastify", "fastify", "similar"),
    Subject("libserving", "libserving", "libserving"),
)


def python_peers() -> Path:
    """The peers' interpreter, installed where it is not."""
    mark, constraints = VENV / "installed", ROOT / "ops" / "constraints" / "bench.txt"
    if not mark.exists() or mark.read_text() != constraints.read_text():
        print("installing the Python peers …", flush=True)
        if not (VENV / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        # LibRecommender's other parts want TensorFlow; serving does not.
        subprocess.run(
            [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps",
             "-r", constraints],
            check=True,
        )  # fmt: skip
        mark.write_text(constraints.read_text())
    return VENV / "bin" / "python"


def node_peer() -> Path | None:
    """Where fastify is installed; None, with the reason said: it cannot be."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        print("fastify is left out: there is no Node.js (node and npm)")
        return None
    FASTIFY.mkdir(parents=True, exist_ok=True)
    lock = (PEERS / "fastify" / "package-lock.json").read_text()
    mark = FASTIFY / "installed"
    for name in ("package.json", "package-lock.json", "server.js"):
        shutil.copy(PEERS / "fastify" / name, FASTIFY / name)
    if not mark.exists() or mark.read_text() != lock:
        print("installing fastify …", flush=True)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
        if subprocess.run(command, cwd=FASTIFY, check=False).returncode:
            print("fastify is left out: npm could not install it")
            return None
        mark.write_text(lock)
    return FASTIFY / "server.js"


def vitrine(
    running: Stores,
    *,
    also: Mapping[str, str] | None = None,
    core: int | None = SERVER_CORE,
) -> Server:
    port = free_port()
    return Server(
        "vitrine",
        [str(Path(sys.executable).with_name("vitrine")), "serve", "--port", str(port)],
        port,
        core=core,
        environment={**running.environment, **(also or {})},
        ready="/health/ready",
    )


def peers(running: Stores, shop: Shop, start: Callable[[Server], Server]) -> dict[str, Server]:
    environment = {
        "BENCH_REDIS": f"unix://{running.peers_redis}",
        "BENCH_RULES": json.dumps(RULES),
        "BENCH_KEY": shop.key,
    }
    servers = {}
    port = free_port()
    servers["bare"] = start(
        Server("bare", [sys.executable, str(PEERS / "bare.py"), str(port)], port)
    )
    python = str(python_peers())
    port = free_port()
    servers["fastapi"] = start(
        Server("fastapi", [python, str(PEERS / "fastapi_peer.py"), str(port)], port,
               environment=environment)
    )  # fmt: skip
    port = free_port()
    try:
        servers["libserving"] = start(
            Server(
                "libserving",
                [python, "-m", "sanic", "libserving.sanic_serving.knn_deploy:app",
                 "--host", "127.0.0.1", "--port", str(port), "--single-process",
                 "--no-access-logs", "--no-motd"],
                port,
                environment={"REDIS_HOST": f"127.0.0.1:{running.peers_port}"},
            )
        )  # fmt: skip
    except RuntimeError as error:
        print(f"libserving is left out: {error}")
    script = node_peer()
    if script is not None:
        port = free_port()
        servers["fastify"] = start(
            Server("fastify", ["node", str(script), str(port)], port,
                   environment={**environment, "BENCH_REDIS": running.peers_redis})
        )  # fmt: skip
    return servers


def fetch(server: Server, line: str) -> bytes:
    method, path, *body = line.rstrip("\n").split("\t")
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        method=method,
        data=body[0].encode() if body else None,
        headers={"Content-Type": "application/json"} if body else {},
    )
    with urllib.request.urlopen(request) as answer:
        return bytes(answer.read())


def put_back(servers: Mapping[str, Server], shop: Shop, lines: Sequence[str]) -> None:
    """Prices that `freshness.py` has changed since the peers got the items' documents."""
    prices: dict[str, dict[str, Any]] = {"fastapi": {}, "vitrine": {}}
    for name, known in prices.items():
        for line in lines:
            for result in json.loads(fetch(servers[name], line))["response"]["results"]:
                known[result["data"]["id"]] = result["data"].get("price")
    changed = [
        {"id": item, "data": {"price": price}}
        for item, price in prices["fastapi"].items()
        if prices["vitrine"].get(item, price) != price
    ]
    if not changed:
        return
    print(f"{len(changed)} prices are put back", flush=True)
    token = base64.b64encode(f"{shop.token}:".encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{servers['vitrine'].port}/v2/items?key={shop.key}&section=Products",
        method="PATCH",
        data=json.dumps({"items": changed}).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Basic {token}"},
    )
    urllib.request.urlopen(request).close()
    time.sleep(3.0)  # in which the worker follows


def same_answers(servers: Mapping[str, Server], shop: Shop, count: int = 200) -> list[str]:
    """Do the peers give the same results in the same order? Says what was found."""
    with (shop.paths / "similar").open() as file:
        lines = [next(file) for _ in range(count)]
    put_back(servers, shop, lines)
    said = []
    ours = [fetch(servers["vitrine"], line) for line in lines]
    size = statistics.mean(map(len, ours))
    results = [json.loads(answer)["response"]["results"] for answer in ours]
    if any(len(found) != 20 for found in results):
        raise SystemExit("pdp_similar has answers with fewer than 20 results")
    for name in ("fastapi", "fastify"):
        if name not in servers:
            continue
        theirs = [fetch(servers[name], line) for line in lines]
        equal = 0
        for mine, answer in zip(results, theirs, strict=True):
            equal += json.loads(answer)["response"]["results"] == mine
        said.append(
            f"{name}: {equal} of {count} lists the same, every field of every result; "
            f"{statistics.mean(map(len, theirs)):.0f} bytes an answer, Vitrine's {size:.0f}"
        )
        if equal != count:
            raise SystemExit("; ".join(said) + ": what is compared does not do the same work")
    if "libserving" in servers:
        with (shop.paths / "libserving").open() as file:
            answer = json.loads(fetch(servers["libserving"], next(file)))
        ids = next(iter(answer.values()))
        said.append(
            f"libserving: {len(ids)} ids of one seed's 200 neighbours: no rules, no documents"
        )
    return said


def counters(server: Server, name: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        text = answer.read().decode()
    return {
        labels: float(value)
        for labels, value in re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.M)
    }


def prepared_hits(server: Server) -> tuple[float, float]:
    found = counters(server, "vitrine_prepared_lists_total")
    return found.get('{outcome="hit"}', 0.0), found.get('{outcome="miss"}', 0.0)


def side_by_side(
    running: Stores, shop: Shop, rounds: int, seconds: float, only: Sequence[str]
) -> tuple[dict[str, list[Round]], dict[str, float], list[str]]:
    with ExitStack() as stack:
        servers = peers(running, shop, stack.enter_context)
        servers["vitrine"] = stack.enter_context(
            vitrine(running, also=stack.enter_context(tracing()))
        )
        said = same_answers(servers, shop)
        subjects = [s for s in SUBJECTS if s.server in servers and (not only or s.name in only)]
        taken: dict[str, list[Round]] = {subject.name: [] for subject in subjects}
        hits: dict[str, list[float]] = {}
        # As it is after hours: who is asked for often is kept.
        warm_up = max(2.0, WARM_UP * seconds)
        closed_loop(servers["vitrine"], shop.paths / "similar", seconds=warm_up, start=50_000)
        for turn in range(rounds + 1):
            for subject in subjects:
                if subject.fill and turn:
                    closed_loop(
                        servers[subject.server], shop.paths / subject.paths,
                        seconds=FILL * seconds, start=50_000 + turn * 20_011,
                    )  # fmt: skip
                before = prepared_hits(servers["vitrine"])
                one = subject.run(servers, shop.paths, turn, seconds)
                if turn == 0:
                    continue  # warm-up
                taken[subject.name].append(one)
                if subject.server == "vitrine":
                    after = prepared_hits(servers["vitrine"])
                    hit, miss = after[0] - before[0], after[1] - before[1]
                    if hit + miss:
                        hits.setdefault(subject.name, []).append(hit / (hit + miss))
            print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
        return taken, {name: statistics.median(of) for name, of in hits.items()}, said


def ratio(taken: Mapping[str, Sequence[Round]], over: str, under: str) -> float | None:
    """The median of the rounds' ratios of requests/s: neighbours in time."""
    if not taken.get(over) or not taken.get(under):
        return None
    return statistics.median(
        a.rate / b.rate for a, b in zip(taken[over], taken[under], strict=True)
    )


GOALS = {
    "pdp_similar/bare": ("pdp_similar", "bare aiohttp, 4 KB", 0.4),
    "pdp_similar_cold/bare": ("pdp_similar, cold", "bare aiohttp, 4 KB", 0.25),
    "home_for_you/bare": ("home_for_you", "bare aiohttp, 4 KB", 0.2),
    "pdp_similar/fastapi": ("pdp_similar", "FastAPI", 6.0),
    "pdp_similar/libserving": ("pdp_similar", "libserving", 30.0),
    "pdp_similar/fastify": ("pdp_similar", "fastify", 2.0),
}


def tell(
    taken: Mapping[str, Sequence[Round]], hits: Mapping[str, float], said: Sequence[str]
) -> dict[str, float]:
    print("\n".join(said))
    print(
        f"\n{'':<20} {'CPU µs':>8} {'requests/s':>11} {'/bare':>6} {'p50 ms':>7} {'p99 ms':>7}"
        f" {'p99.9':>7} {'bytes':>7} {'ready lists':>11}"
    )
    for name, rounds in taken.items():
        if not rounds:
            continue
        one = median_round(rounds)
        share = ratio(taken, name, "bare aiohttp, 4 KB")
        hit = f"{hits[name]:.0%}" if name in hits else ""
        print(
            f"{name:<20} {one.cpu_us:>8.1f} {one.rate:>11,.0f} {share or 0:>6.3f}"
            f" {one.p50_ms:>7.2f} {one.p99_ms:>7.2f} {one.p999_ms:>7.2f}"
            f" {one.bytes / one.requests:>7.0f} {hit:>11}"
        )
    figures = {}
    print()
    for key, (over, under, goal) in GOALS.items():
        found = ratio(taken, over, under)
        if found is None:
            print(f"{key:<26} not measured")
            continue
        figures[key] = round(found, 3)
        cpu = median_round(taken[under]).cpu_us / median_round(taken[over]).cpu_us
        ready = f"   lists ready {hits[over]:.0%}" if over in hits else ""
        print(f"{key:<26} {found:>7.3f}   by CPU time {cpu:>7.3f}   goal {goal}{ready}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", nargs="*", default=[], help="Names of lines of the table.")
    given = parser.parse_args()
    require_wrk()
    stay_on(LOAD_CORE)
    with stores() as running:
        shop = prepared(running)
        taken, hits, said = side_by_side(running, shop, given.rounds, given.seconds, given.only)
        figures: dict[str, float] = tell(taken, hits, said)
        also: dict[str, Any] = {"hit_rates": hits, "load": os.getloadavg()}
        rows = {
            name: {"rate": round(m.rate), "cpu_us": round(m.cpu_us, 1), "p50_ms": m.p50_ms,
                   "p99_ms": m.p99_ms, "p999_ms": m.p999_ms}
            for name, rounds in taken.items() if rounds and (m := median_round(rounds))
        }  # fmt: skip
        record(figures, compare=rows, **also)


if __name__ == "__main__":
    main()
