"""Days of the event log can be dropped: by the server's role, one at a time, and old ones only."""

from __future__ import annotations

from alembic import op

from migrations.row_security import APP_ROLE

revision = "event_days"
down_revision = "rule_sets"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The lock on the whole log is asked for shortly: whoever writes goes first, and the next night
    # is another.
    op.execute("""
        CREATE FUNCTION drop_event_partition(day date) RETURNS boolean
        LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        SET lock_timeout = '2s'
        AS $function$
        DECLARE
            name text := 'event_' || to_char(day, 'YYYYMMDD');
        BEGIN
            IF day IS NULL OR day > current_date - 30 THEN
                RAISE EXCEPTION 'the day % is not old enough to be dropped', day
                    USING ERRCODE = '22023';
            END IF;
            IF NOT EXISTS (
                SELECT FROM pg_inherits
                WHERE inhparent = 'public.event'::regclass
                    AND inhrelid = to_regclass('public.' || name)
            ) THEN
                RETURN false;
            END IF;
            EXECUTE format('DROP TABLE public.%I', name);
            RETURN true;
        END
        $function$
    """)
    op.execute("""
        COMMENT ON FUNCTION drop_event_partition(date) IS
        'Drops one UTC day of the event log, all merchants'' together; whether there was one.'
    """)
    op.execute("REVOKE ALL ON FUNCTION drop_event_partition(date) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION drop_event_partition(date) TO {APP_ROLE}")


def downgrade() -> None:
    op.execute("DROP FUNCTION drop_event_partition(date)")
