"""What makes an event count once: 16 bytes a claim in the event log's table of ids.

The first four bytes of a tracked event's fingerprint are its own second, big-endian: claims of the
same minutes lie side by side in the index, so that it is written in few pages at any size. The
other twelve are a hash; two different events of one second collide once in 10^14.
"""

from __future__ import annotations

import hashlib
import os
import struct
from functools import lru_cache
from typing import Any

import msgspec

from app.domain.merchant import MerchantId

SIZE = 16

_canonical = msgspec.json.Encoder(order="sorted").encode
_uint32 = struct.Struct(">I").pack
_MAX_SECOND = 2**32 - 1


def _told(*parts: bytes) -> bytes:
    """Parts with their lengths, so that no two lists of them read the same."""
    return b"".join([piece for part in parts for piece in (_uint32(len(part)), part)])


def _hash(size: int, *parts: bytes) -> bytes:
    return hashlib.blake2b(_told(*parts), digest_size=size).digest()


def of_tracked(
    key: str,
    client_id: str | None,
    session: int | None,
    action: str,
    body: dict[str, Any],
    stated_at: float | None,
) -> bytes:
    """A storefront's event: the same (key, client, session, action, body, `_dt`) is the same event.

    `stated_at` is `_dt` in Unix seconds. Without it, two equal events are two.
    """
    if stated_at is None:
        return os.urandom(SIZE)
    second = min(max(int(stated_at), 0), _MAX_SECOND)
    return _uint32(second) + _hash(
        SIZE - 4,
        key.encode(),
        (client_id or "").encode(),
        b"" if session is None else b"%d" % session,
        action.encode(),
        repr(stated_at).encode(),
        _canonical(body),
    )


def of_order(merchant: MerchantId, order_id: str) -> bytes:
    """A purchase's claim on its order, for ever, however it comes in."""
    return _hash(SIZE, b"order", merchant.encode(), order_id.encode())


def of_id(merchant: MerchantId, own_id: str) -> bytes:
    """An event that a back end gave an id of its own."""
    own = own_id.encode()
    told = _id_of(merchant) + _uint32(len(own)) + own
    return hashlib.blake2b(told, digest_size=SIZE).digest()


@lru_cache(maxsize=4096)
def _id_of(merchant: MerchantId) -> bytes:
    """What the ids of a merchant's events begin with."""
    return _told(b"id", merchant.encode())
