"""Pods: named placements, their strategy chain and its parameters."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec

from app.domain.catalogue import DEFAULT_SECTION, Section
from app.domain.objective import PRICE_SHIFT, Objective

PodId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]

MAX_RESULTS = 100
DEFAULT_RESULTS = 10


class RunMode(enum.StrEnum):
    """How a strategy is contained: see `app.plugins.runner`."""

    INLINE = "inline"
    THREAD = "thread"
    PROCESS = "process"


class StrategyConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """A strategy with its configuration, under a name of the merchant's: what is fitted, and what
    pods refer to."""

    id: PodId
    strategy: str  # entry-point name
    section: Section = DEFAULT_SECTION  # whose items and events it learns from
    config: dict[str, Any] = {}  # valid for the strategy's JSON Schema
    mode: RunMode = RunMode.INLINE


class Pod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named placement on a shop's pages."""

    id: PodId
    display_name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    section: Section = DEFAULT_SECTION
    chain: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=8)]
    """Ids of strategy configurations: the first choice, then its fallbacks. A later one fills what
    the earlier ones left open."""
    num_results: Annotated[int, msgspec.Meta(ge=1, le=MAX_RESULTS)] = DEFAULT_RESULTS
    """How many, where the request does not say."""
    exclude_seen: bool = False
    """Leave out what the shopper viewed, clicked or put into the cart lately."""
    exclude_bought: bool = False
    """Leave out what the shopper bought lately."""
    fill: bool = True
    """Whether later strategies fill a list that the first left short. False: they answer only
    where the earlier ones have nothing."""
    objective: Objective | None = None
    """What its lists are to bring: clicks, purchases or revenue. Candidates are ordered by what
    they are expected to bring, once the chain's strategies are trained after this was set. None:
    by the strategies' own scores."""
    blend: bool = False
    """With an objective: all strategies of the chain are asked, and their candidates compete by
    expected value. False: the first choice comes first."""
    price_shift: Annotated[float, msgspec.Meta(ge=0, le=100)] = PRICE_SHIFT
    """With revenue as objective: the share by which a list may be dearer, in the mean, than the one
    that would be bought most."""
