"""The child process that fits: `python -m app.plugins.fit_process`.

It reads one line of JSON (`FitJob`) from standard input and answers with one (`FitReport`) on
standard output, which a strategy that prints cannot reach: its prints go to standard error.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec

from app.domain.errors import InvalidInput
from app.domain.gate import Verdict, unjudged
from app.domain.objective import Calibration
from app.domain.strategy import InstalledStrategy
from app.plugins import training_files
from app.plugins.artefact_files import ITEMS_OFFSETS, ITEMS_UTF8, open_arrays, write
from app.plugins.discovery import discover
from app.plugins.fit_job import Against, FitJob, FitReport
from app.plugins.kept_counts import fit_incrementally
from vitrine_sdk import ENTRY_POINT_GROUP, Arrays, Config, Context, Strategy, TrainingData
from vitrine_sdk.additive import Additive


def run(job: FitJob) -> FitReport:
    """Fit, write, and open again what was written: a version that cannot be loaded is none."""
    if job.memory_mib is not None:
        limit = job.memory_mib << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    started = time.perf_counter()
    found = discover(entry_points(group=ENTRY_POINT_GROUP, name=job.strategy)).get(job.strategy)
    if found is None:
        return FitReport(error=f"strategy {job.strategy!r} is not installed")
    try:
        strategy, config = found.usable(), found.configuration(job.config)
    except InvalidInput as error:
        return FitReport(error=error.message)
    data = training_files.load(Path(job.data))
    staged = Path(job.staged)
    step = "fit"
    try:
        arrays, resumed = _fitted(strategy, data, config, job)
        fitted, cpu = time.perf_counter(), time.process_time()
        step = "what it made could not be written"
        files = write(staged, arrays, data.items.ids)
        step = "what it made could not be loaded"
        del arrays
        opened = open_arrays(staged, [name.removesuffix(".npy") for name in files])
        opened.pop(ITEMS_UTF8)
        opened.pop(ITEMS_OFFSETS)
        model = strategy.load(opened, config, len(data.items))
        model.recommend(Context(now=data.now), 1)
        peak = peak_mib()
    except MemoryError:
        return FitReport(error=f"{step}: out of memory")
    except Exception as error:  # noqa: BLE001  # a strategy's own trouble, told to its merchant
        first = next(iter(str(error).splitlines()), "")
        return FitReport(
            error=f"{step}: {type(error).__name__}: {first}"[:500].rstrip(": "),
            trace=traceback.format_exc(),
        )
    verdict, trace = None, None
    if job.against is not None:
        verdict, trace = _judged(found, config, data, job.against, job.seed)
    calibration = None
    if job.calibrate:
        calibration, failed = _calibrated(found, config, data, job.seed)
        trace = trace or failed
    return FitReport(
        contract=found.contract or 0,
        format=found.format or 0,
        items=len(data.items),
        files=files,
        verdict=verdict,
        calibration=calibration,
        trace=trace,
        metrics={
            "items": float(len(data.items)),
            "events": float(len(data.events)),
            "shoppers": float(data.events.shoppers),
            "seconds": round(fitted - started, 3),
            "cpu_seconds": round(cpu, 3),  # of all threads, what the machine's load leaves alone
            "peak_mib": round(peak, 1),
            **({} if resumed is None else {"incremental": float(resumed)}),
            "bytes": float(sum((staged / name).stat().st_size for name in files)),
        },
    )


def _fitted(
    strategy: Strategy[Any], data: TrainingData, config: Config, job: FitJob
) -> tuple[Arrays, bool | None]:
    """The arrays, and whether they were caught up from kept counts; None: nobody asked."""
    if job.counts is None or not isinstance(strategy, Additive):
        return strategy.fit(data, config, job.seed), None
    place = Path(job.counts)
    key = f"{job.counts_key}/{strategy.format}"
    return fit_incrementally(strategy, data, config, job.seed, place, key)


def _judged(
    found: InstalledStrategy, config: Config, data: TrainingData, against: Against, seed: int
) -> tuple[Verdict, str | None]:
    """The gate's verdict, and the stack of what went wrong. What cannot be judged does not serve
    by itself, but for a configuration that this version of the strategy does not know any more."""
    from app.plugins.judging import judge  # it brings much that no other fit needs

    try:
        before = found.configuration(against.manifest.config)
    except InvalidInput:
        reason = "the version that serves has a config of another version of the strategy"
        return unjudged(reason), None
    try:
        return judge(found.usable(), config, before, data, against, seed), None
    except Exception as error:  # noqa: BLE001  # a strategy's own trouble; MemoryError too
        verdict = Verdict(passed=False, reason=f"could not be judged: {type(error).__name__}")
        return verdict, traceback.format_exc()


def _calibrated(
    found: InstalledStrategy, config: Config, data: TrainingData, seed: int
) -> tuple[Calibration | None, str | None]:
    """What the scores mean, and the stack of what went wrong: a model without it serves, in the
    strategy's own order."""
    from app.services.calibrate import calibrate

    try:
        return calibrate(found.usable(), config, data, seed), None
    except Exception:  # noqa: BLE001  # a strategy's own trouble; MemoryError too
        return None, traceback.format_exc()


def peak_mib() -> float:
    """The most memory that this process has had so far, MiB."""
    try:
        # ru_maxrss would be the parent's, where that is larger: it outlives an exec.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _end_with_parent() -> None:
    """Ends this process when the one that started it closes its end of the pipe, or dies."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints are for people
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=FitJob)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(5)  # serving comes first
    report = run(job)
    answer.write(msgspec.json.encode(report))
    answer.close()
    # Not through the interpreter's end: a thread of a strategy's must not hold it up, and the
    # reader of standard input does.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
