"""A merchant's published configuration, ready to serve. Immutable; see `app.services.serving`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from app.domain.configuration import MerchantConfiguration, PublishedModel
from app.domain.errors import NotFound
from app.domain.expression import Expression, Expressions
from app.domain.item_index import ItemIndex
from app.domain.merchant import MerchantId
from app.domain.objective import ByValue, Calibration
from app.domain.pod import Pod, RunMode, StrategyConfiguration
from app.services.rulings import Rulings
from vitrine_sdk import BoolArray, IntArray, Model, Needs, kernel

_MASKS: Final = 32  # kept a model
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model bound to its section's index: positions there, rows here."""

    merchant: MerchantId
    configuration: StrategyConfiguration
    published: PublishedModel
    model: Model
    needs: Needs
    reasons: tuple[str, ...]
    index: ItemIndex
    rows: IntArray  # by position
    positions: IntArray
    """By row; -1: the model does not know the item. The last one is -1 and stands for all rows
    that came later."""
    watermark: int = 0
    calibration: Calibration | None = None  # what its scores mean; None: nobody has asked
    _masks: dict[Expression, tuple[int, BoolArray]] = field(default_factory=dict)

    @property
    def items(self) -> int:
        return len(self.rows)

    def positions_of(self, rows: IntArray) -> IntArray:
        """Positions of the rows that the model knows, in order. Row -1 is ignored."""
        if not len(rows):
            return rows
        if kernel.compiled is not None and kernel.plain(rows, kernel.INT32):
            positions: IntArray = kernel.compiled.known(self.positions, rows)
        else:
            positions = self.positions.take(rows[rows >= 0], mode="clip")
            positions = positions[positions >= 0]
        positions.setflags(write=False)
        return positions

    def rows_of(self, positions: IntArray) -> IntArray:
        """The rows of positions, that the model has."""
        if kernel.compiled is not None and kernel.plain(positions, kernel.INT32):
            return kernel.compiled.taken(self.rows, positions)  # type: ignore[no-any-return]
        return self.rows.take(positions)

    def eligible(self, filters: Expression, expressions: Expressions) -> BoolArray:
        """One flag a position: available, and the filters leave it. Made once a revision."""
        index = self.index
        found = self._masks.pop(filters, None)
        if found is None or found[0] != index.revision:
            mask = expressions.compiled(filters).mask_all() & index.available[: len(index)]
            eligible: BoolArray = mask[self.rows]
            eligible.flags.writeable = False
            found = (index.revision, eligible)
            if len(self._masks) >= _MASKS:
                del self._masks[next(iter(self._masks))]
        self._masks[filters] = found
        return found[1]


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """What showing a pod's lists takes. Lists that are kept refer to this, and so keep no model
    alive that serves no more."""

    pod: Pod
    index: ItemIndex
    reasons: tuple[tuple[str, ...], ...]  # reason codes, by place in the chain
    endings: tuple[tuple[bytes, ...], ...]  # what follows an item's JSON, by place and reason
    document: bytes  # {"id", "display_name"}


@dataclass(frozen=True, slots=True, eq=False)
class ServedPod:
    """A pod with everything that its requests need."""

    pod: Pod
    index: ItemIndex
    listing: Listing
    expressions: Expressions
    chain: tuple[ServedModel | None, ...]  # as in the pod; None: there is nothing to serve yet
    needs_history: int  # events of a shopper; 0: none
    generation: bytes
    """Equal where the pod's lists are made alike, models aside: the same pod and rules in force."""
    versions: tuple[bytes, ...]
    """Of the chain's models: equal where the same one serves with the same configuration."""
    by_value: ByValue | None = None  # the order of its lists; None: the strategies' own
    inline: bool = field(init=False)
    """Whether every strategy of the chain runs in this process' event loop."""

    def __post_init__(self) -> None:
        inline = all(
            model is None or model.configuration.mode is RunMode.INLINE for model in self.chain
        )
        object.__setattr__(self, "inline", inline)


@dataclass(frozen=True, slots=True, eq=False)
class ServingSnapshot:
    """All that is published of a merchant, ready to serve."""

    merchant: MerchantId
    configuration: MerchantConfiguration
    pods: Mapping[str, ServedPod]
    models: Mapping[str, ServedModel]  # by strategy configuration id
    rulings: Rulings | None = None

    def pod(self, pod_id: str) -> ServedPod:
        """
        Raises:
            NotFound: there is no such pod.
        """
        pod = self.pods.get(pod_id)
        if pod is None:
            raise NotFound(f"pod_id: there is no pod {pod_id!r}")
        return pod


def ending(
    configuration_id: str,
    reason: str,
    *,
    slotted: bool = False,
    labels: Mapping[str, object] | None = None,
) -> bytes:
    """What follows an item's JSON (see `app.domain.rendered.render`) in an answer, with the comma
    before the next one."""
    return (
        b","
        + _encode(
            {
                "labels": labels or {},
                "matched_terms": [],
                "is_slotted": slotted,
                "strategy": {"id": configuration_id},
                "reason": reason,
            }
        )[1:]
        + b","
    )
