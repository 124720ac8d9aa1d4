"""What a next release's expanding migration would do to the tables that shops write to all the
time: columns that may be null, and an index that is made beside the writers. Only the scenario
`migrated` applies it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.postgres.migration import head

revision = "next_release"
down_revision = head()
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("event", sa.Column("channel", sa.Text))
    op.add_column("item", sa.Column("season", sa.Text))
    with op.get_context().autocommit_block():
        op.create_index("item_season", "item", ["season"], postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("item_season", "item", postgresql_concurrently=True)
    op.drop_column("item", "season")
    op.drop_column("event", "channel")
