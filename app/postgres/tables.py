"""The schema, as SQLAlchemy Core tables. Every row belongs to a merchant; see migrations/ for the
roles, policies and functions around it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

NOW = sa.text("now()")
EMPTY_OBJECT = sa.text("'{}'::jsonb")


def _merchant(*, primary_key: bool = False, index: bool | None = None) -> sa.Column[str]:
    return sa.Column(
        "merchant_id",
        sa.Text,
        sa.ForeignKey("merchant.id", ondelete="CASCADE"),
        nullable=False,
        primary_key=primary_key,
        index=index,
    )


def _time(name: str, *, default_now: bool = False) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.TIMESTAMP(timezone=True),
        nullable=not default_now,
        server_default=NOW if default_now else None,
    )


merchant = sa.Table(
    "merchant",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("settings", pg.JSONB, nullable=False, server_default=EMPTY_OBJECT),
    # Grows with every published change of keys, tokens, pods, strategies, models, rules.
    sa.Column("configuration_version", sa.BigInteger, nullable=False, server_default="0"),
    _time("created_at", default_now=True),
)

storefront_key = sa.Table(
    "storefront_key",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    _merchant(index=True),
    sa.Column("label", sa.Text, nullable=False, server_default=""),
    sa.Column("allowed_origins", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    _time("created_at", default_now=True),
    _time("revoked_at"),
)

token = sa.Table(
    "token",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _merchant(index=True),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),  # SHA-256 of the secret
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False, server_default=""),
    _time("created_at", default_now=True),
    _time("expires_at"),
    _time("revoked_at"),
    sa.CheckConstraint(
        "role IN ('reader', 'ingest', 'merchandiser', 'administrator')", name="role"
    ),
)

strategy_configuration = sa.Table(
    "strategy_configuration",
    metadata,
    _merchant(primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("strategy", sa.Text, nullable=False),
    sa.Column("section", sa.Text, nullable=False, server_default="Products"),
    sa.Column("config", pg.JSONB, nullable=False, server_default=EMPTY_OBJECT),
    sa.Column("mode", sa.Text, nullable=False, server_default="inline"),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    _time("created_at", default_now=True),
    _time("updated_at", default_now=True),
    sa.CheckConstraint("mode IN ('inline', 'thread', 'process')", name="mode"),
)

pod = sa.Table(
    "pod",
    metadata,
    _merchant(primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("definition", pg.JSONB, nullable=False),  # app.domain.pod.Pod
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),  # its ETag
    _time("created_at", default_now=True),
    _time("updated_at", default_now=True),
)

rule_set = sa.Table(
    "rule_set",
    metadata,
    _merchant(primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("display_name", sa.Text, nullable=False, server_default=""),
    sa.Column("draft", pg.JSONB, nullable=False, server_default=EMPTY_OBJECT),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),  # the draft's ETag
    sa.Column("published", sa.BigInteger),  # rule_set_version.number in force; NULL: none
    _time("created_at", default_now=True),
    _time("updated_at", default_now=True),
)

# What was ever published, immutable: the server may neither change nor delete it.
rule_set_version = sa.Table(
    "rule_set_version",
    metadata,
    _merchant(primary_key=True),
    sa.Column("rule_set_id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),  # 1, 2, ... a rule set
    sa.Column("rules", pg.JSONB, nullable=False),  # app.domain.rule.RuleSet
    sa.Column("actor", sa.Text, nullable=False),  # token id, or "cli"
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    _time("published_at", default_now=True),
    sa.Column("restores", sa.BigInteger),  # the number whose rules were brought back
    sa.Column("verdict", pg.JSONB(none_as_null=True)),  # app.domain.rule_gate.RuleVerdict
)

section = sa.Table(
    "section",
    metadata,
    _merchant(primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    # Only grows: one step a write that became visible. Rows carry the step that changed them.
    sa.Column("catalogue_version", sa.BigInteger, nullable=False, server_default="0"),
)


def _catalogue_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("data", pg.JSONB, nullable=False, server_default=EMPTY_OBJECT),
        sa.Column("version", sa.BigInteger, nullable=False),
        # A deleted row stays as a tombstone, so that readers can follow by version.
        sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
        _time("created_at", default_now=True),
        _time("updated_at", default_now=True),
    ]


item = sa.Table(
    "item",
    metadata,
    _merchant(primary_key=True),
    sa.Column("section", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("suggested_score", sa.Double),
    *_catalogue_columns(),
    sa.Index("ix_item_merchant_id_section_version", "merchant_id", "section", "version"),
)

variation = sa.Table(
    "variation",
    metadata,
    _merchant(primary_key=True),
    sa.Column("section", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("suggested_score", sa.Double),
    *_catalogue_columns(),
    sa.Index("ix_variation_merchant_id_section_version", "merchant_id", "section", "version"),
    sa.Index("ix_variation_merchant_id_section_item_id", "merchant_id", "section", "item_id"),
)

item_group = sa.Table(
    "item_group",
    metadata,
    _merchant(primary_key=True),
    sa.Column("section", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("parent_id", sa.Text),
    *_catalogue_columns(),
    sa.Index("ix_item_group_merchant_id_section_version", "merchant_id", "section", "version"),
)

task = sa.Table(
    "task",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _merchant(),
    sa.Column("type", sa.Text, nullable=False),  # catalogue_import, training, ...
    sa.Column("status", sa.Text, nullable=False, server_default="QUEUED"),
    sa.Column("section", sa.Text),
    sa.Column("input", pg.JSONB, nullable=False, server_default=EMPTY_OBJECT),
    sa.Column("counts", pg.JSONB, nullable=False, server_default=EMPTY_OBJECT),
    sa.Column("error", sa.Text),  # why it FAILED, for the merchant to read
    _time("created_at", default_now=True),
    _time("started_at"),
    _time("finished_at"),
    sa.Index("ix_task_merchant_id_id", "merchant_id", "id"),
    sa.CheckConstraint("status IN ('QUEUED', 'IN_PROGRESS', 'DONE', 'FAILED')", name="status"),
)

task_rejection = sa.Table(
    "task_rejection",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _merchant(),
    sa.Column(
        "task_id", sa.BigInteger, sa.ForeignKey("task.id", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("file", sa.Text),
    sa.Column("line", sa.BigInteger),  # 1 is the file's first line
    sa.Column("subject", sa.Text),  # the row's id, where it could be read
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("ix_task_rejection_task_id_id", "task_id", "id"),
)

model_version = sa.Table(
    "model_version",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _merchant(),
    sa.Column("configuration_id", sa.Text, nullable=False),  # strategy_configuration.id
    sa.Column("section", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),  # 1, 2, ... a configuration
    sa.Column("state", sa.Text, nullable=False),  # fitted, published, retired
    sa.Column("location", sa.Text, nullable=False),  # below the artefact store's root
    sa.Column("manifest", pg.JSONB, nullable=False),
    sa.Column("metrics", pg.JSONB, nullable=False, server_default=EMPTY_OBJECT),
    _time("fitted_at", default_now=True),
    _time("published_at"),
    sa.UniqueConstraint("merchant_id", "configuration_id", "number"),
    sa.Index(
        "uq_model_version_published",
        "merchant_id",
        "configuration_id",
        unique=True,
        postgresql_where=sa.text("state = 'published'"),
    ),
    sa.CheckConstraint("state IN ('fitted', 'published', 'retired')", name="state"),
)

served_sample = sa.Table(
    "served_sample",
    metadata,
    _merchant(primary_key=True),
    sa.Column("result_id", sa.Text, primary_key=True),
    _time("served_at", default_now=True),
    sa.Column("pod_id", sa.Text, nullable=False),
    sa.Column("request", pg.JSONB, nullable=False),
    sa.Column("items", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("strategies", pg.ARRAY(sa.Text), nullable=False),
    sa.Index("ix_served_sample_merchant_id_served_at", "merchant_id", "served_at"),
)

RECOMMENDATION_CLICK = sa.text("type = 2 AND pod_id IS NOT NULL AND result_id IS NOT NULL")

# One row an event and item. Partitioned by day; partitions are made by the function
# ensure_event_partitions (see migrations/), for whatever day an event carries.
event = sa.Table(
    "event",
    metadata,
    sa.Column("merchant_id", sa.Text, nullable=False),
    sa.Column("occurred_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
    sa.Column("type", sa.SmallInteger, nullable=False),  # vitrine_sdk.EventType
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("section", sa.Text, nullable=False),
    sa.Column("client_id", sa.Text),
    sa.Column("user_id", sa.Text),
    sa.Column("session", sa.BigInteger),
    sa.Column("item_id", sa.Text),
    sa.Column("variation_id", sa.Text),
    sa.Column("quantity", sa.REAL, nullable=False, server_default="1"),
    sa.Column("revenue", sa.REAL, nullable=False, server_default="0"),  # of this row
    sa.Column("order_id", sa.Text),
    sa.Column("result_id", sa.Text),
    sa.Column("pod_id", sa.Text),
    sa.Column("strategy", sa.Text),
    sa.Column("term", sa.Text),
    sa.Column("conversion_type", sa.Text),
    sa.Column("learn", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("payload", pg.JSONB, nullable=False, server_default=EMPTY_OBJECT),
    sa.Index("ix_event_merchant_id_occurred_at", "merchant_id", "occurred_at"),
    # Clicks on recommendations, by who clicked what: a purchase looks for the one it comes from.
    sa.Index(
        "ix_event_click_client",
        *("merchant_id", "client_id", "item_id", "occurred_at"),
        postgresql_where=RECOMMENDATION_CLICK,
    ),
    sa.Index(
        "ix_event_click_user",
        *("merchant_id", "user_id", "item_id", "occurred_at"),
        postgresql_where=RECOMMENDATION_CLICK,
    ),
    postgresql_partition_by="RANGE (occurred_at)",
)

# What makes an event count once: claimed in the event's own transaction. A unique key on a table
# partitioned by day could not hold it.
event_id = sa.Table(
    "event_id",
    metadata,
    sa.Column("merchant_id", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary, primary_key=True),  # 16 bytes
    sa.Column("forever", sa.Boolean, nullable=False, server_default=sa.false()),  # orders
    _time("claimed_at", default_now=True),
    sa.Index("ix_event_id_claimed_at", "claimed_at", postgresql_where=sa.text("NOT forever")),
)

# Events that PostgreSQL refused, set aside for an operator: none is dropped in silence.
event_rejected = sa.Table(
    "event_rejected",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("merchant_id", sa.Text, nullable=False),  # no foreign key: that may be the reason
    _time("rejected_at", default_now=True),
    sa.Column("reason", sa.Text, nullable=False),  # PostgreSQL's own words
    sa.Column("event", sa.Text, nullable=False),  # JSON of app.domain.event.Event
    sa.Index("ix_event_rejected_merchant_id_id", "merchant_id", "id"),
)

# Who was forgotten, as hashes: events of theirs that still wait in a spool are not replayed.
shopper_erasure = sa.Table(
    "shopper_erasure",
    metadata,
    _merchant(primary_key=True),
    sa.Column("shopper", sa.LargeBinary, primary_key=True),  # SHA-256 of Shopper.id
    _time("erased_at", default_now=True),
)

shopper_identity = sa.Table(
    "shopper_identity",
    metadata,
    _merchant(primary_key=True),
    sa.Column("client_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),  # the first user seen on that client
    _time("since", default_now=True),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _merchant(),
    _time("at", default_now=True),
    sa.Column("actor", sa.Text, nullable=False),  # token id, or "cli"
    sa.Column("action", sa.Text, nullable=False),  # "pod.create"
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("before", pg.JSONB),
    sa.Column("after", pg.JSONB),
    sa.Index("ix_audit_merchant_id_id", "merchant_id", "id"),
)

idempotency_key = sa.Table(
    "idempotency_key",
    metadata,
    _merchant(primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request_digest", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("headers", pg.JSONB, nullable=False, server_default=EMPTY_OBJECT),
    _time("created_at", default_now=True),
)

webhook = sa.Table(
    "webhook",
    metadata,
    _merchant(primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", pg.ARRAY(sa.Text), nullable=False),  # empty: all
    sa.Column("secret", sa.Text, nullable=False),  # what deliveries are signed with
    sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),  # its ETag
    _time("created_at", default_now=True),
)

# An outbox: written in the transaction of what it tells, sent by the worker.
webhook_delivery = sa.Table(
    "webhook_delivery",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("merchant_id", sa.Text, nullable=False),
    sa.Column("webhook_id", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("payload", pg.JSONB, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_status", sa.SmallInteger),
    sa.Column("last_error", sa.Text),
    sa.Column("traceparent", sa.Text),  # of the request or job that it tells of (W3C)
    _time("created_at", default_now=True),
    _time("due_at", default_now=True),
    sa.ForeignKeyConstraint(
        ["merchant_id", "webhook_id"], ["webhook.merchant_id", "webhook.id"], ondelete="CASCADE"
    ),
    sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
    sa.Index("ix_webhook_delivery_merchant_id_webhook_id_id", "merchant_id", "webhook_id", "id"),
    sa.Index(
        "ix_webhook_delivery_merchant_id_due_at",
        "merchant_id",
        "due_at",
        postgresql_where=sa.text("state = 'pending'"),
    ),
)
