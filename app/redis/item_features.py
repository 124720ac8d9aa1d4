"""Item features in Redis, with the version they have and the changes that led there.

| key | what |
|---|---|
| vitrine:items:<merchant>:<section>:<bucket> | hash: item id -> JSON of ItemFeatures; 256 buckets |
| vitrine:catalogue:<merchant>:<section> | hash: version, epoch, items, verified_at, mended |
| vitrine:changes:<merchant>:<section> | stream: base, version, part, ids (none: too many to name) |
| vitrine:projecting:<merchant>:<section> | who projects now |

Each command names one key, so that all of it works on a Redis Cluster, where a section's buckets
spread over the nodes. The version is written last: who reads it finds everything up to it.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from app.domain.catalogue import ItemFeatures, ItemId, Section
from app.domain.merchant import MerchantId
from app.redis.connection import RedisConnection, part
from app.services.catalogue_sync import CHANGES_READ, MAX_NAMED, Change, Projected, Work

BUCKETS: Final = 256
IDS_A_CHANGE: Final = 1_000
"""Ids that one entry of the stream names."""
MAX_CHANGES: Final = 2_000
"""Entries that the stream keeps: at most some 30 MB, where all of them name 1,000 ids."""
_SCAN_COUNT: Final = 500
_WRITTEN_AT_ONCE: Final = 1 << 18  # bytes
_AT_ONCE: Final = 64  # items that are encoded or read before requests run again: half a millisecond
_LOCK_SECONDS: Final = 30

_encode = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(ItemFeatures).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode

_AT_IT: Final[Mapping[Work, str]] = {"project": "projecting", "verify": "verifying"}


class _Version(msgspec.Struct):
    version: int


_decode_version = msgspec.json.Decoder(_Version).decode

# Only who holds the lock may lengthen or leave it. One key each, so fit for a cluster.
_RENEW: Final = (
    "if redis.call('get', KEYS[1]) == ARGV[1]"
    " then return redis.call('pexpire', KEYS[1], ARGV[2]) else return 0 end"
)
_LEAVE: Final = (
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1])"
    " else return 0 end"
)


class RedisItemFeatures:
    """
    Raises (every method):
        Unavailable: Redis is away, slow or refuses for now.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def states(
        self, sections: Sequence[tuple[MerchantId, Section]]
    ) -> list[Projected | None]:
        """What Redis holds of each section, in one round trip; None: nothing, or not wholly."""
        if not sections:
            return []
        with self._connection.errors():
            pipeline = self._connection.pipeline()
            for merchant, section in sections:
                pipeline.hgetall(_catalogue_key(merchant, section))
            found: list[Mapping[bytes, bytes]] = await pipeline.execute()
        return [_projected(fields) for fields in found]

    async def state(self, merchant: MerchantId, section: Section) -> Projected | None:
        return (await self.states([(merchant, section)]))[0]

    async def fetch(
        self, merchant: MerchantId, section: Section, ids: Sequence[str]
    ) -> list[bytes | None]:
        """JSON of the items' features in the order of `ids`, in one pipelined call."""
        if not ids:
            return []
        places = by_bucket(ids)
        answers: list[list[bytes | None]] = await self._connection.run(
            [
                ("HMGET", bucket_key(merchant, section, bucket), *(ids[place] for place in here))
                for bucket, here in places.items()
            ]
        )
        found: list[bytes | None] = [None] * len(ids)
        for here, values in zip(places.values(), answers, strict=True):
            for place, value in zip(here, values, strict=True):
                found[place] = value
        return found

    async def features(
        self, merchant: MerchantId, section: Section, ids: Sequence[str]
    ) -> list[ItemFeatures | None]:
        """The items' features in the order of `ids`."""
        found = await self.fetch(merchant, section, ids)
        return [None if value is None else decode(value) for value in found]

    async def read(
        self, merchant: MerchantId, section: Section, ids: Sequence[ItemId]
    ) -> AsyncIterator[tuple[list[ItemFeatures], list[ItemId]]]:
        """The items' features, and the ids of those that are not there, in parts and in any
        order."""
        ordered = sorted(ids, key=bucket_of)  # fewer, longer commands
        for start in range(0, len(ordered), _AT_ONCE):
            some = ordered[start : start + _AT_ONCE]
            found = await self.fetch(merchant, section, some)
            yield (
                [decode(value) for value in found if value is not None],
                [item_id for item_id, value in zip(some, found, strict=True) if value is None],
            )

    async def versions(
        self, merchant: MerchantId, section: Section, ids: Sequence[str]
    ) -> list[int | None]:
        """The catalogue version that brought each item."""
        found = await self.fetch(merchant, section, ids)
        return [None if value is None else _decode_version(value).version for value in found]

    async def scan(
        self, merchant: MerchantId, section: Section
    ) -> AsyncIterator[list[ItemFeatures]]:
        """All items, some hundred at a time; one may come twice. Not one moment's picture: see
        the versions."""
        async for fields in self._scan(merchant, section):
            yield [decode(value) for value in fields.values()]

    async def ids(self, merchant: MerchantId, section: Section) -> AsyncIterator[list[ItemId]]:
        """The ids of all items, some hundred at a time."""
        async for fields in self._scan(merchant, section):
            yield [ItemId(name.decode()) for name in fields]

    async def count(self, merchant: MerchantId, section: Section) -> int:
        """Number of items."""
        with self._connection.errors():
            pipeline = self._connection.pipeline()
            for bucket in range(BUCKETS):
                pipeline.hlen(bucket_key(merchant, section, bucket))
            return sum(await pipeline.execute())

    async def write(
        self,
        merchant: MerchantId,
        section: Section,
        features: Sequence[ItemFeatures],
        deleted: Iterable[ItemId] = (),
    ) -> None:
        """Put features in place and take deleted items out."""
        put: dict[int, list[str | bytes]] = {}
        gone: dict[int, list[str]] = {}
        size = 0
        for number, item in enumerate(features, start=1):
            encoded = _encode(item)
            put.setdefault(bucket_of(item.id), []).extend((item.id, encoded))
            size += len(encoded)
            if size > _WRITTEN_AT_ONCE:
                await self._run("HSET", merchant, section, put)
                put, size = {}, 0
            elif not number % _AT_ONCE:
                await asyncio.sleep(0)
        for item_id in deleted:
            gone.setdefault(bucket_of(item_id), []).append(item_id)
        await self._run("HSET", merchant, section, put)
        await self._run("HDEL", merchant, section, gone)

    async def publish(
        self,
        merchant: MerchantId,
        section: Section,
        *,
        base: int,
        version: int,
        items: int,
        ids: Sequence[ItemId] | None,
    ) -> None:
        """Say that all is written: what led from `base` to `version`, then the version itself.

        Args:
            items: how many items the section has now.
            ids: what changed; None: everything.
        """
        key = _changes_key(merchant, section)
        with self._connection.errors():
            if ids is None or len(ids) > MAX_NAMED:
                await self._add_change(key, {"base": base, "version": version})
            else:
                steps = range(0, max(len(ids), 1), IDS_A_CHANGE)  # one, even of nothing
                for number, start in enumerate(steps):
                    named = _encode(ids[start : start + IDS_A_CHANGE])
                    await self._add_change(
                        key, {"base": base, "version": version, "part": number, "ids": named}
                    )
            await self._connection.client.hset(
                _catalogue_key(merchant, section), mapping={"version": version, "items": items}
            )

    async def begin_epoch(self, merchant: MerchantId, section: Section) -> None:
        """Forget the version and the changes, before everything is written anew."""
        with self._connection.errors():
            await self._connection.client.unlink(_changes_key(merchant, section))
            await self._connection.client.unlink(_catalogue_key(merchant, section))
            await self._connection.client.hset(
                _catalogue_key(merchant, section), "epoch", secrets.token_hex(8)
            )

    async def changes(self, merchant: MerchantId, section: Section, after: str) -> list[Change]:
        """The next entries of the stream after the one named `after` ("0": from the first kept):
        CHANGES_READ of them, or all that there are."""
        with self._connection.errors():
            entries = await self._connection.client.xrange(
                _changes_key(merchant, section),
                min=f"({after}" if after != "0" else "-",
                count=CHANGES_READ,
            )
        return [
            Change(
                entry=name.decode(),
                base=int(fields[b"base"]),
                version=int(fields[b"version"]),
                part=int(fields.get(b"part", 0)),
                ids=_decode_ids(fields[b"ids"]) if b"ids" in fields else None,
            )
            for name, fields in entries
        ]

    async def last_change(self, merchant: MerchantId, section: Section) -> str:
        """The name of the newest entry of the stream; "0" where there is none."""
        with self._connection.errors():
            entries = await self._connection.client.xrevrange(
                _changes_key(merchant, section), count=1
            )
        return entries[0][0].decode() if entries else "0"

    async def lock(
        self, merchant: MerchantId, section: Section, to: Work = "project"
    ) -> str | None:
        """The right to do this with the section, for 30 seconds; None: somebody else has it."""
        holder = secrets.token_hex(16)
        with self._connection.errors():
            taken = await self._connection.client.set(
                _lock_key(merchant, section, to), holder, nx=True, px=_LOCK_SECONDS * 1000
            )
        return holder if taken else None

    async def renew(
        self, merchant: MerchantId, section: Section, holder: str, to: Work = "project"
    ) -> bool:
        """Keep the right for 30 seconds more; False: it is lost."""
        with self._connection.errors():
            return bool(
                await self._connection.client.eval(
                    _RENEW, 1, _lock_key(merchant, section, to), holder, _LOCK_SECONDS * 1000
                )
            )

    async def unlock(
        self, merchant: MerchantId, section: Section, holder: str, to: Work = "project"
    ) -> None:
        with self._connection.errors():
            await self._connection.client.eval(_LEAVE, 1, _lock_key(merchant, section, to), holder)

    async def note_verified(self, merchant: MerchantId, section: Section, at: float) -> None:
        """That the section was compared with PostgreSQL at this time (Unix seconds)."""
        with self._connection.errors():
            await self._connection.client.hset(
                _catalogue_key(merchant, section), "verified_at", repr(at)
            )

    async def note_mended(self, merchant: MerchantId, section: Section) -> None:
        """That items were put right at the version that there is: readers load anew."""
        with self._connection.errors():
            await self._connection.client.hincrby(_catalogue_key(merchant, section), "mended", 1)

    async def _run(
        self,
        command: str,
        merchant: MerchantId,
        section: Section,
        arguments: Mapping[int, Sequence[str | bytes]],
    ) -> None:
        """A command a bucket, with its arguments."""
        if arguments:
            await self._connection.run(
                [
                    (command, bucket_key(merchant, section, bucket), *of)
                    for bucket, of in arguments.items()
                ]
            )

    async def _scan(
        self, merchant: MerchantId, section: Section
    ) -> AsyncIterator[Mapping[bytes, bytes]]:
        for bucket in range(BUCKETS):
            key, cursor = bucket_key(merchant, section, bucket), 0
            while True:
                with self._connection.errors():
                    cursor, fields = await self._connection.client.hscan(
                        key, cursor, count=_SCAN_COUNT
                    )
                if fields:
                    yield fields
                if not cursor:
                    break

    async def _add_change(self, key: str, fields: dict[str, Any]) -> None:
        await self._connection.client.xadd(key, fields, maxlen=MAX_CHANGES, approximate=True)


def bucket_of(item_id: str) -> int:
    return zlib.crc32(item_id.encode()) % BUCKETS


def by_bucket(ids: Sequence[str]) -> dict[int, list[int]]:
    """Places in `ids`, by bucket."""
    places: dict[int, list[int]] = {}
    for place, item_id in enumerate(ids):
        places.setdefault(bucket_of(item_id), []).append(place)
    return places


def _projected(fields: Mapping[bytes, bytes]) -> Projected | None:
    if b"version" not in fields:
        return None
    return Projected(
        version=int(fields[b"version"]),
        epoch=fields.get(b"epoch", b"").decode(),
        items=int(fields.get(b"items", 0)),
        verified_at=float(fields.get(b"verified_at", 0)),
        mended=int(fields.get(b"mended", 0)),
    )


def bucket_key(merchant: MerchantId, section: Section, bucket: int) -> str:
    return f"vitrine:items:{part(merchant)}:{part(section)}:{bucket}"


def _catalogue_key(merchant: MerchantId, section: Section) -> str:
    return f"vitrine:catalogue:{part(merchant)}:{part(section)}"


def _changes_key(merchant: MerchantId, section: Section) -> str:
    return f"vitrine:changes:{part(merchant)}:{part(section)}"


def _lock_key(merchant: MerchantId, section: Section, to: Work) -> str:
    return f"vitrine:{_AT_IT[to]}:{part(merchant)}:{part(section)}"
