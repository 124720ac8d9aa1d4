"""Days of the event log that are past retention, as Parquet: `<merchant>/<day>.parquet`."""

from __future__ import annotations

import asyncio
import datetime as dt
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import fsspec
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId

_TIME: Final = pa.timestamp("us", tz="UTC")
_SCHEMA: Final = pa.schema(
    [
        ("occurred_at", _TIME),
        ("received_at", _TIME),
        ("type", pa.int16()),
        ("action", pa.string()),
        ("section", pa.string()),
        ("client_id", pa.string()),
        ("user_id", pa.string()),
        ("session", pa.int64()),
        ("item_id", pa.string()),
        ("variation_id", pa.string()),
        ("quantity", pa.float32()),
        ("revenue", pa.float32()),
        ("order_id", pa.string()),
        ("result_id", pa.string()),
        ("pod_id", pa.string()),
        ("strategy", pa.string()),
        ("term", pa.string()),
        ("conversion_type", pa.string()),
        ("learn", pa.bool_()),
        ("payload", pa.string()),  # JSON
    ]
)


class EventArchive:
    """Implements `services.retention.EventArchive`.

    Args:
        url: a directory, or any fsspec URL.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)

    async def store(
        self,
        merchant: MerchantId,
        day: dt.date,
        rows: AsyncIterator[Sequence[Mapping[str, Any]]],
    ) -> int:
        """Write a day, whole or not at all, in the place of what was written of it before. How many
        rows; of none, no file is made.

        Raises:
            Unavailable: the store cannot be written.
        """
        folder = f"{self._root.rstrip('/')}/{urllib.parse.quote(merchant, safe='')}"
        target, partial = f"{folder}/{day}.parquet", f"{folder}/.{day}.partial"
        count = 0
        writer: pq.ParquetWriter | None = None
        file: Any = None
        try:
            async for some in rows:
                if writer is None:
                    await asyncio.to_thread(self._fs.makedirs, folder, exist_ok=True)
                    file = await asyncio.to_thread(self._fs.open, partial, "wb")
                    writer = pq.ParquetWriter(file, _SCHEMA, compression="zstd")
                table = pa.Table.from_pylist([_flat(row) for row in some], _SCHEMA)
                await asyncio.to_thread(writer.write_table, table)
                count += len(some)
            if writer is not None:
                await asyncio.to_thread(writer.close)
                await asyncio.to_thread(file.close)
                await asyncio.to_thread(self._fs.mv, partial, target)
        except OSError as error:
            raise Unavailable("the archive of events cannot be written now", 60) from error
        return count


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "payload": msgspec.json.encode(row["payload"]).decode()}
