"""The shop that is measured: the demo's supermarket, five rules, the same data for the peers.

    python ops/bench/shop.py    # prepares it below .vitrine/bench, once

What is prepared:
- the supermarket as `vitrine demo` prepares it, in a home of its own, plus a strategy configuration
  `similar_200` (related items, 240 neighbours) that leads `pdp_similar`, and two more pods: one
  with 100 rules, one for the page;
- a published rule set with the rules that the peers implement (`RULES`);
- a Redis of the peers' own: 200 candidates a seed (what Vitrine's chain gives before rules), the
  documents of all items, and libserving's ItemCF data made of the same candidates;
- files of requests: seeds drawn as the supermarket's shoppers buy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
from measure import HOME, free_port
from redis import Redis

from app.cli.demo.prepare import prepare
from app.cli.demo.shop import EVENTS, ITEMS
from app.cli.demo.supermarket import SupermarketSource
from app.cli.wiring import wire
from app.container import Container
from app.domain.catalogue import DEFAULT_SECTION, ItemId
from app.domain.errors import Conflict
from app.domain.merchant import MerchantId
from app.domain.pod import Pod, StrategyConfiguration
from app.domain.recommendation import RecommendationRequest
from app.domain.rendered import render
from app.domain.rule import RuleSet
from app.domain.selection import LeftOut
from app.embedded import EmbeddedServers
from app.embedded.binaries import redis_binary
from app.plugins.runner import StrategyRunner
from app.services.chain import Chain
from app.services.pod_request import understand
from app.settings import Settings
from app.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
MERCHANT = MerchantId("demo")
ACTOR = "bench"
FORMAT = "3"  # changes when what is prepared changes
CANDIDATES, RESULTS = 200, 20
DRAWN = 100_000  # requests of a file
SIMILAR = "similar_200"

RULES: Mapping[str, Any] = {
    "exclude_department": "Cosmetics",
    "exclude_price_from": 20.0,
    "boost_brand": "Private",
    "boost_strength": 2,
    "bury_department": "Drugstore and general",
    "bury_strength": 2,
    "cap_first": 10,
    "cap_count": 3,
}
"""What the peers implement, and `five_rules` says in Vitrine's words."""

MANY_POD = "pdp_100_rules"
PODS = {
    "pdp_similar": ("Similar products", (SIMILAR, "popular")),
    MANY_POD: ("Similar products, 100 rules", (SIMILAR, "popular")),
    "pdp_plain": ("Similar products, no rules", (SIMILAR, "popular")),
}
PAGE_PODS = ("home_for_you", "home_popular", "pdp_similar", "cart_complements")


def five_rules(pod: str) -> list[dict[str, Any]]:
    when = {"type": "pod", "ids": [pod]}

    def is_(attribute: str, value: str) -> dict[str, Any]:
        return {"type": "is", "attribute": attribute, "values": [value]}

    price = {"type": "range", "attribute": "price", "at_least": RULES["exclude_price_from"]}
    department, brand = RULES["bury_department"], RULES["boost_brand"]
    actions = [
        {"type": "exclude", "items": is_("department", RULES["exclude_department"])},
        {"type": "exclude", "items": price},
        {"type": "boost", "items": is_("brand", brand), "strength": RULES["boost_strength"]},
        {"type": "bury", "items": is_("department", department),
         "strength": RULES["bury_strength"]},
        {"type": "at_most", "count": RULES["cap_count"], "attribute": "type",
         "first": RULES["cap_first"]},
    ]  # fmt: skip
    return [{"id": f"r{n}", "when": when, "then": [a]} for n, a in enumerate(actions)]


def many_rules(pod: str, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """100 rules as merchandisers write them: a third of them for some requests only."""
    dice = random.Random(3)
    by = {name: sorted({i[name] for i in items if i[name]}) for name in ("category", "maker")}
    rules: list[dict[str, Any]] = five_rules(pod)
    while len(rules) < 100:
        attribute = dice.choice(tuple(by))
        which = {"type": "is", "attribute": attribute, "values": [dice.choice(by[attribute])]}
        kind = dice.choice(("boost", "boost", "bury", "bury", "exclude"))
        action = {"type": kind, "items": which}
        if kind != "exclude":
            action["strength"] = dice.randrange(1, 11)
        when: dict[str, Any] = {"type": "pod", "ids": [pod]}
        if dice.random() < 1 / 3:
            more = dice.choice((
                {"type": "segment", "ids": [f"s{dice.randrange(20)}"]},
                {"type": "weekly", "zone": "Europe/London", "start": "08:00", "end": "20:00"},
            ))  # fmt: skip
            when = {"type": "and", "of": [when, more]}
        rules.append({"id": f"m{len(rules)}", "when": when, "then": [action]})
    return rules


@dataclass(frozen=True)
class Stores:
    """What runs while the bench does."""

    database_url: str
    database_owner_url: str
    redis_url: str
    peers_redis: str  # a Unix socket
    peers_port: int  # the same by TCP, for libserving
    home: Path = HOME

    @property
    def environment(self) -> dict[str, str]:
        """What a server of Vitrine needs. No request is refused for want of time: a closed loop
        fills every server's queue. No spare: workers are measured, and alone on their core."""
        return {
            "VITRINE_QUEUE_SECONDS": "10",
            "VITRINE_SPARE_WORKER": "false",
            "VITRINE_HOME": str(self.home),
            "VITRINE_DATABASE_URL": self.database_url,
            "VITRINE_REDIS_URL": self.redis_url,
        }

    @property
    def settings(self) -> Settings:
        return Settings(
            home=self.home,
            database_url=self.database_url,
            database_owner_url=self.database_owner_url,
            redis_url=self.redis_url,
        )


@dataclass(frozen=True)
class Shop:
    key: str
    token: str
    paths: Path  # folder of the files of requests


@contextmanager
def stores() -> Iterator[Stores]:
    """All stores, on the cores that this process may use."""
    (HOME / "peers").mkdir(parents=True, exist_ok=True)
    # Else a bench that is ended leaves its servers running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with EmbeddedServers(HOME) as servers, peers_redis(HOME / "peers") as (socket, port):
        yield Stores(
            servers.database_url, servers.database_owner_url, servers.redis_url, socket, port
        )


@contextmanager
def peers_redis(folder: Path) -> Iterator[tuple[str, int]]:
    port, socket = free_port(), Path(f"/tmp/vitrine-bench-{os.getpid()}.sock")
    process = subprocess.Popen(
        [
            str(redis_binary()), "--port", str(port), "--bind", "127.0.0.1",
            "--unixsocket", str(socket), "--dir", str(folder), "--save", "",
            "--daemonize", "no", "--loglevel", "warning",
        ],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with Redis(unix_socket_path=str(socket)) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    client.ping()
                    break
                except Exception:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
        yield str(socket), port
    finally:
        process.terminate()
        process.wait()
        socket.unlink(missing_ok=True)


def prepared(stores: Stores) -> Shop:
    """Prepares what is missing."""
    folder = HOME / "demo" / MERCHANT
    state = prepare(stores.settings, SupermarketSource(), folder)
    mark = HOME / "prepared"
    wanted = f"{FORMAT}-{state.source}-{state.key}"
    shop = Shop(state.key, state.token, HOME / "paths")
    if not mark.exists() or mark.read_text() != wanted:
        print("preparing rules, pods and the peers' data …", flush=True)
        asyncio.run(_prepare(stores, folder, shop))
        mark.write_text(wanted)
    _events(shop)
    return shop


def item_rows(folder: Path) -> list[dict[str, Any]]:
    """Of each item what rules ask for."""
    rows = []
    with (folder / ITEMS).open("rb") as file:
        for line in file:
            item = msgspec.json.decode(line)
            data = item["data"]
            facets = {facet["name"]: facet["values"][0] for facet in data["facets"]}
            names = ("brand", "maker", "department", "category", "type")
            row = {name: facets.get(name) for name in names}
            rows.append({"id": item["id"], "price": data.get("price"), **row,
                         "available": data.get("active", True)})  # fmt: skip
    return rows


async def _prepare(stores: Stores, folder: Path, shop: Shop) -> None:
    items = await asyncio.to_thread(item_rows, folder)
    container = wire(stores.settings)
    try:
        await _pods(container)
        await container.serving().refresh()
        follower = container.follower()
        await follower.poll()
        while not follower.ready:
            await asyncio.sleep(0.05)
            await follower.poll()
        await _rules(container, items)
        seeds = _paths(folder, shop, items)
        await container.serving().refresh()
        await _peers(container, stores, shop.key, items, seeds)
    finally:
        await container.background_redis().close()
        await container.request_redis().close()
        await container.database().close()


async def _pods(container: Container) -> None:
    config = {"relation": "related", "neighbours": 240}
    with contextlib.suppress(Conflict):  # by an earlier run
        await container.strategy_configurations().create(
            MERCHANT, StrategyConfiguration(id=SIMILAR, strategy="similar", config=config), ACTOR
        )
    trained = await container.training().train(MERCHANT, (SIMILAR,), actor=ACTOR)
    failed = [one.error for one in trained if one.error is not None]
    if failed:
        raise RuntimeError(f"{SIMILAR}: {failed[0]}")
    for id_, (name, chain) in PODS.items():
        pod = Pod(id=id_, display_name=name, chain=chain)
        try:
            await container.pods().create(MERCHANT, pod, ACTOR)
        except Conflict:
            await container.pods().replace(MERCHANT, pod, None, ACTOR)


async def _rules(container: Container, items: Sequence[Mapping[str, Any]]) -> None:
    merchandise = container.merchandise()
    for id_, rules in (
        ("five", five_rules("pdp_similar")),
        ("hundred", many_rules(MANY_POD, items)),
    ):
        document = msgspec.convert({"rules": rules}, RuleSet)
        try:
            await merchandise.create(MERCHANT, id_, id_, document, ACTOR)
        except Conflict:
            await merchandise.replace(MERCHANT, id_, id_, document, None, ACTOR)
        await merchandise.publish(MERCHANT, id_, None, ACTOR, "bench")


def query(key: str, number: int, rest: str) -> str:
    """A query as the storefront client writes it."""
    return (
        f"c=ciojs-client-2.93.1&key={key}&i=b6a0b4b2-{number:08x}&s=1&num_results={RESULTS}"
        f"&{rest}&_dt=1795{number:09d}"
    )


def get(pod: str, key: str, number: int, rest: str) -> str:
    return f"GET\t/recommendations/v1/pods/{pod}?{query(key, number, rest)}\n"


def _paths(folder: Path, shop: Shop, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes the files of requests; the seeds that the peers must know."""
    shop.paths.mkdir(exist_ok=True)
    dice = np.random.default_rng(11)
    purchases = pq.read_table(folder / EVENTS, columns=["user_id", "item_id"])
    available = {item["id"] for item in items if item["available"]}
    bought = purchases["item_id"].to_pylist()
    drawn = [bought[n] for n in dice.integers(0, len(bought), 2 * DRAWN).tolist()]
    drawn = [seed for seed in drawn if seed in available][:DRAWN]
    households = sorted(set(purchases["user_id"].to_pylist()))
    everything = sorted(available)
    dice.shuffle(everything)  # type: ignore[arg-type]  # a list
    key = shop.key

    def write(name: str, lines: Iterator[str]) -> None:
        with (shop.paths / name).open("w") as file:
            file.writelines(lines)

    for name, pod in (("similar", "pdp_similar"), ("rules", MANY_POD)):
        write(name, (get(pod, key, n, f"item_id={seed}") for n, seed in enumerate(drawn)))
    for turn in range(12):  # a segment that no rule knows: nothing of another turn is prepared
        write(
            f"cold-{turn}",
            (
                get("pdp_similar", key, n, f"item_id={seed}&us=t{turn}")
                for n, seed in enumerate(everything)
            ),
        )
    shuffled = [household for _ in range(20) for household in dice.permutation(households)]
    write("for_you", (get("home_for_you", key, n, f"ui={h}") for n, h in enumerate(shuffled)))
    write("popular", (get("home_popular", key, n, "us=") for n in range(10_000)))
    page = f"POST\t/v1/recommendations:page?key={key}\t"

    def body(number: int, household: str, seed: str) -> str:
        pods = [{"pod_id": pod, "num_results": RESULTS} for pod in PAGE_PODS]
        document = {"pods": pods, "item_ids": [seed], "user_id": str(household),
                    "client_id": f"c-{number}"}  # fmt: skip
        return json.dumps(document)

    write(
        "page",
        (
            f"{page}{body(n, h, seed)}\n"
            for n, (h, seed) in enumerate(zip(shuffled, drawn, strict=False))
        ),
    )
    seeds = list(dict.fromkeys(drawn))
    libserving = (
        f"POST\t/knn/recommend\t{json.dumps({'user': f'u{seed}', 'n_rec': RESULTS})}\n"
        for seed in drawn
    )
    write("libserving", libserving)
    return seeds


def _events(shop: Shop) -> None:
    """Clicks of now: the same event twice would be one."""
    now = int(time.time() * 1000)
    with (shop.paths / "tracking").open("w") as file:
        for n in range(DRAWN):
            common = {"c": "ciojs-client-2.93.1", "i": f"client-{n % 20_000}", "s": 1,
                      "key": shop.key, "_dt": now + n}  # fmt: skip
            body = {
                "item_id": str(n), "item_name": "A product of the shop", "result_id": f"r-{n}",
                "pod_id": "home_for_you", "strategy_id": "personalized",
                "num_results_per_page": 10, "result_position_on_page": 3, "section": "Products",
                **common, "beacon": True,
            }  # fmt: skip
            of = "&".join(f"{name}={value}" for name, value in common.items())
            path = f"/v2/behavioral_action/recommendation_result_click?{of}"
            file.write(f"POST\t{path}\t{json.dumps(body)}\n")


async def _peers(
    container: Container,
    stores: Stores,
    key: str,
    items: Sequence[Mapping[str, Any]],
    seeds: Sequence[str],
) -> None:
    """200 candidates a seed as the chain gives them before rules, and the items' documents."""
    snapshot = container.serving().snapshot(key)
    metrics = Metrics()
    chain = Chain(StrategyRunner(metrics), metrics, overfetch=5)
    by_id = {item["id"]: item for item in items}
    number = {item["id"]: n for n, item in enumerate(items)}
    with Redis(unix_socket_path=stores.peers_redis, socket_timeout=600) as client:
        client.flushall()
        features = container.item_features()
        ids = [ItemId(item["id"]) for item in items]
        for start in range(0, len(ids), 2_000):
            some = ids[start : start + 2_000]
            found = await features.features(MERCHANT, DEFAULT_SECTION, some)
            client.mset({f"item:{one.id}": render(one) + b"}" for one in found if one is not None})
        pipe = client.pipeline(transaction=False)
        pipe.set("model_name", "ItemCF")
        pipe.hset("id2item", mapping={str(n): id_ for id_, n in number.items()})
        for done, seed in enumerate(seeds):
            asked = understand(
                snapshot,
                RecommendationRequest(
                    pod_id="pdp_plain", num_results=100, item_ids=(ItemId(seed),)
                ),
                60.0,
            )
            asked.want = CANDIDATES
            asked.exclusions.add(asked.seeds, LeftOut.SEED)
            chosen = await chain.choose(asked)
            index, pool = asked.served.index, chosen.pool
            candidates, similar = [], []
            for row, source, reason, score in zip(
                pool.rows.tolist(), pool.sources.tolist(), pool.reasons.tolist(),
                pool.scores.tolist(), strict=True,
            ):  # fmt: skip
                item = by_id[index.ids[row]]
                candidates.append([
                    item["id"], item["brand"], item["department"], item["type"], item["price"],
                    asked.served.listing.reasons[source][reason], asked.served.pod.chain[source],
                ])  # fmt: skip
                similar.append([number[item["id"]], round(score, 6)])
            pipe.set(f"similar:{seed}", json.dumps(candidates))
            # To libserving a seed is a shopper who has one item: its least work.
            user = str(number[seed])
            pipe.hset("user2id", f"u{seed}", user)
            pipe.hset("user_consumed", user, json.dumps([number[seed]]))
            pipe.hset("k_sims", user, json.dumps(similar))
            if done % 1_000 == 999:
                pipe.execute()
        pipe.execute()
        client.save()


def main() -> None:
    with stores() as running:
        print(prepared(running).paths)


if __name__ == "__main__":
    main()
