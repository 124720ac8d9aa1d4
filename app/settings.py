"""All settings, read once from the environment into one frozen object."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from croniter import croniter

PREFIX = "VITRINE_"

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
DatabaseUrl = Annotated[str, msgspec.Meta(pattern="^postgres(ql)?://")]
RedisUrl = Annotated[str, msgspec.Meta(pattern="^(rediss?|unix)://")]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


class Secret(str):
    """A string that does not print itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('…')"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each field `name` is read from `VITRINE_NAME`. README.md lists them all; a test holds both
    together."""

    database_url: DatabaseUrl | None = None
    """postgresql://user:password@host:port/database, as the role vitrine_app. None: embedded."""
    database_owner_url: DatabaseUrl | None = None
    """The same as the schema's owner, for `vitrine migrate` and the worker's job schema."""
    database_pool: Positive = 10
    redis_url: RedisUrl | None = None
    """redis://host:port/0 or unix:///path. None: embedded."""
    redis_cluster: bool = False
    redis_pool: Positive = 32
    home: Path = Path(".vitrine")
    """Where the embedded servers, artefacts and uploads are kept."""
    artefacts_url: str | None = None
    """A directory, or any fsspec URL. None: `home`/artefacts."""
    host: str = "127.0.0.1"
    port: Port = 8000
    workers: Positive = 1
    spare_worker: bool = True
    """Whether one more server process is kept, with everything loaded, which serves as soon as one
    of the others has died."""
    grace_seconds: Seconds = 20.0
    """How long requests that were begun may take when the server stops."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How long it goes on serving as usual before that, while readiness tells load balancers to
    send requests elsewhere."""
    log_level: LogLevel = "info"
    request_budget: Seconds = 0.1
    """Seconds that a recommendation may take."""
    overfetch: Positive = 5
    """How many candidates are asked for, a result asked for."""
    history_length: Positive = 100
    """Events kept a shopper in Redis."""
    history_days: Positive = 90
    near_cache_bytes: Positive = 256 * 1024 * 1024
    """Bound of the rendered items that a process holds, all merchants together."""
    poll_seconds: Seconds = 0.25
    """How often a process looks for a new configuration or catalogue version."""
    served_sample_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    event_id_days: Positive = 30
    """How long an event's fingerprint is remembered; an order's is for ever."""
    attribution_days: Positive = 7
    """How long after a click a purchase of the same item is credited to the list clicked in."""
    event_days: Annotated[int, msgspec.Meta(ge=31)] | None = None
    """Days of the event log that are kept; older ones are dropped at night. None: all."""
    event_archive_url: str | None = None
    """Where days are written as Parquet before they are dropped: a directory, or any fsspec URL.
    None: nowhere."""
    event_spool: Path | None = None
    """A folder on a volume that outlives the process, where events are kept while PostgreSQL is
    away. None: they are refused with 503 meanwhile."""
    event_spool_bytes: Positive = 1024 * 1024 * 1024
    train_schedule: str = "0 3 * * *"
    """When the worker trains everything anew: cron, UTC. Empty: never by the clock."""
    fit_seconds: Seconds = 4 * 3600.0
    """How long one fit may take."""
    fit_memory_mib: Positive | None = None
    """How much memory one fit may take. None: as much as there is."""
    models_kept: Positive = 5
    """Versions of a model that are kept for a rollback, beside the one that serves."""
    gate_metric: Annotated[
        str, msgspec.Meta(pattern=r"^((hr|recall|ndcg|mrr|map)@[1-9][0-9]?)?$")
    ] = "ndcg@20"
    """By what a new model must not be worse than the one that serves. Empty: it serves anyway."""
    gate_margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    """By which share it may be worse."""
    rule_gate: Literal["refuse", "warn", "off"] = "refuse"
    """What becomes of a draft of rules with which recent requests' lists would carry less revenue,
    or be empty: not published unless it is forced, published with that in the record, not asked."""
    rule_gate_margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2
    """By which share they may carry less, and which share of them may be left empty."""
    strategy_memory_mib: Positive = 1024
    """How much memory a strategy in `process` mode may take, beside its artefact."""
    worker_metrics: Port = 0
    """Where `vitrine worker` shows its metrics at /metrics, on `host`. 0: nowhere."""
    worker_jobs: Positive = 2
    """Jobs that a worker process does at the same time."""
    embedded_metrics: Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,255}$")] | None = None
    """The dimension `ClusterName` under which all metrics are written to the log once a minute, in
    CloudWatch's embedded metric format. None: they are not."""
    queue_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    """How long requests may wait for a busy process, before a part of the storefronts' is refused
    with 503 so that the others are not late. 0: none is refused."""
    key_rate: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Storefront requests a second that one key may make, of each process; more are refused with
    429. 0: any number."""
    max_connections: Positive = 10_000
    """Connections of one process at the same time; one more is refused with 503."""
    max_body_bytes: Positive = 8 * 1024 * 1024
    max_upload_bytes: Positive = 4 * 1024 * 1024 * 1024
    trusted_proxies: str = ""
    """Networks (CIDR, comma-separated) whose X-Forwarded-For is believed."""


def _fine(_value: Any) -> str | None:
    return None


def _no_schedule(value: str) -> str | None:
    if not value or croniter.is_valid(value):
        return None
    return f"{value!r} is no cron expression (minute hour day month weekday): see man 5 crontab"


def _no_networks(value: str) -> str | None:
    for part in filter(None, (part.strip() for part in value.split(","))):
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError as error:
            return f"{part!r} is no network, such as 10.0.0.0/8: {error}"
    return None


# What their types cannot say: what is wrong with a value, or None.
_CHECKS: Final[Mapping[str, Callable[[Any], str | None]]] = {
    "train_schedule": _no_schedule,
    "trusted_proxies": _no_networks,
}


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings that the environment gives.

    Raises:
        SettingsError: naming each wrong or unknown variable and what it must be.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    errors = []
    known = {field.name: field for field in msgspec.structs.fields(Settings)}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name.startswith("test_"):
            continue  # the tests' own
        if name not in known:
            errors.append(f"{variable}: there is no such setting")
            continue
        try:
            value = msgspec.convert(
                Path(text) if Path in (known[name].type, *get_args(known[name].type)) else text,
                known[name].type,
                strict=False,
            )
        except msgspec.ValidationError as error:
            errors.append(f"{variable}: {error}")
            continue
        wrong = _CHECKS.get(name, _fine)(value)
        if wrong is not None:
            errors.append(f"{variable}: {wrong}")
            continue
        # A URL may hold a password.
        values[name] = Secret(value) if name.endswith("_url") else value
    if errors:
        raise SettingsError("\n".join(errors))
    return Settings(**values)


class SettingsError(Exception):
    """The environment does not make valid settings. The message is for the operator."""
