"""Every command tells how it is used, with an example."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from app.cli import vitrine


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(vitrine))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_each_command_helps_with_an_example(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(vitrine, [*path, "--help"])
    assert done.exit_code == 0, done.output
    assert ALL[path].help
    assert f"vitrine {path[0]}" in done.output.split("Example", 1)[-1], done.output


def test_an_unknown_command_is_refused_by_name() -> None:
    done = CliRunner().invoke(vitrine, ["recommend"])
    assert done.exit_code == 2
    assert "recommend" in done.output
