"""The port through which a creating call that is sent again is recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from app.domain.merchant import MerchantId


@dataclass(frozen=True, slots=True)
class RememberedAnswer:
    """What was answered to the call that first used a key."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class IdempotencyKeys(Protocol):
    async def claim(self, merchant: MerchantId, key: str, digest: bytes) -> RememberedAnswer | None:
        """Take a key for a call. None: it is this call's now, and must be finished or released; an
        answer: the same call was answered so before.

        Raises:
            Conflict: another call used the key, or one with it is on its way.
        """
        ...

    async def finish(self, merchant: MerchantId, key: str, answer: RememberedAnswer) -> None: ...

    async def release(self, merchant: MerchantId, key: str) -> None:
        """Let go of a key whose call changed nothing."""
        ...
