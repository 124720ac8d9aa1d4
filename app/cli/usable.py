"""Settings that are well-formed, and that this machine cannot do: found before anything starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec

from app.settings import Settings, SettingsError
from app.telemetry.open_telemetry import asked_for


def ensure_usable(settings: Settings) -> None:
    """Makes the folders that are not there yet.

    Raises:
        SettingsError: naming each variable and what is wrong with it.
    """
    wrong = list(unusable(settings))
    for name, folder in folders(settings).items() if not wrong else ():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            wrong.append(f"{name}: {folder} cannot be made: {error.strerror}")
    if wrong:
        raise SettingsError("\n".join(wrong))


def unusable(settings: Settings) -> Iterator[str]:
    """A line for each variable that cannot be used here. Changes nothing."""
    for name in ("artefacts_url", "event_archive_url"):
        url = getattr(settings, name)
        if url is not None and "://" in url:
            protocol = url.partition("://")[0]
            try:
                fsspec.get_filesystem_class(protocol)
            except (ValueError, ImportError) as error:
                yield f"VITRINE_{name.upper()}: {protocol}:// cannot be used here: {error}"
    for name, folder in folders(settings).items():
        existing = next(part for part in (folder, *folder.parents) if part.exists())
        if not existing.is_dir():
            yield f"{name}: {existing} is no folder"
        elif not os.access(existing, os.W_OK | os.X_OK):
            yield f"{name}: {existing} cannot be written by this user"
    try:
        asked_for(os.environ)
    except ValueError as error:
        yield str(error)


def folders(settings: Settings) -> dict[str, Path]:
    """The folders that are written to, by the variable that names them."""
    found = {"VITRINE_HOME": settings.home}
    if settings.artefacts_url is not None and "://" not in settings.artefacts_url:
        found["VITRINE_ARTEFACTS_URL"] = Path(settings.artefacts_url)
    if settings.event_spool is not None:
        found["VITRINE_EVENT_SPOOL"] = settings.event_spool
    return {name: folder.absolute() for name, folder in found.items()}
