"""Defaults from several shops: which configuration is best where the shop is not known.

    python ops/quality/defaults.py personalized [--candidates 24] [--queries 1500] [--seed 0]

Each candidate (the default as it is, and draws from the strategy's space below) is fitted and asked
on each shop's validation split; nothing of a test split is looked at. A shop's figures are divided
by its best, so that each shop counts alike, and the mean over the shops ranks the candidates. Left
out in turn, a shop says what the others' choice is worth to a shop that was never seen. Writes
.vitrine/defaults-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from quality import DATA, OUT, DataSet, data_path

from app.cli.evaluate import column_pairs
from app.plugins.discovery import discover
from app.services.evaluate import Contender, measure, run
from app.services.evaluate_formats import read
from app.services.evaluate_splits import Split, split


@dataclass(frozen=True, slots=True)
class Shop:
    """A data set and what is asked of it."""

    data: str
    protocol: str
    metric: str
    days: int = 30
    exclude_seen: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    shops: tuple[Shop, ...]
    space: Mapping[str, tuple[Any, ...]]
    fixed: Mapping[str, Any]


VISITS = (
    Shop("diginetica", "next-click", "mrr@20", days=7),
    Shop("retailrocket", "next-click", "mrr@20"),
    Shop("online-retail", "next-click", "mrr@20"),
)
QUESTIONS = {
    "personalized": Question(
        (
            Shop("amazon-beauty", "leave-one-out", "ndcg@10", exclude_seen=True),
            Shop("amazon-toys", "leave-one-out", "ndcg@10", exclude_seen=True),
            Shop("retailrocket", "last-purchase", "ndcg@10", exclude_seen=True),
            Shop("online-retail", "next-basket", "ndcg@10"),
        ),
        {
            "recency": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98),
            "gaps": (3, 6, 12, 20),
            "gap_decay": (0.3, 0.5, 0.7, 1.0),
            "backward": (0.1, 0.3, 0.6, 1.0),
            "damping": (0.2, 0.3, 0.4, 0.5),
            "shrink": (0.0, 0.5, 2.0),
        },
        {"embedding": 0},  # it has a rule of its own, and would hide what the counts do
    ),
    "session": Question(
        VISITS,
        {
            "recency": (0.4, 0.5, 0.6, 0.7, 0.8),
            "distance": (1.5, 2.5, 4.0, 6.0, 10.0),
            "transitions": (0.1, 0.15, 0.25, 0.4),
            "own_last": (0.6, 0.8, 1.0),
            "own_before": (1.0, 1.3, 1.6),
            "backward": (0.5, 0.7, 1.0),
            "idf": (0.0, 0.15, 0.3, 0.5),
        },
        {"embedding": 0},
    ),
    "similar": Question(
        VISITS,
        {
            "gaps": (2, 4, 6, 10),
            "gap_decay": (0.5, 0.7, 1.0, 1.5),
            "backward": (0.3, 0.6, 0.8, 1.0),
            "baskets": (0.3, 1.0, 2.0),
            "damping": (0.2, 0.35, 0.5, 0.65),
            "shrink": (0.5, 1.5, 3.0, 6.0),
        },
        {},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("strategy", choices=sorted(QUESTIONS))
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--queries", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--also", type=json.loads, action="append", default=[],
                        help="JSON: one more candidate. Repeatable.")  # fmt: skip
    given = parser.parse_args()
    question = QUESTIONS[given.strategy]
    installed = discover().get(given.strategy)
    assert installed is not None
    strategy = installed.usable()
    rng = np.random.default_rng(given.seed)
    draws = [
        {name: values[rng.integers(len(values))] for name, values in question.space.items()}
        for _ in range(given.candidates - 1 - len(given.also))
    ]
    candidates: list[dict[str, Any]] = [{}, *given.also, *draws]
    shops = [shop for shop in question.shops if _paths(shop.data)]
    values = np.zeros((len(candidates), len(shops)))
    for place, shop in enumerate(shops):
        made = _validation(shop, given.queries, given.seed)
        began = time.process_time()
        for row, changed in enumerate(candidates):
            config = installed.configuration({**question.fixed, **changed})
            cut = int(shop.metric.partition("@")[2])
            done = run(
                Contender(given.strategy, [(strategy, config)]),
                made,
                cut,
                exclude_seen=shop.exclude_seen,
            )
            values[row, place] = measure(made, done, [cut]).estimates[shop.metric].value
        print(
            f"{shop.data}: {shop.metric} {values[0, place]:.4f} by default, best "
            f"{values[:, place].max():.4f}; {time.process_time() - began:.0f} CPU s",
            flush=True,
        )
    _show(shops, candidates, values, len(given.also))
    out = OUT.parent / f"defaults-{given.strategy}.json"
    out.parent.mkdir(exist_ok=True)
    rows = [
        {"config": config, "values": dict(zip([s.data for s in shops], row, strict=True))}
        for config, row in zip(candidates, values.tolist(), strict=True)
    ]
    out.write_text(json.dumps({"strategy": given.strategy, "rows": rows}, indent=1) + "\n")


def _paths(name: str) -> list[Path]:
    """Empty where a file of the data set is not there."""
    paths = [data_path(file) for file in _data(name).files]
    return [p for p in paths if p is not None and p.is_file()] if all(paths) else []


def _data(name: str) -> DataSet:
    return next(one for one in DATA if one.name == name)


def _validation(shop: Shop, queries: int, seed: int) -> Split:
    options = _data(shop.data).options
    format_ = options[options.index("--format") + 1]
    columns = [options[i + 1] for i, option in enumerate(options) if option == "--column"]
    log = read(format_, _paths(shop.data), column_pairs(columns))
    made = split(log, shop.protocol, "validation", shop.days)
    rows = np.random.default_rng(seed).permutation(len(made.queries))[:queries]
    return replace(made, queries=made.queries.some(np.sort(rows)))


def _show(
    shops: Sequence[Shop],
    candidates: Sequence[Mapping[str, Any]],
    values: npt.NDArray[Any],
    also: int,
) -> None:
    shares = values / np.maximum(values.max(axis=0), 1e-12)
    mean = shares.mean(axis=1)
    best = int(np.argmax(mean))
    print(f"default: {mean[0]:.3f} of each shop's best, in the mean")
    for row, changed in enumerate(candidates[1 : 1 + also], start=1):
        there = "  ".join(f"{value:.4f}" for value in values[row])
        print(
            f"{json.dumps(changed)}: {mean[row]:.3f} ({there}; by default "
            f"{'  '.join(f'{value:.4f}' for value in values[0])})"
        )
    print(f"best in the mean: {mean[best]:.3f} {json.dumps(candidates[best])}")
    print("| shop left out | chosen by the others | there | by default | its own best |")
    print("|---|---|---|---|---|")
    for place, shop in enumerate(shops):
        others = np.delete(shares, place, axis=1).mean(axis=1)
        chosen = int(np.argmax(others))
        print(
            f"| {shop.data}, {shop.metric} | `{json.dumps(candidates[chosen])}` | "
            f"{values[chosen, place]:.4f} | {values[0, place]:.4f} | "
            f"{values[:, place].max():.4f} |"
        )


if __name__ == "__main__":
    main()
