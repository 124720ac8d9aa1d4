"""`vitrine`: one command, a module a group; calling one imports no other."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final

import click

from app.settings import SettingsError

COMMANDS: Final[Mapping[str, str]] = {
    "cache": "app.cli.cache:cache",
    "demo": "app.cli.demo:demo",
    "doctor": "app.cli.doctor:doctor",
    "evaluate": "app.cli.evaluate:evaluate",
    "import": "app.cli.import_files:import_files",
    "log-level": "app.cli.log_level:log_level",
    "measure": "app.cli.measure:measure",
    "merchant": "app.cli.merchant:merchant",
    "migrate": "app.cli.migrate:migrate",
    "models": "app.cli.models:models",
    "serve": "app.cli.serve:serve",
    "strategies": "app.cli.strategies:strategies",
    "train": "app.cli.train:train",
    "tune": "app.cli.tuning:command",
    "worker": "app.cli.worker:worker",
}


class Commands(click.Group):
    """Finds a command's module by its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101
        return command


@click.group(
    cls=Commands,
    epilog="Example: vitrine demo --port 8000",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="vitrine")
def vitrine() -> None:
    """Product recommendations for online shops: self-hosted, ruled by merchants, quick."""


def main() -> None:
    """The console script. A wrong setting ends with 2 and a line that names it."""
    try:
        vitrine()
    except SettingsError as error:
        click.echo(f"vitrine: wrong settings\n{error}", err=True)
        raise SystemExit(2) from None
