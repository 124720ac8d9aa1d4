"""What processes hold in memory, by the kernel's own account (/proc/PID/smaps), and what of it they
share.

    python ops/bench/memory.py PID [PID ...]

Example: `python ops/bench/memory.py $(pgrep -f 'vitrine serve')`. `rss` counts a page in each
process that has it, `pss` divides it among them. `models` and `catalogue` are mapped files:
workers share their pages; `own` is what a process has alone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

MIB = 2**20
_HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$")


@dataclass
class Memory:
    """Bytes."""

    rss: int = 0
    pss: int = 0
    own: int = 0  # private pages
    models: int = 0  # resident pages of artefacts
    models_pss: int = 0
    catalogue: int = 0  # resident pages of catalogue snapshots, where there are mapped ones
    code: int = 0  # resident pages of programs and libraries

    def __add__(self, other: Memory) -> Memory:
        return Memory(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def each(self, workers: int) -> dict[str, int]:
        """MiB a worker."""
        return {f.name: round(getattr(self, f.name) / workers / MIB) for f in fields(self)}


def parsed(smaps: str) -> Memory:
    """What the text of one smaps says."""
    found = Memory()
    path = ""
    for line in smaps.splitlines():
        if head := _HEAD.match(line):
            path = head[1]
            continue
        name, _, rest = line.partition(":")
        if not rest.endswith(" kB"):
            continue
        size = int(rest.split()[0]) * 1024
        if name == "Rss":
            found.rss += size
            if path.endswith(".npy") or "/artefacts/" in path or "/cache/" in path:
                found.models += size
            elif "catalogue" in path:
                found.catalogue += size
            elif path.startswith("/"):
                found.code += size
        elif name == "Pss":
            found.pss += size
            if path.endswith(".npy") or "/artefacts/" in path or "/cache/" in path:
                found.models_pss += size
        elif name in ("Private_Clean", "Private_Dirty"):
            found.own += size
    return found


def memory(pids: Iterable[int]) -> Memory:
    """Of processes together; those that have ended meanwhile count nothing."""
    total = Memory()
    for pid in pids:
        try:
            total += parsed(Path(f"/proc/{pid}/smaps").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pids", type=int, nargs="+")
    given = parser.parse_args()
    names = [f.name for f in fields(Memory)]
    print(f"{'MiB':>8}" + "".join(f"{name:>12}" for name in names))
    for pid in given.pids:
        row = memory([pid]).each(1)
        print(f"{pid:>8}" + "".join(f"{row[name]:>12}" for name in names))


if __name__ == "__main__":
    main()
