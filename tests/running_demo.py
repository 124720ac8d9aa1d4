"""`vitrine demo` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0  # seconds after which something that must happen has failed to


@dataclass
class Demo:
    process: subprocess.Popen[bytes]
    home: Path
    log: Path
    about: dict[str, Any] = field(default_factory=dict)

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"it did not happen\n{self.log.read_text()[-6000:]}")
            time.sleep(0.02)

    def ready(self, seconds: float = PATIENCE) -> Demo:
        self.until((self.home / "demo.json").exists, seconds)
        self.about = json.loads((self.home / "demo.json").read_text())
        return self

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


def start_demo(home: Path, urls: dict[str, str], *options: str) -> Demo:
    (home / "demo.json").unlink(missing_ok=True)
    log = home / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from app.cli import main; main()", "demo"),
                *("--port", "0", *options),
            ],
            cwd=home,
            env={
                **os.environ,
                **urls,
                "VITRINE_HOME": str(home),
                "VITRINE_REQUEST_BUDGET": "5",  # a busy machine is no reason to fall back
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    return Demo(process, home, log)
