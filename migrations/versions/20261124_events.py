"""Events set aside, shoppers forgotten, and the indexes by which a purchase finds its click."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.row_security import grant, isolate

revision = "events"
down_revision = "jobs"
branch_labels = None
depends_on = None

RECOMMENDATION_CLICK = sa.text("type = 2 AND pod_id IS NOT NULL AND result_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "event_rejected",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column(
            "rejected_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_rejected")),
    )
    op.create_index("ix_event_rejected_merchant_id_id", "event_rejected", ["merchant_id", "id"])
    op.create_table(
        "shopper_erasure",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("shopper", sa.LargeBinary(), nullable=False),
        sa.Column(
            "erased_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_shopper_erasure_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "shopper", name=op.f("pk_shopper_erasure")),
    )
    for table in ("event_rejected", "shopper_erasure"):
        isolate(table)
        grant("SELECT, INSERT, UPDATE, DELETE", table)
    for name, shopper in (("client", "client_id"), ("user", "user_id")):
        op.create_index(
            f"ix_event_click_{name}",
            "event",
            ["merchant_id", shopper, "item_id", "occurred_at"],
            postgresql_where=RECOMMENDATION_CLICK,
        )


def downgrade() -> None:
    op.drop_index("ix_event_click_user", "event")
    op.drop_index("ix_event_click_client", "event")
    op.drop_table("shopper_erasure")
    op.drop_table("event_rejected")
