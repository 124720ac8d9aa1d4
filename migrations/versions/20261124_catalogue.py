"""A function by which one query tells every section's catalogue version."""

from __future__ import annotations

from alembic import op

from migrations.row_security import APP_ROLE

revision = "catalogue"
down_revision = "events"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # It goes through row-level security merchant by merchant instead of around it, and tells
    # nothing but versions. The caller's own scope is given back by hand: an owner who is no
    # superuser may not name a custom setting in a function's SET clause.
    op.execute(
        """
        CREATE FUNCTION catalogue_versions()
        RETURNS TABLE (merchant_id text, section text, version bigint)
        LANGUAGE plpgsql
        AS $$
        DECLARE
            scope text := coalesce(current_setting('vitrine.merchant', true), '');
            one text;
        BEGIN
            PERFORM set_config('vitrine.merchant', '', true);
            FOR one IN SELECT m.id FROM public.merchant m ORDER BY m.id LOOP
                PERFORM set_config('vitrine.merchant', one, true);
                RETURN QUERY
                    SELECT s.merchant_id, s.name, s.catalogue_version
                      FROM public.section s
                     WHERE s.merchant_id = one
                     ORDER BY s.name;
            END LOOP;
            PERFORM set_config('vitrine.merchant', scope, true);
        END
        $$
        """
    )
    op.execute(
        "COMMENT ON FUNCTION catalogue_versions() IS"
        " 'Every section of every merchant with its catalogue version.'"
    )
    op.execute("REVOKE ALL ON FUNCTION catalogue_versions() FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION catalogue_versions() TO {APP_ROLE}")


def downgrade() -> None:
    op.execute("DROP FUNCTION catalogue_versions()")
