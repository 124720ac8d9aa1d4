"""Installed strategies, as discovery found them."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from app.domain.errors import InvalidInput
from vitrine_sdk import Config, Strategy

_FIELD = re.compile(r"Object (?P<which>missing required|contains unknown) field `(?P<name>.*)`")


class StrategyState(enum.StrEnum):
    READY = "ready"
    BROKEN = "broken"  # left out; `reason` says why


@dataclass(frozen=True, slots=True, eq=False)
class InstalledStrategy:
    """One entry point of the group `vitrine.strategies`."""

    name: str  # of the entry point
    version: str  # of the distribution
    distribution: str  # the distribution that brings it
    state: StrategyState
    reason: str | None = None  # why it is broken, for the operator and the merchant to read
    strategy: Strategy[Any] | None = None  # None where broken
    contract: int | None = None
    format: int | None = None
    schema: Mapping[str, Any] = field(default_factory=dict)  # JSON Schema of its configuration

    def usable(self) -> Strategy[Any]:
        """The strategy itself.

        Raises:
            InvalidInput: it is broken.
        """
        if self.strategy is None:
            raise InvalidInput(f"strategy {self.name!r} cannot be used: {self.reason}")
        return self.strategy

    def configuration(self, values: Mapping[str, Any], pointer: str = "/config") -> Config:
        """`values` as the strategy's own type, defaults filled in.

        Raises:
            InvalidInput: naming the wrong field below `pointer`.
        """
        kind: type[Config] = self.usable().config
        try:
            return msgspec.convert(dict(values), kind)
        except msgspec.ValidationError as error:
            message, where = split_location(str(error))
            raise InvalidInput.field(pointer + where, message) from None


def split_location(text: str) -> tuple[str, str]:
    """msgspec's message and the JSON pointer of the place that it names.

    >>> split_location("Expected `int`, got `str` - at `$.chain[0]`")
    ('Expected `int`, got `str`', '/chain/0')
    >>> split_location("Object contains unknown field `windw`")
    ('there is no such field', '/windw')
    """
    message, _, path = text.partition(" - at `")
    # `[...]` is some value of a mapping: msgspec does not say which.
    path = path.removesuffix("`").removeprefix("$").replace("[...]", ".*")
    pointer = path.replace("[", ".").replace("]", "").replace(".", "/")
    field = _FIELD.fullmatch(message)
    if field:
        pointer += f"/{field['name']}"
        message = (
            "is required" if field["which"] == "missing required" else "there is no such field"
        )
    return message, pointer
