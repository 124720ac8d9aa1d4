"""What a process that fits is told, and what it answers; see `app.plugins.fit_process`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from app.domain.gate import GateRule, Verdict
from app.domain.model import Manifest
from app.domain.objective import Calibration


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """The version that serves."""

    number: int
    directory: str  # its artefact, verified
    manifest: Manifest
    rule: GateRule


class FitJob(msgspec.Struct, frozen=True, kw_only=True):
    data: str  # directory that training_files.save wrote
    staged: str  # empty directory for the artefact
    strategy: str  # entry-point name
    config: dict[str, Any]
    seed: int
    memory_mib: int | None = None
    calibrate: bool = False
    counts: str | None = None  # directory of kept counts: only what is new is counted
    counts_key: str = ""
    against: Against | None = None  # what the new one is judged against


class FitReport(msgspec.Struct, frozen=True, kw_only=True):
    error: str | None = None  # for the merchant to read
    trace: str | None = None  # for the operator's log
    contract: int = 0
    format: int = 0
    items: int = 0
    files: Mapping[str, str] = {}
    metrics: Mapping[str, float] = {}
    verdict: Verdict | None = None
    calibration: Calibration | None = None


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration's canonical JSON, hex."""
    return hashlib.sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()
