"""What a shopper did lately, as arrays over an index."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from app.domain.bounded_cache import BoundedCache
from app.domain.breaker import Breaker
from app.domain.errors import Unavailable
from app.domain.event import Shopper
from app.domain.item_index import ItemIndex
from app.domain.merchant import MerchantId
from app.domain.past import Past
from vitrine_sdk import IntArray

log = structlog.get_logger(module=__name__)

_ENTRY_BYTES: Final = 13  # of a remembered event, in arrays
_OVERHEAD: Final = 700


class HistoryReader(Protocol):
    async def read(self, merchant: MerchantId, shopper: Shopper, limit: int, until: float) -> Past:
        """The latest events of a shopper, newest first: of the user and of the client together, in
        one round trip.

        Args:
            until: how long to wait, on the event loop's clock.

        Raises:
            TimeoutError: longer.
            Unavailable: the store is away.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Recent:
    """A shopper's events with items that the index knows, newest first."""

    rows: IntArray
    types: npt.NDArray[np.int8]  # vitrine_sdk.EventType
    times: npt.NDArray[np.int64]  # Unix seconds

    def __len__(self) -> int:
        return len(self.rows)

    def rows_of(self, types: Container[int]) -> IntArray:
        """Rows of the events of some types."""
        places = [place for place, type_ in enumerate(self.types.tolist()) if type_ in types]
        found: IntArray = self.rows[places]
        return found


NOTHING: Final = Recent(np.empty(0, np.int32), np.empty(0, np.int8), np.empty(0, np.int64))


class Histories:
    """Reads histories within a time limit, and remembers the latest for when the store is away.

    Args:
        share: of the time that a request has left, what is spent on waiting at most.
        remembered_bytes: bound of what is remembered.
    """

    def __init__(
        self,
        reader: HistoryReader,
        *,
        share: float = 0.5,
        remembered_bytes: int = 16 * 1024 * 1024,
        failures: int = 3,
        pause: float = 0.25,
    ) -> None:
        self._reader = reader
        self._share = share
        self._breaker = Breaker(failures, pause)
        self._remembered: BoundedCache[tuple[int, str], Recent] = BoundedCache(
            remembered_bytes, lambda recent: _OVERHEAD + _ENTRY_BYTES * len(recent)
        )

    async def recent(
        self,
        merchant: MerchantId,
        shopper: Shopper,
        limit: int,
        index: ItemIndex,
        now: float,
        deadline: float,
    ) -> tuple[Recent, bool]:
        """A shopper's history, and whether it is the store's (else: what this process remembers).

        Args:
            now: on the event loop's clock, as `deadline` is.
        """
        name = shopper.id
        if name is None or limit < 1:
            return NOTHING, True
        past = await self._read(merchant, shopper, limit, now, deadline)
        if past is None:
            return self._remembered.get((index.base, name)) or NOTHING, False
        recent = known(past, index)
        self._remembered.put((index.base, name), recent)
        return recent, True

    async def recent_each(
        self,
        merchant: MerchantId,
        shopper: Shopper,
        wanted: Sequence[tuple[ItemIndex, int]],
        now: float,
        deadline: float,
    ) -> tuple[Sequence[Recent], bool]:
        """`recent` for several lists, each with its index and limit (0: nothing), by one read."""
        name = shopper.id
        limit = max(limit for _, limit in wanted)
        if name is None or limit < 1:
            return [NOTHING] * len(wanted), True
        past = await self._read(merchant, shopper, limit, now, deadline)
        if past is None:
            return [
                (self._remembered.get((index.base, name)) if limit else None) or NOTHING
                for index, limit in wanted
            ], False
        found: dict[tuple[int, int], Recent] = {}
        for index, most in sorted(wanted, key=_by_limit):  # the longest is remembered
            place = (index.base, most)
            if place not in found:
                found[place] = known(past.latest(most), index)
                self._remembered.put((index.base, name), found[place])
        return [found[index.base, most] for index, most in wanted], True

    async def _read(
        self, merchant: MerchantId, shopper: Shopper, limit: int, now: float, deadline: float
    ) -> Past | None:
        """None: the store is away, or was so often that it is not asked for a while."""
        breaker = self._breaker
        if not breaker.allows(now):
            return None
        try:
            until = now + max(deadline - now, 0.0) * self._share
            past = await self._reader.read(merchant, shopper, limit, until)
        except (TimeoutError, Unavailable) as error:
            open_before = not breaker.closed
            breaker.failed(now)
            if not (open_before or breaker.closed):
                log.warning("history_away", reason=type(error).__name__)
            return None
        except BaseException:
            breaker.undecided()
            raise
        breaker.succeeded()
        return past


def _by_limit(wanted: tuple[ItemIndex, int]) -> int:
    return wanted[1]


def known(past: Past, index: ItemIndex) -> Recent:
    """The events with items that the index knows."""
    if not len(past):
        return NOTHING
    rows, types, times = index.packed_rows(past.ids, past.ends), past.types, past.times
    if -1 in rows.tolist():
        here = (rows >= 0).nonzero()[0]
        if not len(here):
            return NOTHING
        rows, types, times = rows.take(here), types.take(here), times.take(here)
    for array in (rows, types, times):
        array.setflags(write=False)  # strategies see parts of them
    return Recent(rows, types, times)
