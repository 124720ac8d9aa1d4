"""Nearest items by content at a catalogue's size: recall and CPU of the index, and of the way that
small catalogues take, against every cosine there is.

    python ops/bench/ann.py [--items 10000 100000 1000000] [--queries 300] [--keep 50]

Example: `python ops/bench/ann.py --items 20000 --queries 100`. The items are made: names of six
words of 6,000, brands and categories as often as shops have them, some common. Recall: of the
`keep` nearest items by the cosine of `similar`'s features, the share that is found; one as near as
the last of them counts as found. CPU: of one thread. "all" is what a fit takes that asks for every
item, from the sample of queries. Needs the extra `ann`: pip install faiss-cpu.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import record
from scipy import sparse

from vitrine_sdk import FloatArray, IntArray, Items
from vitrine_sdk.contract import Facet
from vitrine_sdk.neighbours import Neighbours
from vitrine_similar.content import features, nearest
from vitrine_similar.index import PROBES, ContentIndex

SYLLABLES = (
    "ka",
    "lo",
    "mi",
    "ter",
    "ran",
    "vel",
    "so",
    "pin",
    "gra",
    "du",
    "be",
    "fen",
    "cor",
    "qua",
)


def made(n: int) -> Items:
    dice = np.random.default_rng(1)
    words = ["".join(dice.choice(SYLLABLES, dice.integers(2, 4))) for _ in range(6_000)]
    brands, types = max(n // 300, 50), max(n // 250, 60)
    brand = np.minimum(dice.zipf(1.2, n) - 1, brands - 1).astype(np.int32)
    kind = dice.integers(0, types, n).astype(np.int32)
    of_kind, of_brand = dice.integers(0, 6_000, (types, 2)), dice.integers(0, 6_000, brands)
    others = np.minimum(dice.zipf(1.15, (n, 2)), 6_000) - 1
    size = dice.integers(1, 60, n)
    names = [
        f"{words[of_brand[b]]} {words[of_kind[k][0]]} {words[of_kind[k][1]]}"
        f" {words[more[0]]} {words[more[1]]} {number}"
        for b, k, more, number in zip(brand, kind, others, size, strict=True)
    ]
    groups = np.stack([types + kind // 20, kind], axis=1).reshape(-1).astype(np.int32)

    def facet(codes: IntArray, values: int) -> Facet:
        return Facet([str(v) for v in range(values)], np.arange(n + 1), codes)

    return Items(
        ids=[f"i{k}" for k in range(n)],
        names=names,
        available=np.ones(n, np.bool_),
        price=np.exp(dice.normal(2.5, 1, n) + kind % 7 * 0.2).astype(np.float32),
        created=np.zeros(n, np.int64),
        groups=Facet(
            [f"g{k}" for k in range(types + types // 20 + 1)], np.arange(0, 2 * n + 1, 2), groups
        ),
        facets={
            "brand": facet(brand, brands),
            "colour": facet(dice.integers(0, 14, n).astype(np.int32), 14),
        },
    )


def farthest(matrix: sparse.csr_matrix, rows: IntArray, keep: int) -> FloatArray:
    """The cosine of each row's `keep`-th nearest item: of all of them."""
    every = matrix.T.tocsr()
    found = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 20):
        part = rows[start : start + 20]
        cosines = (matrix[part] @ every).toarray()
        cosines[np.arange(len(part)), part] = 0
        found[start : start + 20] = np.partition(cosines, -keep, axis=1)[:, -keep]
    return found


def recall(
    matrix: sparse.csr_matrix, rows: IntArray, found: Neighbours, least: FloatArray, keep: int
) -> float:
    hits = 0.0
    for row, limit in zip(rows.tolist(), least.tolist(), strict=True):
        items = found.items[found.offsets[row] : found.offsets[row + 1]]
        cosines = (matrix[items] @ matrix[row].T).toarray().ravel()
        hits += min(int((cosines >= limit - 1e-5).sum()), keep) / keep
    return hits / len(rows)


def timed(work: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    began = time.process_time()
    return work(*given), time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--keep", type=int, default=50)
    given = parser.parse_args()
    import faiss

    faiss.omp_set_num_threads(1)
    rows = []
    print(f"{'items':>10} {'way':<22} {'recall':>7} {'CPU to build, s':>16} {'all, s':>8}")
    for n in given.items:
        matrix = features(made(n))
        dice = np.random.default_rng(2)
        asked = np.sort(dice.choice(n, min(given.queries, n), replace=False)).astype(np.int32)
        least = farthest(matrix, asked, given.keep)

        prior = np.linspace(0, 1e-3, n, dtype=np.float32)
        _, build = timed(nearest, matrix, asked[:0], prior, given.keep, 48)
        found, taken = timed(nearest, matrix, asked, prior, given.keep, 48)
        ways = [("most popular 48", build, max(taken - build, 0), found)]
        index, build = timed(ContentIndex, matrix, 0)
        for probes in (PROBES // 2, PROBES, PROBES * 2):
            found, taken = timed(index.nearest, asked, given.keep, probes)
            ways.append((f"index, {probes} probes", build, taken, found))
        for way, build, taken, found in ways:
            share = recall(matrix, asked, found, least, given.keep)
            every = build + taken * n / len(asked)
            print(f"{n:>10,} {way:<22} {share:>7.3f} {build:>16.1f} {every:>8.0f}", flush=True)
            rows.append({"items": n, "way": way, "recall": round(share, 3),
                         "build_s": round(build, 1), "all_s": round(every)})  # fmt: skip
    record({}, ann=rows)
    print(json.dumps({"keep": given.keep, "queries": given.queries}))


if __name__ == "__main__":
    main()
