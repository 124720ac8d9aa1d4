"""The audit log's entries."""

from __future__ import annotations

from typing import Any

import msgspec


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change: who, what, and the subject before and after it."""

    id: int
    at: float  # Unix seconds
    actor: str  # token id, "cli", or a job
    action: str  # "pod.create"
    subject: str
    before: Any = None
    after: Any = None
