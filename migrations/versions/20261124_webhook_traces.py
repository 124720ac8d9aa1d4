"""Messages to webhooks carry the trace of what they tell of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "webhook_traces"
down_revision = "event_days"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("webhook_delivery", sa.Column("traceparent", sa.Text))


def downgrade() -> None:
    op.drop_column("webhook_delivery", "traceparent")
