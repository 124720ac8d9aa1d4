"""The port through which merchants' rules enter a request."""

from __future__ import annotations

from typing import Final, Protocol

from app.domain.configuration import MerchantConfiguration
from app.domain.item_index import ItemIndex, ItemIndexes
from app.domain.pod import Pod
from app.domain.recommendation import RecommendationRequest
from app.domain.selection import Ruling
from app.services.shopper_history import Recent
from vitrine_sdk import IntArray

UNRULED: Final = (0, b"")


class Rulings(Protocol):
    """A merchant's rules, compiled when they were published."""

    def needs_history(self, pod: Pod) -> int:
        """Events of the shopper's that the pod's rules look at; 0: none."""
        ...

    def ruling(
        self,
        pod: Pod,
        request: RecommendationRequest,
        index: ItemIndex,
        seeds: IntArray,
        history: Recent,
        now: float,
    ) -> Ruling | None:
        """What applies to a request; None: nothing does. `seeds` are rows, -1 for unknown items."""
        ...

    def signed(self, index: ItemIndex, rows: IntArray) -> tuple[int, bytes]:
        """What the rules' questions about items say of rows, times and seeds aside: comparable with
        what it was at another time. UNRULED where there are no rules."""
        ...

    def catch_up(self) -> bool:
        """Do a part, of some milliseconds, of what can be done before requests come; whether all is
        done."""
        ...


class RulingsCompiler(Protocol):
    def compile(self, configuration: MerchantConfiguration, indexes: ItemIndexes) -> Rulings | None:
        """The rules of a merchant's configuration; None where there are none."""
        ...
