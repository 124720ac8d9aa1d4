"""Model versions: what a fit left behind, and which of them serves."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec

from app.domain.catalogue import Section
from app.domain.gate import Verdict
from app.domain.objective import Calibration

MANIFEST_FORMAT = 1
"""Version of the artefact's layout on disk."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an artefact is and where it came from. Kept beside the arrays and in the row."""

    manifest_format: int = MANIFEST_FORMAT
    configuration_id: str
    strategy: str  # entry-point name
    strategy_version: str  # of the distribution that fitted it
    contract: int  # vitrine_sdk.CONTRACT that the strategy was written for
    format: int  # Strategy.format: version of the arrays
    section: Section
    items: int  # how many positions the model knows
    catalogue_version: int  # of the section, at which the items were read
    config: dict[str, Any]  # as fitted, defaults included
    config_hash: str  # SHA-256 of the config's canonical JSON, hex
    watermark: int  # Unix seconds: no event after it was seen
    seed: int
    files: Mapping[str, str]  # file name -> SHA-256, hex
    calibration: Calibration | None = None  # None: no pod with an objective asks for it
    metrics: Mapping[str, float] = {}  # items, events, shoppers, seconds, peak_mib, bytes


class ModelState(enum.StrEnum):
    FITTED = "fitted"  # never served
    PUBLISHED = "published"  # serves; at most one a configuration
    RETIRED = "retired"  # has served


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One artefact of a strategy configuration."""

    id: int
    configuration_id: str
    section: Section
    number: int  # 1, 2, ... a configuration; gaps are allowed
    state: ModelState
    location: str  # below the artefact store's root
    sha256: str  # of the manifest, hex
    manifest: Manifest
    verdict: Verdict | None = None  # of the gate; None: there was nothing to judge against
    fitted_at: float  # Unix seconds
    published_at: float | None = None  # when it last began to serve
