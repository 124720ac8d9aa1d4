"""The job queue: procrastinate's schema, frozen here as of its version 3.10.

Jobs are the operator's, not a merchant's: these tables have no merchant_id and no policies, and
only background work reads them. Where a later procrastinate brings scripts of its own
(`procrastinate/sql/migrations`), they become a migration here; a test tells.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

from migrations.row_security import APP_ROLE, grant

revision = "jobs"
down_revision = "foundation"
branch_labels = None
depends_on = None

SCHEMA = Path(__file__).parents[1] / "procrastinate.sql"
NEWEST_SCRIPT = "03.04.00_50_post_add_retry_failed_job_procedure.sql"  # that SCHEMA contains
TABLES = (
    "procrastinate_workers",
    "procrastinate_jobs",
    "procrastinate_periodic_defers",
    "procrastinate_events",
)
TYPES = (
    "procrastinate_job_to_defer_v1",
    "procrastinate_job_event_type",
    "procrastinate_job_status",
)


def upgrade() -> None:
    script = SCHEMA.read_text(encoding="utf-8")
    # Many statements in one string: only the driver itself takes that.
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(script))
    grant("SELECT, INSERT, UPDATE, DELETE", *TABLES)
    for table in ("procrastinate_jobs", "procrastinate_periodic_defers", "procrastinate_events"):
        op.execute(f"GRANT USAGE ON SEQUENCE {table}_id_seq TO {APP_ROLE}")


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table} CASCADE")
    op.execute("""
        DO $do$
        DECLARE
            routine regprocedure;
        BEGIN
            FOR routine IN
                SELECT oid FROM pg_proc
                WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'procrastinate\\_%'
            LOOP
                EXECUTE format('DROP ROUTINE %s CASCADE', routine);
            END LOOP;
        END
        $do$
    """)
    for name in TYPES:
        op.execute(f"DROP TYPE {name}")
