"""Tables, roles, row-level security and the event log's partitions.

Run it as the schema's owner, who must own the database, or have CREATE on the schema public. The
server's role `vitrine_app` is made where it is missing and the owner may make roles; on a managed
PostgreSQL an administrator may make it beforehand:

    CREATE ROLE vitrine_app LOGIN PASSWORD '...' NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB

Made here it has no password, so it cannot log in where one is asked for: ALTER ROLE ... PASSWORD.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.row_security import APP_ROLE, SCOPE, grant, isolate

revision = "foundation"
down_revision = None
branch_labels = None
depends_on = None

# All tables that have a merchant_id; a table stands behind those that it refers to.
SCOPED = (
    "event",
    "event_id",
    "audit",
    "idempotency_key",
    "item",
    "item_group",
    "model_version",
    "pod",
    "rule_set",
    "rule_set_version",
    "section",
    "served_sample",
    "shopper_identity",
    "storefront_key",
    "strategy_configuration",
    "task",
    "token",
    "variation",
    "task_rejection",
)


def upgrade() -> None:
    make_role()
    make_tables()
    for table in SCOPED:
        isolate(table)
    scope_merchants()
    grant_rights()
    make_partition_function()


def make_tables() -> None:
    op.create_table(
        "event",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column(
            "received_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("section", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("session", sa.BigInteger(), nullable=True),
        sa.Column("item_id", sa.Text(), nullable=True),
        sa.Column("variation_id", sa.Text(), nullable=True),
        sa.Column("quantity", sa.REAL(), server_default="1", nullable=False),
        sa.Column("revenue", sa.REAL(), server_default="0", nullable=False),
        sa.Column("order_id", sa.Text(), nullable=True),
        sa.Column("result_id", sa.Text(), nullable=True),
        sa.Column("pod_id", sa.Text(), nullable=True),
        sa.Column("strategy", sa.Text(), nullable=True),
        sa.Column("term", sa.Text(), nullable=True),
        sa.Column("conversion_type", sa.Text(), nullable=True),
        sa.Column("learn", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "payload",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        postgresql_partition_by="RANGE (occurred_at)",
    )
    op.create_index(
        "ix_event_merchant_id_occurred_at", "event", ["merchant_id", "occurred_at"], unique=False
    )
    op.create_table(
        "event_id",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("forever", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "claimed_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("merchant_id", "fingerprint", name=op.f("pk_event_id")),
    )
    op.create_index(
        "ix_event_id_claimed_at",
        "event_id",
        ["claimed_at"],
        unique=False,
        postgresql_where=sa.text("NOT forever"),
    )
    op.create_table(
        "merchant",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "settings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("configuration_version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_merchant")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column(
            "at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_audit_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_merchant_id_id", "audit", ["merchant_id", "id"], unique=False)
    op.create_table(
        "idempotency_key",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column(
            "headers",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_idempotency_key_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "key", name=op.f("pk_idempotency_key")),
    )
    op.create_table(
        "item",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("section", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("suggested_score", sa.Double(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "data",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_item_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "section", "id", name=op.f("pk_item")),
    )
    op.create_index(
        "ix_item_merchant_id_section_version",
        "item",
        ["merchant_id", "section", "version"],
        unique=False,
    )
    op.create_table(
        "item_group",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("section", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "data",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_item_group_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "section", "id", name=op.f("pk_item_group")),
    )
    op.create_index(
        "ix_item_group_merchant_id_section_version",
        "item_group",
        ["merchant_id", "section", "version"],
        unique=False,
    )
    op.create_table(
        "model_version",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("configuration_id", sa.Text(), nullable=False),
        sa.Column("section", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "metrics",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "fitted_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("published_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('fitted', 'published', 'retired')", name=op.f("ck_model_version_state")
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_model_version_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint(
            "merchant_id",
            "configuration_id",
            "number",
            name=op.f("uq_model_version_merchant_id_configuration_id_number"),
        ),
    )
    op.create_index(
        "uq_model_version_published",
        "model_version",
        ["merchant_id", "configuration_id"],
        unique=True,
        postgresql_where=sa.text("state = 'published'"),
    )
    op.create_table(
        "pod",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("definition", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_pod_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "id", name=op.f("pk_pod")),
    )
    op.create_table(
        "rule_set",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "draft",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("published", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_rule_set_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "id", name=op.f("pk_rule_set")),
    )
    op.create_table(
        "rule_set_version",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("rule_set_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("rules", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "published_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_rule_set_version_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "merchant_id", "rule_set_id", "number", name=op.f("pk_rule_set_version")
        ),
    )
    op.create_table(
        "section",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("catalogue_version", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_section_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "name", name=op.f("pk_section")),
    )
    op.create_table(
        "served_sample",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("result_id", sa.Text(), nullable=False),
        sa.Column(
            "served_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("pod_id", sa.Text(), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("items", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("strategies", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_served_sample_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "result_id", name=op.f("pk_served_sample")),
    )
    op.create_index(
        "ix_served_sample_merchant_id_served_at",
        "served_sample",
        ["merchant_id", "served_at"],
        unique=False,
    )
    op.create_table(
        "shopper_identity",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column(
            "since", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_shopper_identity_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "client_id", name=op.f("pk_shopper_identity")),
    )
    op.create_table(
        "storefront_key",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "allowed_origins", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_storefront_key_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_storefront_key")),
    )
    op.create_index(
        op.f("ix_storefront_key_merchant_id"), "storefront_key", ["merchant_id"], unique=False
    )
    op.create_table(
        "strategy_configuration",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("section", sa.Text(), server_default="Products", nullable=False),
        sa.Column(
            "config",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("mode", sa.Text(), server_default="inline", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "mode IN ('inline', 'thread', 'process')", name=op.f("ck_strategy_configuration_mode")
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_strategy_configuration_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "id", name=op.f("pk_strategy_configuration")),
    )
    op.create_table(
        "task",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="QUEUED", nullable=False),
        sa.Column("section", sa.Text(), nullable=True),
        sa.Column(
            "input",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "counts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('QUEUED', 'IN_PROGRESS', 'DONE', 'FAILED')", name=op.f("ck_task_status")
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_task_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
    )
    op.create_index("ix_task_merchant_id_id", "task", ["merchant_id", "id"], unique=False)
    op.create_table(
        "token",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "role IN ('reader', 'ingest', 'merchandiser', 'administrator')",
            name=op.f("ck_token_role"),
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_token_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_token_digest")),
    )
    op.create_index(op.f("ix_token_merchant_id"), "token", ["merchant_id"], unique=False)
    op.create_table(
        "variation",
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("section", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("suggested_score", sa.Double(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "data",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_variation_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("merchant_id", "section", "id", name=op.f("pk_variation")),
    )
    op.create_index(
        "ix_variation_merchant_id_section_item_id",
        "variation",
        ["merchant_id", "section", "item_id"],
        unique=False,
    )
    op.create_index(
        "ix_variation_merchant_id_section_version",
        "variation",
        ["merchant_id", "section", "version"],
        unique=False,
    )
    op.create_table(
        "task_rejection",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("merchant_id", sa.Text(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("file", sa.Text(), nullable=True),
        sa.Column("line", sa.BigInteger(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
            name=op.f("fk_task_rejection_merchant_id_merchant"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["task_id"],
            ["task.id"],
            name=op.f("fk_task_rejection_task_id_task"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_rejection")),
    )
    op.create_index(
        "ix_task_rejection_task_id_id", "task_rejection", ["task_id", "id"], unique=False
    )


def make_role() -> None:
    op.execute(
        """
        DO $do$
        BEGIN
            IF current_user = 'vitrine_app' THEN
                RAISE EXCEPTION 'migrations run as the owner of the schema, not as vitrine_app';
            END IF;
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'vitrine_app') THEN
                BEGIN
                    CREATE ROLE vitrine_app LOGIN NOCREATEDB NOCREATEROLE;
                EXCEPTION
                    WHEN duplicate_object OR unique_violation THEN
                        NULL;  -- made at this moment, for another database of the server
                    WHEN insufficient_privilege THEN
                        RAISE EXCEPTION 'the role vitrine_app is missing, and % may not make it',
                            current_user
                            USING HINT = 'As an administrator: CREATE ROLE vitrine_app LOGIN'
                                ' PASSWORD ''...'' NOSUPERUSER NOBYPASSRLS';
                END;
            END IF;
            IF EXISTS (
                SELECT FROM pg_roles
                WHERE rolname = 'vitrine_app' AND (rolsuper OR rolbypassrls)
            ) THEN
                RAISE EXCEPTION 'the role vitrine_app passes row-level security by'
                    USING HINT = 'ALTER ROLE vitrine_app NOSUPERUSER NOBYPASSRLS';
            END IF;
            IF pg_has_role('vitrine_app', current_user, 'MEMBER') THEN
                RAISE EXCEPTION 'the role vitrine_app is a member of the owner %', current_user;
            END IF;
            -- For staging imports. PUBLIC has it, unless somebody took it away.
            IF NOT has_database_privilege('vitrine_app', current_database(), 'TEMPORARY') THEN
                EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO vitrine_app', current_database());
            END IF;
        END
        $do$
        """
    )
    op.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # PostgreSQL 14 grants it
    op.execute(f"GRANT USAGE ON SCHEMA public TO {APP_ROLE}")


def scope_merchants() -> None:
    """The poller, with no merchant set, reads all merchants; a merchant's transaction reads its
    own; a row is written only in its own scope."""
    op.execute("ALTER TABLE merchant ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE merchant FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY merchant_read ON merchant FOR SELECT"
        f" USING ({SCOPE} IS NULL OR id = {SCOPE})"
    )
    op.execute(f"CREATE POLICY merchant_insert ON merchant FOR INSERT WITH CHECK (id = {SCOPE})")
    op.execute(
        f"CREATE POLICY merchant_update ON merchant FOR UPDATE"
        f" USING (id = {SCOPE}) WITH CHECK (id = {SCOPE})"
    )
    op.execute(f"CREATE POLICY merchant_delete ON merchant FOR DELETE USING (id = {SCOPE})")


def grant_rights() -> None:
    appended = ("audit", "rule_set_version")
    grant("SELECT, INSERT", *appended)
    # Partitions get no grant: only the parent's policy stands before their rows.
    grant("SELECT, INSERT, DELETE", "event", "event_id")
    grant(
        "SELECT, INSERT, UPDATE, DELETE",
        "merchant",
        *(table for table in SCOPED if table not in (*appended, "event", "event_id")),
    )
    grant("SELECT", "alembic_version")  # readiness compares it with what the program needs


def make_partition_function() -> None:
    """A partition is attached, not made in place: ATTACH lets other sessions write meanwhile."""
    op.execute("""
        CREATE FUNCTION ensure_event_partitions(days date[]) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        AS $function$
        DECLARE
            day date;
            name text;
            made integer := 0;
        BEGIN
            IF cardinality(days) > 400 THEN
                RAISE EXCEPTION 'at most 400 days a call' USING ERRCODE = '22023';
            END IF;
            IF NOT EXISTS (
                SELECT FROM unnest(days) AS wanted (day)
                WHERE to_regclass('public.event_' || to_char(wanted.day, 'YYYYMMDD')) IS NULL
            ) THEN
                RETURN 0;
            END IF;
            PERFORM pg_advisory_xact_lock(hashtext('vitrine.event_partitions'));
            FOR day IN SELECT DISTINCT wanted FROM unnest(days) AS wanted ORDER BY wanted LOOP
                IF day IS NULL OR day < '2000-01-01' OR day > current_date + 7 THEN
                    RAISE EXCEPTION 'no events are kept for the day %', day
                        USING ERRCODE = '22023';
                END IF;
                name := 'event_' || to_char(day, 'YYYYMMDD');
                CONTINUE WHEN to_regclass('public.' || name) IS NOT NULL;
                EXECUTE format(
                    'CREATE TABLE public.%I (LIKE public.event INCLUDING DEFAULTS'
                    ' INCLUDING CONSTRAINTS INCLUDING STORAGE)', name);
                EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', name);
                EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', name);
                EXECUTE format(
                    'ALTER TABLE public.event ATTACH PARTITION public.%I'
                    ' FOR VALUES FROM (%L) TO (%L)',
                    name,
                    day::timestamp AT TIME ZONE 'UTC',
                    (day + 1)::timestamp AT TIME ZONE 'UTC');
                made := made + 1;
            END LOOP;
            RETURN made;
        END
        $function$
    """)
    op.execute("""
        COMMENT ON FUNCTION ensure_event_partitions(date[]) IS
        'Makes the event log''s partitions of these UTC days where missing; returns how many.'
    """)
    op.execute("REVOKE ALL ON FUNCTION ensure_event_partitions(date[]) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION ensure_event_partitions(date[]) TO {APP_ROLE}")


def downgrade() -> None:
    """Removes everything but the role, which other databases of the server may use."""
    op.execute("DROP FUNCTION ensure_event_partitions(date[])")
    for table in reversed(SCOPED):
        op.drop_table(table)
    op.drop_table("merchant")
    op.execute(f"REVOKE ALL ON TABLE alembic_version FROM {APP_ROLE}")
    op.execute(f"REVOKE ALL ON SCHEMA public FROM {APP_ROLE}")
