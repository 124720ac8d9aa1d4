"""What the gate found is kept with each version of a rule set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "rule_verdicts"
down_revision = "webhook_traces"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rule_set_version", sa.Column("verdict", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("rule_set_version", "verdict")
