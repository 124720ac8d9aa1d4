"""Bulk into the event log: COPY into a temporary table, then day by day into the partitions.

PostgreSQL takes no COPY into a table with row-level security, hence the staging. Days are committed
one after the other, so that no claim on an order is held for long: the live events of that order
would wait for it.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import pyarrow as pa
import pyarrow.csv

from app.domain.errors import Unavailable
from app.domain.merchant import MerchantId
from app.postgres.database import is_passing, libpq_url
from app.services.import_events import Batch, Merged

CHUNK_ROWS: Final = 200_000  # rows of a commit, at least, where there are so many

_COLUMNS: Final = {
    "claim": "text",
    "forever": "bool",
    "counted": "bool",
    "at": "timestamptz",
    "type": "int2",
    "section": "text",
    "client_id": "text",
    "user_id": "text",
    "session": "int8",
    "item_id": "text",
    "variation_id": "text",
    "quantity": "float4",
    "price": "float8",
    "revenue": "float8",
    "order_id": "text",
    "result_id": "text",
    "pod_id": "text",
    "strategy": "text",
    "term": "text",
    "conversion_type": "text",
}
_STAGE: Final = (
    "CREATE TEMPORARY TABLE staged (n int8 GENERATED ALWAYS AS IDENTITY, "
    + ", ".join(f"{name} {type_}" for name, type_ in _COLUMNS.items())
    + ")"
)
# Equal rows without an id are told apart by their place among their like; all rows of an event go
# in with the first of its days.
_ARRANGE: Final = """
CREATE TEMPORARY TABLE arranged AS
SELECT s.*, (min(s.at) OVER (PARTITION BY s.fingerprint) AT TIME ZONE 'UTC')::date AS day
FROM (
    SELECT *, CASE WHEN place = 1 THEN decode(claim, 'hex')
                   ELSE decode(left(claim, 8) || left(md5(claim || place), 24), 'hex')
              END AS fingerprint
    FROM (
        SELECT *, CASE WHEN counted THEN row_number() OVER (PARTITION BY claim ORDER BY n) ELSE 1
                  END AS place
        FROM staged
    ) AS numbered
) AS s
ORDER BY day, s.at
"""
# Without rows that need telling apart, the window over all of them is saved.
_ARRANGE_ORDERS: Final = """
CREATE TEMPORARY TABLE arranged AS
SELECT s.*, decode(s.claim, 'hex') AS fingerprint, c.day
FROM staged AS s
JOIN (SELECT claim, (min(at) AT TIME ZONE 'UTC')::date AS day FROM staged GROUP BY claim) AS c
    USING (claim)
ORDER BY c.day, s.at
"""
_MERGE: Final = """
WITH claimed AS (
    INSERT INTO event_id (merchant_id, fingerprint, forever)
    SELECT $1, fingerprint, bool_or(forever) FROM arranged
    WHERE day BETWEEN $2 AND $3 GROUP BY fingerprint ORDER BY fingerprint
    ON CONFLICT DO NOTHING
    RETURNING fingerprint
)
INSERT INTO event (merchant_id, occurred_at, type, action, section, client_id, user_id, session,
    item_id, variation_id, quantity, revenue, order_id, result_id, pod_id, strategy, term,
    conversion_type)
SELECT $1, r.at, r.type, 'import', r.section, r.client_id, r.user_id, r.session,
    r.item_id, r.variation_id, r.quantity, coalesce(r.revenue, r.price * r.quantity, 0),
    r.order_id, r.result_id, r.pod_id, r.strategy, r.term, r.conversion_type
FROM arranged AS r JOIN claimed USING (fingerprint)
WHERE r.day BETWEEN $2 AND $3
"""
_IDENTIFY: Final = """
INSERT INTO shopper_identity (merchant_id, client_id, user_id)
SELECT DISTINCT ON (client_id) $1, client_id, user_id FROM arranged
WHERE client_id IS NOT NULL AND user_id IS NOT NULL
ORDER BY client_id, at
ON CONFLICT DO NOTHING
"""


class EventImport:
    """Implements `services.import_events.EventStore`. Each import has a connection of its own: a
    temporary table belongs to one session."""

    def __init__(self, url: str) -> None:
        self._dsn = libpq_url(url)

    @asynccontextmanager
    async def staging(self, merchant: MerchantId) -> AsyncIterator[Staging]:
        """See `services.import_events.EventStore`."""
        try:
            connection = await asyncpg.connect(
                self._dsn,
                server_settings={
                    "application_name": "vitrine-import",
                    "timezone": "UTC",
                    "statement_timeout": "0",
                    "work_mem": "128MB",
                    "temp_buffers": "128MB",
                },
            )
            try:
                await connection.execute(
                    "SELECT set_config('vitrine.merchant', $1, false)", merchant
                )
                await connection.execute(_STAGE)
                yield Staging(connection, merchant)
            finally:
                connection.terminate() if connection.is_closed() else await connection.close()
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
            if isinstance(error, asyncpg.PostgresError) and not is_passing(error):
                raise
            raise Unavailable("the database does not answer now: run the import again") from error


class Staging:
    def __init__(self, connection: asyncpg.Connection, merchant: MerchantId) -> None:
        self._connection = connection
        self._merchant = merchant
        self._rows = 0
        self._counted = False

    async def add(self, batch: Batch) -> None:
        """See `services.import_events.Staging`."""
        table: pa.Table = batch.staged.select(list(_COLUMNS))
        if not table.num_rows:
            return
        self._rows += table.num_rows
        self._counted = self._counted or pa.compute.any(table.column("counted")).as_py()
        text = io.BytesIO()
        pyarrow.csv.write_csv(
            table, text, pyarrow.csv.WriteOptions(include_header=False, batch_size=8192)
        )
        text.seek(0)
        await self._connection.copy_to_table(
            "staged", schema_name="pg_temp", source=text, columns=list(_COLUMNS), format="csv"
        )

    async def merge(self) -> AsyncIterator[Merged]:
        """See `services.import_events.Staging`."""
        run = self._connection
        await run.execute("ANALYZE pg_temp.staged")
        await run.execute(_ARRANGE if self._counted else _ARRANGE_ORDERS)
        await run.execute("DROP TABLE pg_temp.staged")
        await run.execute("CREATE INDEX ON pg_temp.arranged (day); ANALYZE pg_temp.arranged")
        days = await run.fetch(
            "SELECT DISTINCT (at AT TIME ZONE 'UTC')::date AS day FROM arranged ORDER BY day"
        )
        for start in range(0, len(days), 100):  # each new partition takes locks
            some = [row["day"] for row in days[start : start + 100]]
            await run.execute("SELECT ensure_event_partitions($1::date[])", some)
        counts = await run.fetch("SELECT day, count(*) FROM arranged GROUP BY day ORDER BY day")
        for first, last, rows in _chunks([(day, count) for day, count in counts]):
            status = await run.execute(_MERGE, self._merchant, first, last)
            accepted = int(status.rpartition(" ")[2])
            yield Merged(accepted, rows - accepted)
        await run.execute(_IDENTIFY, self._merchant)


def _chunks(days: Sequence[tuple[dt.date, int]]) -> list[tuple[dt.date, dt.date, int]]:
    """Ranges of days with at least `CHUNK_ROWS` rows each, and how many."""
    ranges: list[tuple[dt.date, dt.date, int]] = []
    first, rows = None, 0
    for day, count in days:
        first = first or day
        rows += count
        if rows >= CHUNK_ROWS:
            ranges.append((first, day, rows))
            first, rows = None, 0
    if first is not None:
        ranges.append((first, days[-1][0], rows))
    return ranges
