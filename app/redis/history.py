"""Shoppers' recent history: a list a shopper, newest first. Made again from PostgreSQL when lost.

Only commands on single keys, so that it works on a cluster as on one node. A list's key carries the
hash tag `{merchant:shopper}`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any, Final
from urllib.parse import quote

import msgspec
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from app.domain.errors import Unavailable
from app.domain.event import REMEMBERED, Event, HistoryEntry, Shopper
from app.domain.merchant import MerchantId
from app.redis.coalescing import Command
from app.redis.connection import is_gone, shopper_tag
from app.redis.placements import placements_key
from app.services.track import Identity

_by_time: Final = attrgetter("time")
_SLACK: Final = 1.2  # a list is trimmed once it is so much longer than it has to be

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[HistoryEntry]).decode
_decode_one = msgspec.json.Decoder(HistoryEntry).decode


def history_key(merchant: MerchantId, shopper_id: str) -> str:
    """`shopper_id` as in `Shopper.id`."""
    return "vitrine:history:" + shopper_tag(merchant, shopper_id)


class HistoryStore:
    """Implements the ports `History` of services.track, `HistoryCache` of services.history and
    of services.privacy, and what recommending reads.

    Args:
        redis: a client that does not decode answers.
        run: what events are written by, `RedisConnection.run`; None: `redis`.
        length: entries kept a shopper.
        days: how long after the last event a history is kept.
        observe: is told of each call: seconds, and whether Redis answered.

    Raises (every method):
        Unavailable: Redis does not answer.
    """

    def __init__(
        self,
        redis: Redis | RedisCluster,
        *,
        run: Callable[[Sequence[Command]], Awaitable[list[Any]]] | None = None,
        length: int = 100,
        days: int = 90,
        observe: Callable[[float, bool], None] | None = None,
    ) -> None:
        self._observe = observe
        self._redis: Any = redis  # redis-py types the two clients' pipelines differently
        self._run = run or self._pipelined
        self._length = length
        self._seconds = days * 86400

    async def read(
        self, merchant: MerchantId, shopper: Shopper, limit: int
    ) -> Sequence[HistoryEntry]:
        """At most `limit` entries of the user and the client together, newest first, in one
        round trip."""
        keys = []
        if shopper.user_id is not None:
            keys.append(history_key(merchant, f"u:{shopper.user_id}"))
        if shopper.client_id is not None:
            keys.append(history_key(merchant, f"c:{shopper.client_id}"))
        if not keys or limit < 1:
            return ()
        async with self._pipeline() as pipeline:
            for key in keys:
                pipeline.lrange(key, 0, limit - 1)
            lists = await pipeline.execute()
        entries = _decode(b"[" + b",".join([entry for found in lists for entry in found]) + b"]")
        entries.sort(key=_by_time, reverse=True)
        return entries[:limit]

    async def add(self, events: Sequence[Event]) -> None:
        """Puts the events' items in front of their shoppers' histories: one round trip."""
        lists: dict[str, list[bytes]] = {}
        for event in sorted(events, key=_by_time):
            if not event.learn or event.type not in REMEMBERED or not event.lines:
                continue
            shopper_id = event.shopper.id
            if shopper_id is None:
                continue
            entries = lists.setdefault(history_key(event.merchant, shopper_id), [])
            for line in event.lines[: self._length]:
                entries.append(
                    _encode(HistoryEntry(line.item_id, event.type, event.time, event.result_id))
                )
        await self._push(lists)

    async def join(self, identities: Sequence[Identity]) -> None:
        """Moves anonymous histories to the users that clients turned out to be."""
        if not identities:
            return
        moves = []
        async with self._pipeline() as pipeline:
            for merchant, client_id, user_id in identities:
                source = history_key(merchant, f"c:{client_id}")
                # Set apart first: what the client does meanwhile goes to a new list.
                aside = f"{source}:joining"
                pipeline.rename(source, aside)  # an error where there is none: nothing to join
                pipeline.lrange(aside, 0, -1)
                moves.append((history_key(merchant, f"u:{user_id}"), aside))
            found = await pipeline.execute(raise_on_error=False)
        lists: dict[str, list[bytes]] = {}
        for (target, _), entries in zip(moves, found[1::2], strict=True):
            if isinstance(entries, RedisError):
                raise _unavailable() from entries
            if entries:
                lists.setdefault(target, []).extend(reversed(entries))
        if lists:
            await self._push(lists)
            async with self._pipeline() as pipeline:
                for _, aside in moves:
                    pipeline.delete(aside)
                await pipeline.execute()

    async def merge(
        self, merchant: MerchantId, histories: Mapping[str, Sequence[HistoryEntry]]
    ) -> int:
        """Adds the entries that are missing; `histories` by `Shopper.id`, newest first.

        Nothing is removed, so that what a shopper does meanwhile stays. Returns how many were
        missing.
        """
        keys = [history_key(merchant, shopper_id) for shopper_id in histories]
        if not keys:
            return 0
        async with self._pipeline() as pipeline:
            for key in keys:
                pipeline.lrange(key, 0, -1)
            present = await pipeline.execute()
        newer: dict[str, list[bytes]] = {}
        older: dict[str, list[bytes]] = {}
        for key, have, entries in zip(keys, present, histories.values(), strict=True):
            known = set(have)
            oldest = _decode_one(have[-1]).time if have else 0.0
            for entry in entries:
                encoded = _encode(entry)
                if encoded in known:
                    continue
                if have and entry.time > oldest:
                    newer.setdefault(key, []).insert(0, encoded)
                elif len(have) + len(older.get(key, ())) < self._length:
                    older.setdefault(key, []).append(encoded)
        await self._push(newer)
        await self._push(older, front=False)
        return sum(map(len, newer.values())) + sum(map(len, older.values()))

    async def entries(self, merchant: MerchantId, shopper_id: str) -> Sequence[HistoryEntry]:
        """One shopper's whole list, newest first."""
        async with self._pipeline() as pipeline:
            pipeline.lrange(history_key(merchant, shopper_id), 0, -1)
            (found,) = await pipeline.execute()
        entries = _decode(b"[" + b",".join(found) + b"]")
        entries.sort(key=_by_time, reverse=True)
        return entries

    async def forget(self, merchant: MerchantId, shopper_ids: Iterable[str]) -> int:
        """Deletes histories. Returns how many there were."""
        async with self._pipeline() as pipeline:
            for shopper_id in shopper_ids:
                key = history_key(merchant, shopper_id)
                pipeline.delete(key)
                pipeline.delete(f"{key}:joining")
                pipeline.delete(placements_key(merchant, shopper_id))
            deleted: list[int] = await pipeline.execute()
        return sum(deleted) - sum(deleted[2::3])

    async def is_built(self, merchant: MerchantId) -> bool:
        """Whether the merchant's histories were made since Redis was last empty."""
        async with self._pipeline() as pipeline:
            pipeline.exists(_built_key(merchant))
            (found,) = await pipeline.execute()
        return bool(found)

    async def mark_built(self, merchant: MerchantId) -> None:
        async with self._pipeline() as pipeline:
            pipeline.set(_built_key(merchant), 1)
            await pipeline.execute()

    async def lock(self, merchant: MerchantId, seconds: int) -> bool:
        """Whether this process is the one to make the merchant's histories for `seconds`."""
        async with self._pipeline() as pipeline:
            pipeline.set(f"{_built_key(merchant)}:lock", 1, nx=True, ex=seconds)
            (got,) = await pipeline.execute()
        return bool(got)

    async def unlock(self, merchant: MerchantId) -> None:
        async with self._pipeline() as pipeline:
            pipeline.delete(f"{_built_key(merchant)}:lock")
            await pipeline.execute()

    async def _push(self, lists: Mapping[str, Sequence[bytes]], *, front: bool = True) -> None:
        if not lists:
            return
        push = "LPUSH" if front else "RPUSH"
        commands: list[Command] = []
        for key, entries in lists.items():
            commands.append((push, key, *entries))
            commands.append(("EXPIRE", key, self._seconds))
        lengths = (await self._run(commands))[::2]
        most = int(self._length * _SLACK)
        long = [key for key, length in zip(lists, lengths, strict=True) if length > most]
        if long:
            await self._run([("LTRIM", key, 0, self._length - 1) for key in long])

    async def _pipelined(self, commands: Sequence[Command]) -> list[Any]:
        async with self._pipeline() as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute()
        return replies

    @asynccontextmanager
    async def _pipeline(self) -> AsyncIterator[Any]:
        began = time.perf_counter()
        answered = False  # nor is who gives up waiting answered
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                yield pipeline
            answered = True
        except (RedisError, OSError) as error:
            raise _unavailable() from error
        except RuntimeError as error:
            if not is_gone(error):
                raise
            raise _unavailable() from error
        finally:
            if self._observe is not None:
                self._observe(time.perf_counter() - began, answered)


def _built_key(merchant: MerchantId) -> str:
    return f"vitrine:history-built:{{{quote(merchant, safe='')}}}"


def _unavailable() -> Unavailable:
    return Unavailable("the shoppers' history does not answer now: try again")
