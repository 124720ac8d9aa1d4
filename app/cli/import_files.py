"""`vitrine import`: a shop's own files."""

from __future__ import annotations

import click

from app.cli.import_events import events
from app.cli.import_items import items


@click.group("import")
def import_files() -> None:
    """Import a shop's own files: its catalogue, and what its shoppers did."""


import_files.add_command(items)
import_files.add_command(events)
