"""Tasks: long work that a caller started and may ask after."""

from __future__ import annotations

import enum
from typing import Any, Final

import msgspec

from app.domain.catalogue import Section
from app.domain.merchant import MerchantId

CATALOGUE_IMPORT: Final = "catalogue_import"
"""The type of a task that writes a catalogue."""
TRAINING: Final = "training"
"""The type of a task that fits strategy configurations."""


class TaskStatus(enum.StrEnum):
    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    DONE = "DONE"
    FAILED = "FAILED"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    merchant: MerchantId
    type: str  # catalogue_import, training, ...
    status: TaskStatus
    section: Section | None = None
    input: dict[str, Any] = {}
    counts: dict[str, int] = {}
    error: str | None = None  # why it FAILED, for the merchant to read
    created_at: float  # Unix seconds
    started_at: float | None = None
    finished_at: float | None = None


class Rejection(msgspec.Struct, frozen=True):
    """One row of a task's input that was not taken, and why."""

    reason: str  # names the field and the mend
    file: str | None = None
    line: int | None = None  # 1 is the file's first line
    subject: str | None = None  # the row's id, where it could be read
