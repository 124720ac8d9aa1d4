"""Levels of loggers that an operator has changed for a while."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class LogLevels(msgspec.Struct, frozen=True, kw_only=True):
    levels: Mapping[str, str]  # by the name of a logger; "": all the others
    actor: str
    reason: str
    set_at: float  # Unix seconds
    until: float  # Unix seconds: then they are as configured again
