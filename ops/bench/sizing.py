"""What so many requests a day cost in cores, memory and Redis, from what `make bench` measured.

    python ops/bench/sizing.py [--requests 1e9] [--items 1000000] [--report .vitrine/bench.json]

Examples:
    python ops/bench/sizing.py
    python ops/bench/sizing.py --requests 5e7 --items 100000 --peak 5
    python ops/bench/sizing.py --mix pdp_similar=0.7 home_popular=0.3 --events 1.1

Reads the sections `compare`, `scale`, `traffic` and `figures` of the report; says what is missing.
Prints the assumptions with the figures, in Markdown: it is the table of ops/README.md, Sizing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAY = 86_400
MIX = {"pdp_similar": 0.5, "home_for_you": 0.2, "home_popular": 0.25, "page of 4 pods": 0.05}
TRACKING = "tracking"
EVENT_BYTES = 300  # of a row of the event log with its indexes


@dataclass(frozen=True)
class Assumed:
    """What no measurement can say."""

    requests: float = 1e9  # a day
    peak: float = 3.0  # of the average
    used: float = 0.6  # of a core at the peak, before waiting grows
    spare: float = 1.5  # a zone of three may be lost
    events: float = 0.5  # a request: views, clicks, carts, purchases
    items: int = 1_000_000
    cores: int = 16  # of a machine
    machine_gib: int = 64


@dataclass(frozen=True)
class Sized:
    rate: float  # requests a second at the peak
    event_rate: float
    cpu_us: float  # a request of the mix
    serving_cores: float
    tracking_cores: float
    workers: int
    machines: int
    worker_gib: float | None
    memory_gib: float | None  # of all machines
    redis_commands: float | None  # a second at the peak
    redis_mib_in: float | None
    redis_mib_out: float | None
    redis_gib: float | None
    log_gib_a_day: float


def sized(report: Mapping[str, Any], mix: Mapping[str, float], assumed: Assumed) -> Sized:
    """
    Raises:
        ValueError: naming what the report does not have, or how the mix is wrong.
    """
    if not math.isclose(sum(mix.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"the parts of the mix add up to {sum(mix.values()):g}, not to 1")
    compare = report.get("compare", {})
    if missing := [name for name in (*mix, TRACKING) if name not in compare]:
        raise ValueError(f"the report has no measurement of {', '.join(missing)}: make bench")
    rate = assumed.requests / DAY * assumed.peak
    event_rate = rate * assumed.events
    cpu = sum(share * compare[name]["cpu_us"] for name, share in mix.items())
    serving = rate * cpu / 1e6 / assumed.used
    tracking = event_rate * compare[TRACKING]["cpu_us"] / 1e6 / assumed.used
    workers = math.ceil((serving + tracking) * assumed.spare)
    scale = _of_size(report.get("scale", ()), assumed.items)
    gib = None if scale is None else scale["two" if "two" in scale else "one"]["pss"] / 1024
    by_memory = 0 if gib is None else math.ceil(workers * gib / (assumed.machine_gib * 0.8))
    traffic = report.get("traffic", {})
    known = all(name in traffic for name in (*mix, TRACKING))

    def a_second(what: str) -> float | None:
        if not known:
            return None
        idle = traffic.get("idle worker, a second", {}).get(what, 0.0) * workers
        asked = sum(share * traffic[name][what] for name, share in mix.items()) * rate
        return float(idle + asked + traffic[TRACKING][what] * event_rate)

    into, out = a_second("to_redis"), a_second("from_redis")
    return Sized(
        rate=rate,
        event_rate=event_rate,
        cpu_us=cpu,
        serving_cores=serving,
        tracking_cores=tracking,
        workers=workers,
        machines=max(math.ceil(workers / assumed.cores), by_memory),
        worker_gib=gib,
        memory_gib=None if gib is None else workers * gib,
        redis_commands=a_second("commands"),
        redis_mib_in=None if into is None else into / 2**20,
        redis_mib_out=None if out is None else out / 2**20,
        redis_gib=None if scale is None else scale["redis_mib"] / 1024,
        log_gib_a_day=assumed.requests * assumed.events * EVENT_BYTES / 2**30,
    )


def _of_size(rows: Sequence[Mapping[str, Any]], items: int) -> Mapping[str, Any] | None:
    """The measurement of the smallest catalogue that is as large."""
    fitting = [row for row in rows if row.get("merchants") == 1 and row["items"] >= items]
    return min(fitting, key=lambda row: int(row["items"]), default=None)


def told(found: Sized, report: Mapping[str, Any], mix: Mapping[str, float], a: Assumed) -> str:
    def number(value: float | None, unit: str, digits: int = 0) -> str:
        return "not measured" if value is None else f"{value:,.{digits}f}{unit}"

    parts = ", ".join(f"{share:.0%} {name}" for name, share in mix.items())
    rows = [
        ("requests a second, average; peak", f"{a.requests / DAY:,.0f}; {found.rate:,.0f}"),
        ("CPU of a request of the mix", f"{found.cpu_us:,.0f} µs"),
        ("cores: serving; events", f"{found.serving_cores:,.0f}; {found.tracking_cores:,.0f}"),
        (f"workers, with {a.spare:g} times of that for a zone's loss", f"{found.workers:,}"),
        (f"machines of {a.cores} cores and {a.machine_gib} GiB", f"{found.machines:,}"),
        (f"memory a worker, {a.items:,} items; all", f"{number(found.worker_gib, ' GiB', 2)};"
         f" {number(found.memory_gib, ' GiB')}"),
        ("Redis: commands a second at the peak", number(found.redis_commands, "")),
        ("Redis: MiB a second in; out", f"{number(found.redis_mib_in, '', 1)};"
         f" {number(found.redis_mib_out, '', 1)}"),
        ("Redis: catalogue", number(found.redis_gib, " GiB", 2)),
        ("PostgreSQL: events a second at the peak", f"{found.event_rate:,.0f}"),
        ("PostgreSQL: event log a day", f"{found.log_gib_a_day:,.0f} GiB"),
    ]  # fmt: skip
    batched = report.get("figures", {}).get("events_batched_per_s")
    if batched:
        rows.append(("PostgreSQL servers at the measured durable rate, in batches",
                     f"{math.ceil(found.event_rate / batched):,}"))  # fmt: skip
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    load = report.get("load")
    under = "" if load is None else f" Measured at a load of {load[0]:.1f}."
    return (
        f"Assumed: {a.requests:,.0f} requests a day; a peak of {a.peak:g} times the average;"
        f" {parts}; {a.events:g} events a request, one call each; cores used to {a.used:.0%}."
        f"{under}\n\n| | |\n|---|---|\n{table}\n"
    )


def _mix(parts: Sequence[str]) -> dict[str, float]:
    return {name: float(share) for name, _, share in (part.rpartition("=") for part in parts)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Assumed()
    parser.add_argument("--requests", type=float, default=default.requests, help="A day.")
    parser.add_argument("--peak", type=float, default=default.peak, help="Of the average.")
    parser.add_argument("--used", type=float, default=default.used, help="Of a core, at the peak.")
    parser.add_argument("--spare", type=float, default=default.spare, help="For a zone's loss.")
    parser.add_argument("--events", type=float, default=default.events, help="A request.")
    parser.add_argument("--items", type=int, default=default.items)
    parser.add_argument("--cores", type=int, default=default.cores, help="Of a machine.")
    parser.add_argument("--machine-gib", type=int, default=default.machine_gib)
    parser.add_argument("--mix", nargs="+", metavar="NAME=SHARE", help="Lines of make bench.")
    parser.add_argument("--report", type=Path, help="Default: .vitrine/bench.json.")
    given = parser.parse_args()
    path = given.report or Path(__file__).resolve().parents[2] / ".vitrine" / "bench.json"
    report = json.loads(path.read_text())
    mix = MIX if given.mix is None else _mix(given.mix)
    assumed = Assumed(
        given.requests, given.peak, given.used, given.spare, given.events, given.items,
        given.cores, given.machine_gib,
    )  # fmt: skip
    try:
        found = sized(report, mix, assumed)
    except ValueError as error:
        raise SystemExit(f"{path}: {error}") from None
    print(told(found, report, mix, assumed))


if __name__ == "__main__":
    main()
