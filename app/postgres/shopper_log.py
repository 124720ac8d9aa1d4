"""One shopper's rows in the event log: read and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from app.domain.event import Event
from app.domain.merchant import MerchantId
from app.postgres.audit import record
from app.postgres.database import Database, raw
from app.postgres.event_log import erasure_key, erasure_names, whole_client
from app.services.privacy import Person

# A user's own events and the anonymous ones of their clients; or all that a client did.
_MINE: Final = """
merchant_id = $1 AND (user_id = $2 OR (client_id = ANY($3::text[])
    AND ($2::text IS NULL OR user_id IS NULL)))
"""
_EVENTS: Final = f"SELECT * FROM event WHERE {_MINE} ORDER BY occurred_at DESC"  # noqa: S608
_DELETE_EVENTS: Final = f"DELETE FROM event WHERE {_MINE}"  # noqa: S608
_CLIENTS: Final = "SELECT client_id FROM shopper_identity WHERE merchant_id = $1 AND user_id = $2"
_SERVED: Final = """
merchant_id = $1 AND (request->'shopper'->>'user_id' = $2
    OR (request->'shopper'->>'client_id' = ANY($3::text[])
        AND ($2::text IS NULL OR request->'shopper'->>'user_id' IS NULL)))
"""
_SAMPLES: Final = f"SELECT * FROM served_sample WHERE {_SERVED} ORDER BY served_at DESC"  # noqa: S608
_DELETE_SAMPLES: Final = f"DELETE FROM served_sample WHERE {_SERVED}"  # noqa: S608
_UNLINK: Final = """
DELETE FROM shopper_identity
WHERE merchant_id = $1 AND (user_id = $2 OR client_id = ANY($3::text[]))
"""
_REMEMBER: Final = """
INSERT INTO shopper_erasure (merchant_id, shopper)
SELECT $1, shopper FROM unnest($2::bytea[]) AS shopper
ON CONFLICT (merchant_id, shopper) DO UPDATE SET erased_at = now()
"""
_REJECTED: Final = "SELECT id, event FROM event_rejected WHERE merchant_id = $1"
_DELETE_REJECTED: Final = "DELETE FROM event_rejected WHERE merchant_id = $1 AND id = ANY($2)"

_decode = msgspec.json.Decoder(Event).decode


class ShopperLog:
    """Implements `services.privacy.ShopperLog`. Both scan a merchant's whole log: nobody waits for
    them, and an index by shopper would cost every event."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def clients_of(self, merchant: MerchantId, user_id: str) -> Sequence[str]:
        """See `services.privacy.ShopperLog`."""
        async with self._database.merchant(merchant) as connection:
            rows = await (await raw(connection)).fetch(_CLIENTS, merchant, user_id)
        return [row["client_id"] for row in rows]

    async def events(self, merchant: MerchantId, person: Person) -> AsyncIterator[dict[str, Any]]:
        """See `services.privacy.ShopperLog`."""
        async for row in self._rows(_EVENTS, merchant, person):
            yield row

    async def samples(self, merchant: MerchantId, person: Person) -> AsyncIterator[dict[str, Any]]:
        """See `services.privacy.ShopperLog`."""
        async for row in self._rows(_SAMPLES, merchant, person):
            yield row

    async def _rows(
        self, query: str, merchant: MerchantId, person: Person
    ) -> AsyncIterator[dict[str, Any]]:
        async with self._database.merchant(merchant, statement_timeout=0) as connection:
            rows = (await raw(connection)).cursor(
                query, merchant, person.user_id, list(person.client_ids)
            )
            async for row in rows:
                yield dict(row)

    async def forget(self, merchant: MerchantId, person: Person, actor: str) -> tuple[int, int]:
        """See `services.privacy.ShopperLog`."""
        mine = (merchant, person.user_id, list(person.client_ids))
        names = set(person.names)
        if person.user_id is None:
            names.update(whole_client(client_id) for client_id in person.client_ids)
        async with self._database.merchant(merchant, statement_timeout=0) as connection:
            driver = await raw(connection)
            # Before the rows go: an event that is stored from now on is refused.
            await driver.execute(_REMEMBER, merchant, [erasure_key(name) for name in names])
            events = _count(await driver.execute(_DELETE_EVENTS, *mine))
            samples = _count(await driver.execute(_DELETE_SAMPLES, *mine))
            await driver.execute(_UNLINK, *mine)
            refused = [
                row["id"]
                for row in await driver.fetch(_REJECTED, merchant)
                if names.intersection(erasure_names(_decode(row["event"]).shopper))
            ]
            await driver.execute(_DELETE_REJECTED, merchant, refused)
            subject = erasure_key(person.names[0]).hex()[:16]
            await record(connection, merchant, actor, "shopper.forget", subject)
        return events, samples


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
