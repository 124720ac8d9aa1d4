"""Finds the strategies that are installed: the entry points of `vitrine.strategies`.

One that is broken is left out and named, with the reason; it never stops the program.
"""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

import msgspec

from app.domain.strategy import InstalledStrategy, StrategyState
from vitrine_sdk import CONTRACT, ENTRY_POINT_GROUP, Config, Strategy

_METHODS: Final = {"needs": 1, "fit": 3, "load": 3}  # positional arguments after self


class Strategies:
    """The strategies of this process, by name. Immutable."""

    def __init__(self, installed: Iterable[InstalledStrategy]) -> None:
        self._by_name = {one.name: one for one in sorted(installed, key=lambda one: one.name)}

    def __iter__(self) -> Iterator[InstalledStrategy]:
        return iter(self._by_name.values())

    def get(self, name: str) -> InstalledStrategy | None:
        return self._by_name.get(name)

    @property
    def broken(self) -> Sequence[InstalledStrategy]:
        return [one for one in self if one.state is StrategyState.BROKEN]


def discover(points: Iterable[EntryPoint] | None = None) -> Strategies:
    """Import and check every installed strategy.

    Args:
        points: entry points to look at; None: those of the environment.
    """
    if points is None:
        points = entry_points(group=ENTRY_POINT_GROUP)
    named: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in points:
        named[point.name].append(point)
    return Strategies(_examine(name, found) for name, found in named.items())


def _examine(name: str, found: Sequence[EntryPoint]) -> InstalledStrategy:
    # A distribution may lie on sys.path twice (an editable one and its build): that is one.
    sources = sorted({_source(point) for point in found})
    distribution, version = sources[0]
    if len({source for source, _ in sources}) > 1:
        listed = ", ".join(f"{source} {number}" for source, number in sources)
        return _broken(
            name,
            ", ".join(source for source, _ in sources),
            ", ".join(number for _, number in sources),
            f"several distributions bring a strategy of this name: {listed}; uninstall all but one",
        )
    try:
        loaded = found[0].load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # sys.exit or a native panic included
        return _broken(
            name, distribution, version, f"import of {found[0].value} failed: {_say(error)}"
        )
    try:
        return _check(name, distribution, version, loaded)
    except _UnfitError as error:
        return _broken(name, distribution, version, str(error))
    except Exception as error:  # noqa: BLE001  # its constructor or its properties
        return _broken(name, distribution, version, f"{found[0].value} raised {_say(error)}")


class _UnfitError(Exception):
    """Does not satisfy the contract. The message says where."""


def _check(name: str, distribution: str, version: str, loaded: Any) -> InstalledStrategy:
    if not inspect.isclass(loaded):
        raise _UnfitError(
            f"the entry point must name a class, and names {type(loaded).__name__!r} instead"
        )
    contract = _whole_number(loaded, "contract")
    if contract != CONTRACT:
        raise _UnfitError(
            f"written for version {contract} of the contract, and this server speaks {CONTRACT}; "
            f"install a matching version of {distribution}"
        )
    artefact_format = _whole_number(loaded, "format")
    reasons = getattr(loaded, "reasons", None)
    if not isinstance(reasons, tuple) or not all(isinstance(code, str) for code in reasons):
        raise _UnfitError("`reasons` must be a tuple of strings")
    if not 1 <= len(reasons) <= 256:
        raise _UnfitError("`reasons` must hold 1 to 256 codes")
    for method, arguments in _METHODS.items():
        _takes(loaded, method, arguments)
    strategy = cast("Strategy[Any]", loaded())  # checked above, as far as it can be
    kind = strategy.config
    if not (inspect.isclass(kind) and issubclass(kind, Config)):
        raise _UnfitError("`config` must be a subclass of vitrine_sdk.Config")
    return InstalledStrategy(
        name=name,
        version=version,
        distribution=distribution,
        state=StrategyState.READY,
        strategy=strategy,
        contract=contract,
        format=artefact_format,
        schema=_schema(kind),
    )


def _whole_number(loaded: Any, attribute: str) -> int:
    value = getattr(loaded, attribute, None)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _UnfitError(f"`{attribute}` must be a whole number")
    return value


def _takes(loaded: Any, method: str, arguments: int) -> None:
    function = getattr(loaded, method, None)
    if not callable(function):
        raise _UnfitError(f"method `{method}` is missing")
    try:
        inspect.signature(function).bind(None, *[None] * arguments)
    except TypeError:
        raise _UnfitError(f"method `{method}` must take {arguments} arguments") from None


def _schema(kind: type[Config]) -> Mapping[str, Any]:
    """The configuration's JSON Schema, which also shows that every field has a default."""
    try:
        kind()
    except TypeError as error:
        raise _UnfitError(f"every field of {kind.__name__} needs a default: {error}") from None
    try:
        schema = msgspec.json.schema(kind)
        json.dumps(schema)
    except TypeError as error:
        raise _UnfitError(f"{kind.__name__} has no JSON Schema: {error}") from None
    return schema


def _source(point: EntryPoint) -> tuple[str, str]:
    dist = point.dist
    return (dist.name, dist.version) if dist is not None else ("unknown", "0")


def _broken(name: str, distribution: str, version: str, reason: str) -> InstalledStrategy:
    return InstalledStrategy(
        name=name,
        version=version,
        distribution=distribution,
        state=StrategyState.BROKEN,
        reason=reason,
    )


def _say(error: BaseException) -> str:
    """The kind of an error and the first line of its text, at most 300 characters."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"[:300].rstrip(": ")
