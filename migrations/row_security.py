"""The second wall, for migrations: `isolate` and `grant` for each new table.

Every table with a `merchant_id` is isolated; tests/integration/test_row_security.py finds in the
catalogue those that are not. A migration that changes rows of isolated tables sees none of them,
for the owner too: set `vitrine.merchant` merchant by merchant.
"""

from __future__ import annotations

from alembic import op

APP_ROLE = "vitrine_app"
# Within a subquery it is worked out once a statement instead of once a row.
SCOPE = "(SELECT NULLIF(current_setting('vitrine.merchant', true), ''))"


def isolate(table: str, column: str = "merchant_id") -> None:
    """Shows and takes only rows of the merchant that the transaction has named."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY merchant_scope ON {table}"
        f" USING ({column} = {SCOPE}) WITH CHECK ({column} = {SCOPE})"
    )


def grant(privileges: str, *tables: str) -> None:
    """Gives the server's role what it needs on tables, and nothing else."""
    for table in tables:
        op.execute(f"GRANT {privileges} ON TABLE {table} TO {APP_ROLE}")
