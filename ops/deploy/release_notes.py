"""Prints the changelog's part of one version: `python ops/deploy/release_notes.py v1.2.3`."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def notes(version: str) -> str:
    text = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        if title.split()[0] == version.removeprefix("v"):
            return body.strip() + "\n"
    raise SystemExit(f"ops/CHANGELOG.md has no part '## {version.removeprefix('v')}'")


if __name__ == "__main__":
    sys.stdout.write(notes(*sys.argv[1:]))
