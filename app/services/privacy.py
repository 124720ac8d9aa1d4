"""What is kept of one shopper: told, and forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from app.domain.errors import InvalidInput
from app.domain.event import HistoryEntry
from app.domain.merchant import MerchantId


class Person(msgspec.Struct, frozen=True):
    """Whose data it is: a user with the clients that are known to be theirs, or a client."""

    user_id: str | None
    client_ids: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """As in `Shopper.id`."""
        user = () if self.user_id is None else (f"u:{self.user_id}",)
        return (*user, *(f"c:{client_id}" for client_id in self.client_ids))


class ShopperLog(Protocol):
    """Raises Unavailable, every method."""

    async def clients_of(self, merchant: MerchantId, user_id: str) -> Sequence[str]:
        """Clients whose anonymous history was joined to the user's."""
        ...

    def events(self, merchant: MerchantId, person: Person) -> AsyncIterator[dict[str, Any]]:
        """The person's events, newest first, as they are kept."""
        ...

    def samples(self, merchant: MerchantId, person: Person) -> AsyncIterator[dict[str, Any]]:
        """Answers to the person that were kept as a sample of what was served."""
        ...

    async def forget(self, merchant: MerchantId, person: Person, actor: str) -> tuple[int, int]:
        """Deletes the person's events, samples, and what links clients to users, and remembers (as
        hashes) that events which still wait in a spool are not to be stored. That it was done is
        audited, without a name. Returns how many events and samples went."""
        ...


class ShopperHistory(Protocol):
    """Raises Unavailable, every method."""

    async def entries(self, merchant: MerchantId, shopper_id: str) -> Sequence[HistoryEntry]: ...

    async def forget(self, merchant: MerchantId, shopper_ids: Iterable[str]) -> int: ...


class ShopperPlacements(Protocol):
    """In which pods a shopper clicked. Raises Unavailable, every method."""

    async def clicks(
        self, merchant: MerchantId, shopper_ids: Sequence[str]
    ) -> Sequence[dict[str, Any]]: ...

    async def forget(self, merchant: MerchantId, shopper_ids: Sequence[str]) -> None: ...


class Forgotten(msgspec.Struct, frozen=True):
    events: int  # rows of the event log
    samples: int  # of answers that were served
    histories: int


class Privacy:
    """Models learn from the event log each time anew: what is forgotten is not in the next one."""

    def __init__(
        self,
        log: ShopperLog,
        history: ShopperHistory,
        placements: ShopperPlacements | None = None,
    ) -> None:
        self._placements = placements
        self._log = log
        self._history = history

    async def person(
        self, merchant: MerchantId, *, user_id: str | None = None, client_id: str | None = None
    ) -> Person:
        """
        Raises:
            InvalidInput: neither or both are given.
        """
        if (user_id is None) == (client_id is None):
            raise InvalidInput.field("user_id", "give either user_id or client_id")
        if user_id is None:
            return Person(None, (client_id or "",))
        return Person(user_id, tuple(await self._log.clients_of(merchant, user_id)))

    async def export(self, merchant: MerchantId, person: Person) -> AsyncIterator[dict[str, Any]]:
        """All that is kept of a person, one object a row: events, samples of what they were shown,
        then recent histories."""
        async for event in self._log.events(merchant, person):
            yield {"kind": "event", **event}
        async for sample in self._log.samples(merchant, person):
            yield {"kind": "served", **sample}
        for name in person.names:
            for entry in await self._history.entries(merchant, name):
                yield {"kind": "history", **msgspec.structs.asdict(entry)}
        if self._placements is not None:
            for click in await self._placements.clicks(merchant, person.names):
                yield {"kind": "click", **click}

    async def forget(
        self, merchant: MerchantId, person: Person, *, actor: str = "system"
    ) -> Forgotten:
        """Call it again where it fails: it does no harm."""
        events, samples = await self._log.forget(merchant, person, actor)
        if self._placements is not None:
            await self._placements.forget(merchant, person.names)
        return Forgotten(events, samples, await self._history.forget(merchant, person.names))
