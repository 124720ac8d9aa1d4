"""What the event log says to PostgreSQL."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

# name, PostgreSQL's type of a value in the array, expression of the stored value
_COLUMNS: Final = (
    ("occurred_at", "float8", "to_timestamp(r.occurred_at)"),
    ("received_at", "float8", "to_timestamp(r.received_at)"),
    ("type", "int2", "r.type"),
    ("action", "text", "r.action"),
    ("section", "text", "r.section"),
    ("client_id", "text", "r.client_id"),
    ("user_id", "text", "r.user_id"),
    ("session", "int8", "r.session"),
    ("item_id", "text", "r.item_id"),
    ("variation_id", "text", "r.variation_id"),
    ("quantity", "float4", "r.quantity"),
    ("revenue", "float4", "r.revenue"),
    ("order_id", "text", "r.order_id"),
    ("result_id", "text", "r.result_id"),
    ("pod_id", "text", "r.pod_id"),
    ("strategy", "text", "r.strategy"),
    ("term", "text", "r.term"),
    ("conversion_type", "text", "r.conversion_type"),
    ("learn", "bool", "r.learn"),
    ("payload", "text", "r.payload::jsonb"),
)
COLUMNS: Final = tuple(name for name, _, _ in _COLUMNS)
# What a column holds where the INSERT does not name it: see `tables.event`.
DEFAULTS: Final = {
    **dict.fromkeys(("client_id", "user_id", "session", "item_id", "variation_id", "order_id")),
    **dict.fromkeys(("result_id", "pod_id", "strategy", "term", "conversion_type")),
    "quantity": 1.0,
    "revenue": 0.0,
    "learn": True,
    "payload": "{}",
}


@lru_cache(maxsize=256)
def append(absent: frozenset[str]) -> str:
    """Claims and rows. $1: the merchant; $2, $3: fingerprints, whether they are for ever; $4: a
    fingerprint a row; from $5 on the columns that are not `absent`, in the order of `COLUMNS`."""
    columns = [column for column in _COLUMNS if column[0] not in absent]
    names = ", ".join(name for name, _, _ in columns)
    return f"""
WITH claimed AS (
    INSERT INTO event_id (merchant_id, fingerprint, forever)
    SELECT $1, c.fingerprint, c.forever
    FROM unnest($2::bytea[], $3::bool[]) AS c (fingerprint, forever)
    ORDER BY c.fingerprint  -- the same order in every process: they cannot deadlock
    ON CONFLICT DO NOTHING
    RETURNING fingerprint
), stored AS (
    INSERT INTO event (merchant_id, {names})
    SELECT $1, {", ".join(expression for _, _, expression in columns)}
    FROM unnest($4::bytea[], {", ".join(f"${i}::{t}[]" for i, (_, t, _) in enumerate(columns, 5))})
        AS r (fingerprint, {names})
    JOIN claimed USING (fingerprint)
)
SELECT fingerprint FROM claimed
"""  # noqa: S608  # made of the names above


# The shopper's latest click on the item within the window, on this client or as this user.
ATTRIBUTE: Final = """
SELECT l.n, found.result_id, found.pod_id, found.strategy
FROM unnest($2::int4[], $3::text[], $4::text[], $5::text[], $6::float8[])
    AS l (n, client_id, user_id, item_id, at)
CROSS JOIN LATERAL (
    SELECT click.* FROM (
        (SELECT e.result_id, e.pod_id, e.strategy, e.occurred_at FROM event AS e
         WHERE e.merchant_id = $1 AND e.client_id = l.client_id AND e.item_id = l.item_id
           AND e.type = 2 AND e.pod_id IS NOT NULL AND e.result_id IS NOT NULL
           AND e.occurred_at BETWEEN to_timestamp($7) AND to_timestamp($8)
           AND e.occurred_at <= to_timestamp(l.at)
         ORDER BY e.occurred_at DESC LIMIT 1)
        UNION ALL
        (SELECT e.result_id, e.pod_id, e.strategy, e.occurred_at FROM event AS e
         WHERE e.merchant_id = $1 AND e.user_id = l.user_id AND e.item_id = l.item_id
           AND e.type = 2 AND e.pod_id IS NOT NULL AND e.result_id IS NOT NULL
           AND e.occurred_at BETWEEN to_timestamp($7) AND to_timestamp($8)
           AND e.occurred_at <= to_timestamp(l.at)
         ORDER BY e.occurred_at DESC LIMIT 1)
    ) AS click
    WHERE click.occurred_at > to_timestamp(l.at - $9)
    ORDER BY click.occurred_at DESC LIMIT 1
) AS found
"""
IDENTIFY: Final = """
INSERT INTO shopper_identity (merchant_id, client_id, user_id, since)
SELECT $1, c.client_id, c.user_id, to_timestamp(c.since)
FROM unnest($2::text[], $3::text[], $4::float8[]) AS c (client_id, user_id, since)
ORDER BY c.client_id
ON CONFLICT DO NOTHING
RETURNING client_id, user_id
"""
SCOPE: Final = "SELECT set_config('vitrine.merchant', $1, true)"
SET_ASIDE: Final = """
INSERT INTO event_rejected (merchant_id, reason, event) VALUES ($1, $2, $3)
"""
ERASED: Final = "SELECT shopper, erased_at FROM shopper_erasure WHERE shopper = ANY($1::bytea[])"
