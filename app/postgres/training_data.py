"""The catalogue and the event log as the columns that a fit learns from.

Events leave PostgreSQL by COPY into a file and are coded from there a block at a time, so that
neither the rows nor their texts are ever all in memory: what stays is about 40 bytes an event.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.csv
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.catalogue import Section
from app.domain.merchant import MerchantId
from app.postgres.database import Database, raw
from app.postgres.tables import section as section_table
from app.postgres.training_items import read_items
from app.services.train import Progress, TrainingSet
from app.services.training_columns import COLUMNS, TrainingCatalogue, coded, training_set
from vitrine_sdk import Events, Items

_BLOCK_BYTES: Final = 8 << 20

# A user's events on every client, what came before the log-in included, are one shopper's. An
# order that names nobody is a shopper of its own.
_EVENTS: Final = """
SELECT coalesce('u:' || e.user_id, 'u:' || i.user_id, 'c:' || e.client_id, 'o:' || e.order_id),
       e.item_id,
       e.type,
       date_part('epoch', e.occurred_at)::bigint,
       e.quantity,
       e.revenue,
       CASE WHEN e.type = 4 AND e.order_id IS NOT NULL THEN 'o' || e.order_id
            WHEN e.session IS NOT NULL THEN 's' || coalesce(e.client_id, '') || ':' || e.session
       END,
       e.term
  FROM event e
  LEFT JOIN shopper_identity i
    ON i.merchant_id = e.merchant_id AND i.client_id = e.client_id AND e.user_id IS NULL
 WHERE e.merchant_id = $1 AND e.section = $2 AND e.learn AND e.occurred_at <= to_timestamp($3)
"""


_USERS: Final = "SELECT client_id, user_id FROM shopper_identity WHERE merchant_id = $1"


class TrainingDataReader:
    """
    Args:
        scratch: a directory for the events on their way; None: the system's.
    """

    def __init__(self, database: Database, scratch: Path | None = None) -> None:
        self._database = database
        self._scratch = scratch

    async def read(
        self, merchant: MerchantId, section: Section, until: float, progress: Progress
    ) -> TrainingSet:
        """Everything of a section up to `until` (Unix seconds) that may be learned from.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="events-", dir=self._scratch) as directory:
            file = Path(directory) / "events.csv"
            async with self._database.merchant(merchant, statement_timeout=0) as connection:
                version, items = await _catalogue(connection, merchant, section)
                progress(f"{len(items):,} items of section {section}")
                await _copy_events(connection, file, merchant, section, until)
            events, unknown = await asyncio.to_thread(_code, file, items.ids)
        progress(f"{len(events):,} events of {events.shoppers:,} shoppers")
        return training_set(TrainingCatalogue(items, version, {}), events, unknown, section, until)

    async def catalogue(self, merchant: MerchantId, section: Section) -> TrainingCatalogue:
        """Implements `services.training_columns.CatalogueSource`."""
        async with self._database.merchant(merchant, statement_timeout=0) as connection:
            version, items = await _catalogue(connection, merchant, section)
            users = await (await raw(connection)).fetch(_USERS, merchant)
        return TrainingCatalogue(items, version, dict(users))


async def _catalogue(
    connection: AsyncConnection, merchant: MerchantId, section: Section
) -> tuple[int, Items]:
    version = await connection.scalar(
        sa.select(section_table.c.catalogue_version).where(
            section_table.c.merchant_id == merchant, section_table.c.name == section
        )
    )
    return version or 0, await read_items(connection, merchant, section)


async def _copy_events(
    connection: AsyncConnection,
    file: Path,
    merchant: MerchantId,
    section: Section,
    until: float,
) -> None:
    driver = await raw(connection)
    await driver.copy_from_query(_EVENTS, merchant, section, until, output=file, format="csv")


def _code(file: Path, ids: Sequence[str]) -> tuple[Events, int]:
    """A file of events coded, and how many of them name an item that is unknown."""
    return coded(_batches(file), ids)


def _batches(file: Path) -> Iterator[Any]:
    if file.stat().st_size == 0:
        return
    yield from pyarrow.csv.open_csv(
        file,
        read_options=pyarrow.csv.ReadOptions(
            column_names=list(COLUMNS), block_size=_BLOCK_BYTES, use_threads=True
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict(COLUMNS),
            null_values=[""],  # as COPY writes NULL; an empty text is quoted
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
