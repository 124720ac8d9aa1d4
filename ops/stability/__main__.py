"""The stability suite: what goes wrong in the world, under load, and what comes of it.

    python -m ops.stability                        # all, about 15 minutes; .vitrine/stability.json
    python -m ops.stability redis_killed --scale 0.1
    python -m ops.stability catalogue_changed --stalls   # what held event loops up, in stalls.jsonl
    python -m ops.stability --unprotected          # each protection switched off: all must fail
    python -m ops.stability --soak 30              # minutes

Ends with 0 where all is as it must be.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

import uvloop

from ops.bench.serve_watched import Watch
from ops.stability import report
from ops.stability.load import EVENTS, Record, capacity
from ops.stability.scenarios import ALL, PROTECTED, soak
from ops.stability.scene import Result, Scene
from ops.stability.world import ITEMS, open_world

FOLDER = Path(__file__).resolve().parents[2] / ".vitrine"
HIGHEST = 1_000.0  # requests a second that the generator sends on time beside two workers


async def run(arguments: argparse.Namespace) -> list[Result]:
    names = arguments.scenarios or (PROTECTED if arguments.unprotected else tuple(ALL))
    if arguments.soak:
        names = ()
    results = []
    began = time.perf_counter()
    folder: Path = arguments.folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    stalls = folder / "stalls.jsonl" if arguments.stalls else None
    if stalls is not None:
        stalls.write_text("")
        Watch(stalls.open("a")).start()
    async with open_world(stalls) as world:
        for _ in range(2):  # the first one warms up
            peak = await capacity(world.shop(), max(3.0, 10 * arguments.scale), events=EVENTS)
        rate = min(arguments.rate, peak / 2)
        print(f"capacity {peak:.0f} requests/s; load {rate:.0f}/s", flush=True)
        about = {
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "processors": os.cpu_count(),
            "machine_load": round(os.getloadavg()[0], 1),
            "items": ITEMS,
            "workers": 2,
            "scale": arguments.scale,
            "capacity_per_s": round(peak),
            "load_per_s": round(rate),
        }
        scene = Scene(world, rate, arguments.scale, arguments.unprotected)
        for name in names:
            print(f"{time.perf_counter() - began:5.0f} s  {name} …", flush=True)
            try:
                results.append(await ALL[name](scene))
            except Exception:  # noqa: BLE001  # it is told, and the others are played
                results.append(Result(name, {}, Record(), wrong=[traceback.format_exc()]))
            _tell(results[-1])
        if arguments.soak:
            results.append(await soak(scene, arguments.soak))
            _tell(results[-1])
        if not arguments.unprotected:
            shutil.copy(world.service.log, folder / "stability.log")
            about["minutes"] = round((time.perf_counter() - began) / 60, 1)
            print(report.write(folder, results, about), flush=True)
    return results


def _tell(result: Result) -> None:
    figures = ", ".join(f"{name} {value}" for name, value in result.figures.items())
    print(f"{result.verdict.upper():7} {result.name}: {figures}", flush=True)
    for wrong in result.wrong:
        print(f"        {wrong}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ops.stability")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(ALL))
    parser.add_argument("--scale", type=float, default=1.0, help="of all times: 0.1 to try")
    parser.add_argument("--rate", type=float, default=HIGHEST, help="requests a second, at most")
    parser.add_argument("--unprotected", action="store_true")
    parser.add_argument("--stalls", action="store_true", help="Tell what held event loops up.")
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES")
    parser.add_argument("--folder", type=Path, help="where the report goes; .vitrine")
    arguments = parser.parse_args()
    unknown = set(arguments.scenarios) - set(ALL)
    if unknown:
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    results = uvloop.run(run(arguments))
    expected = "failed" if arguments.unprotected else "passed"
    return int(any(result.verdict != expected for result in results))


if __name__ == "__main__":
    sys.exit(main())
