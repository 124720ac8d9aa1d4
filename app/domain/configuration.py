"""All that a merchant has published, at one version: what a serving process works from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec

from app.domain.merchant import Credential, Merchant, StorefrontKey
from app.domain.pod import Pod, StrategyConfiguration
from app.domain.rule import PublishedRules

T = TypeVar("T")


class Versioned(msgspec.Struct, Generic[T], frozen=True):
    """A value with the version that its next change must name."""

    value: T
    version: int  # 1, 2, ...
    created_at: float  # Unix seconds
    updated_at: float


class PublishedModel(msgspec.Struct, frozen=True, kw_only=True):
    """The model version that serves a strategy configuration."""

    id: int
    configuration_id: str
    section: str
    number: int
    location: str  # below the artefact store's root
    sha256: str  # of the artefact's manifest


class MerchantConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    merchant: Merchant  # its configuration_version is this configuration's
    keys: tuple[StorefrontKey, ...] = ()
    credentials: tuple[Credential, ...] = ()
    pods: Mapping[str, Pod] = {}
    strategies: Mapping[str, StrategyConfiguration] = {}
    models: Mapping[str, PublishedModel] = {}  # by strategy configuration id
    rules: tuple[PublishedRules, ...] = ()  # by rule set id
