"""How a fit grows: all at once, and an additive one in parts, and only what is new. CPU time and
peak memory.

    python ops/bench/growth.py [--events 100000 1000000 10000000] [--strategies similar] [--parts 8]
        [--how once parts new]

The data are made in memory, with the shape of `ops/bench/training.py`: items as often as Zipf's law
says, baskets of ten lines, some shoppers with many and most with few, a year. What is new is the
last day. Each figure is of a process of its own; reading the log is apart: see
`ops/bench/training.py`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from app.plugins.discovery import discover
from app.plugins.fit_process import peak_mib
from vitrine_sdk import Events, Facet, Items, TrainingData
from vitrine_sdk.additive import Additive, caught_up, fit_in_parts

DAY = 86_400
YEAR = 365 * DAY
START = 1_700_000_000
LINES = 10  # of a basket
HOW = ("once", "parts", "new")
SPAWN = multiprocessing.get_context("spawn")


def made(events: int) -> TrainingData:
    rng = np.random.default_rng(1)
    items = min(events // 16, 100_000)
    weights = 1 / np.arange(10, items + 10) ** 0.8
    item = rng.choice(items, events, p=weights / weights.sum()).astype(np.int32)
    basket = np.arange(events) // LINES
    first = item[basket * LINES]
    near = (first + rng.integers(-30, 30, events)) % items
    item = np.where(rng.random(events) < 0.5, near, item).astype(np.int32)
    baskets = int(basket[-1]) + 1
    who = (rng.random(baskets) ** 2 * (events // 300 + 1)).astype(np.int32)
    at = START + (rng.random(baskets) * YEAR).astype(np.int64)
    order = np.lexsort((basket, at[basket], who[basket]))
    shopper = who[basket][order]
    _, dense = np.unique(shopper, return_inverse=True)
    n = np.arange(items)
    return TrainingData(
        items=Items(
            ids=[f"i{number}" for number in range(items)],
            names=[f"Item {number}" for number in range(items)],
            available=np.ones(items, np.bool_),
            price=(n % 97).astype(np.float32),
            created=np.full(items, START, np.int64),
            groups=Facet(
                [f"g{g}" for g in range(300)], np.arange(items + 1), (n % 300).astype(np.int32)
            ),
            facets={},
        ),
        events=Events(
            shopper=dense.astype(np.int32),
            item=item[order],
            type=np.full(events, 4, np.int8),
            time=at[basket][order],
            quantity=np.ones(events, np.float32),
            revenue=(item[order] % 97).astype(np.float32),
            session=basket[order].astype(np.int32),
            term=np.full(events, -1, np.int32),
            terms=[],
            shoppers=int(dense.max()) + 1,
        ),
        now=START + YEAR,
    )


def measure(events: int, name: str, how: str, parts: int) -> dict[str, object]:
    installed = discover().get(name)
    assert installed is not None
    strategy = installed.usable()
    config = strategy.config()
    data = made(events)
    watermark = data.now - DAY
    old = np.flatnonzero(data.events.time <= watermark)
    if how == "new":
        assert isinstance(strategy, Additive)
        columns = ("shopper", "item", "type", "time", "quantity", "revenue", "session", "term")
        past = {column: getattr(data.events, column)[old] for column in columns}
        before = strategy.count(
            replace(data, events=replace(data.events, **past), now=watermark), config
        )
    began, peak = time.process_time(), peak_mib()
    size = 0
    if how == "once":
        size = sum(array.nbytes for array in strategy.fit(data, config, 1).values())
    elif how == "parts":
        assert isinstance(strategy, Additive)
        fit_in_parts(strategy, data, config, 1, parts)
    else:
        there = np.arange(len(data.items), dtype=np.int32)
        counts = caught_up(strategy, before, there, watermark, data, config)
        caught = time.process_time() - began
        strategy.finish(counts, data.items, data.now, config, 1)
    row: dict[str, object] = {
        "strategy": name,
        "events": events,
        "items": len(data.items),
        "how": how,
        "cpu_seconds": round(time.process_time() - began, 1),
        "peak_mib": round(peak_mib()),
        "data_mib": round(peak),
    }
    if size:
        row["artefact_mib"] = round(size / 2**20)
    if how == "new":
        row["new_events"] = events - len(old)
        row["counting_cpu_seconds"] = round(caught, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--strategies", nargs="+", default=["similar"])
    parser.add_argument("--how", nargs="+", default=list(HOW), choices=HOW)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--json", type=Path, help="Also write the figures there.")
    given = parser.parse_args()
    installed = discover()
    rows = []
    for name in given.strategies:
        found = installed.get(name)
        if found is None:
            raise SystemExit(f"there is no strategy {name!r}")
        additive = isinstance(found.usable(), Additive)
        for events in given.events:
            for how in given.how if additive else ["once"]:
                with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
                    rows.append(pool.submit(measure, events, name, how, given.parts).result())
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
