"""What commands work with: the stores of the settings, and everything wired to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from dependency_injector import providers

from app.container import Container
from app.embedded.stores import open_stores
from app.settings import Settings, from_environment
from app.telemetry.metrics import Metrics


@contextmanager
def opened_settings(settings: Settings | None = None, *, redis: bool = True) -> Iterator[Settings]:
    """Settings in which the stores have an address: the given ones, or embedded servers that run
    at least as long as the block.

    Raises:
        SettingsError: the environment is wrong.
        EmbeddedError: an embedded server cannot run here.
    """
    settings = settings or from_environment()
    with open_stores(settings, redis=redis) as stores:
        yield msgspec.structs.replace(
            settings,
            database_url=stores.database,
            database_owner_url=stores.database_owner,
            redis_url=stores.redis or None,
        )


def wire(settings: Settings, metrics: Metrics | None = None) -> Container:
    """Everything, for settings that `opened_settings` gave. Within the event loop that uses it."""
    return Container(
        settings=providers.Object(settings), metrics=providers.Object(metrics or Metrics())
    )
