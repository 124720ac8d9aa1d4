"""What a search of configurations tries: derived from a configuration's own types."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import inspect

from app.domain.errors import InvalidInput
from vitrine_sdk import Config

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

HINT: Final = "x-tune"
"""An author's hint, in a field's ``msgspec.Meta(extra_json_schema={"x-tune": ...})``: False, or
``{"low": 1, "high": 9, "log": True}``, or ``{"choices": [...]}``."""

_REACH: Final = 10.0  # how far from the start the search goes, where bounds are wide
_WIDE: Final = 100.0  # bounds that span more than so many times are


@dataclass(frozen=True, slots=True)
class Dimension:
    """One field of a configuration and the values that are tried."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()  # where not empty, these and no range

    def suggest(self, trial: Trial) -> Any:
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def distribution(self) -> BaseDistribution:
        from optuna import distributions as kinds

        if self.choices:
            return kinds.CategoricalDistribution(self.choices)
        if self.whole:
            return kinds.IntDistribution(int(self.low), int(self.high), log=self.log)
        return kinds.FloatDistribution(self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether a value is among those that are tried."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


def space(
    start: Config, only: Collection[str] = (), fixed: Collection[str] = ()
) -> tuple[Dimension, ...]:
    """What is searched, from the configuration's types, their bounds and the author's hints.

    Numbers are searched within their bounds; where those span more than a hundred times or are
    open, within a tenth and ten times of where the search starts. Booleans and literals say what is
    wanted, more than how well it is done: they are searched where `only` or a hint names them.
    What may also be null, texts and structures are left as they are, unless a hint names choices.

    Args:
        start: where the search starts.
        only: names of the fields to search; empty: all that can be.
        fixed: names of fields to leave as they are.

    Raises:
        InvalidInput: `only` or `fixed` names what is no field or cannot be searched, or nothing
            is left to search.
    """
    described = inspect.type_info(type(start))
    assert isinstance(described, inspect.StructType)  # noqa: S101  # a Config is one
    found = {}
    meant = set()  # fields that say what is wanted
    names = {one.name for one in described.fields}
    for one in described.fields:
        dimension = _dimension(one.name, one.type, getattr(start, one.name))
        if dimension is not None:
            found[one.name] = dimension
            if isinstance(one.type, inspect.BoolType | inspect.LiteralType):
                meant.add(one.name)
    for option, named in (("only", only), ("fix", fixed)):
        for name in named:
            if name not in names:
                known = ", ".join(sorted(names))
                raise InvalidInput.field(option, f"there is no field {name!r}; there are: {known}")
            if option == "only" and name not in found:
                known = ", ".join(sorted(found))
                raise InvalidInput.field(
                    option, f"{name!r} cannot be searched; these can be: {known}"
                )
    chosen = tuple(
        one
        for name, one in found.items()
        if name not in fixed and (name in only if only else name not in meant)
    )
    if not chosen:
        raise InvalidInput.field("only", "nothing is left to search")
    return chosen


def stated(texts: Sequence[str], kind: type[Config]) -> tuple[Dimension, ...]:
    """A space in words: `option=low:high` or `option=a|b|c`, in JSON's values.

    Raises:
        InvalidInput: an unknown option, or values that do not parse or that the schema refuses.
    """
    made = []
    for text in texts:
        option, equals, values = text.partition("=")
        if not equals or option not in kind.__struct_fields__:
            known = ", ".join(kind.__struct_fields__)
            raise InvalidInput.field("space", f"{text!r}: the options are {known}")
        low, colon, high = values.partition(":")
        try:
            bounds = [
                msgspec.json.decode(part) for part in ((low, high) if colon else values.split("|"))
            ]
            for bound in bounds:
                msgspec.convert({option: bound}, kind)
            if not colon:
                made.append(Dimension(option, choices=tuple(bounds)))
                continue
            whole = all(isinstance(bound, int) for bound in bounds)
            made.append(Dimension(option, float(bounds[0]), float(bounds[1]), whole=whole))
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise InvalidInput.field("space", f"{text!r}: {error}") from None
        if made[-1].low >= made[-1].high:
            raise InvalidInput.field("space", f"{text!r}: the first must be below the second")
    return tuple(made)


def _dimension(name: str, kind: inspect.Type, start: Any) -> Dimension | None:
    hint: Any = {}
    if isinstance(kind, inspect.Metadata):
        hint = (kind.extra_json_schema or {}).get(HINT, {})
        kind = kind.type
    if hint is False:
        return None
    if isinstance(hint, Mapping) and hint.get("choices"):
        return Dimension(name, choices=tuple(hint["choices"]))
    if isinstance(kind, inspect.BoolType):
        return Dimension(name, choices=(False, True))
    if isinstance(kind, inspect.LiteralType):
        return Dimension(name, choices=tuple(kind.values))
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return _number(name, kind, start, hint)
    return None


def _number(
    name: str, kind: inspect.IntType | inspect.FloatType, start: float, hint: Mapping[str, Any]
) -> Dimension | None:
    whole = isinstance(kind, inspect.IntType)
    step = 1 if whole else 1e-9
    low, high = -math.inf, math.inf
    if kind.ge is not None or kind.gt is not None:
        low = kind.ge if kind.ge is not None else float(kind.gt or 0) + step
    if kind.le is not None or kind.lt is not None:
        high = kind.le if kind.le is not None else float(kind.lt or 0) - step
    if hint:
        low, high = max(low, hint.get("low", low)), min(high, hint.get("high", high))
        if math.isinf(low) or math.isinf(high) or low >= high:
            return None
        return Dimension(name, low, high, bool(hint.get("log", False)), whole)
    # Where the scale has no end worth the name, only orders of magnitude can be searched, and
    # those need a place to start from.
    wide = math.isinf(low) or math.isinf(high) or high > _WIDE * max(abs(low), 1)
    if not wide:
        return Dimension(name, low, high, False, whole)
    if start <= 0:
        # Zero switches something off: the search stays near, and may leave it off.
        if low > 0 or high <= 0:
            return None
        return Dimension(name, 0, min(high, _REACH), False, whole)
    low, high = max(low, start / _REACH), min(high, start * _REACH)
    if whole:
        low, high = max(math.ceil(low), 1), math.floor(high)
    return None if low >= high else Dimension(name, low, high, low > 0, whole)
