"""First schema: journal, snapshots, estimates, alerts, outbox, offsets, leases, dead letters, sources, intake."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "commits",
        sa.Column("position", _serial, primary_key=True, autoincrement=True),
        sa.Column("committed_at", sa.BigInteger, nullable=False),
        sa.Column("log_name", sa.Text, nullable=False),
        sa.Column("n_events", sa.Integer, nullable=False),
    )
    op.create_index("commits_committed_at", "commits", ["committed_at"])
    op.create_table(
        "twins",
        sa.Column("ordinal", _serial, primary_key=True, autoincrement=True),
        sa.Column("twin_id", sa.Text, nullable=False, unique=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("last_time", sa.BigInteger),
    )
    op.create_table(
        "journal",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("twin_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("time_precision", sa.Text, nullable=False),
        sa.Column("recorded_at", sa.BigInteger),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("log_partition", sa.Integer, nullable=False),
        sa.Column("log_offset", sa.BigInteger, nullable=False),
    )
    op.create_index("journal_of_twin", "journal", ["twin_id", "time"])
    op.create_table(
        "snapshots",
        sa.Column("twin_id", sa.Text, primary_key=True),
        sa.Column("time", sa.BigInteger, primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True),
        sa.Column("n_folded", sa.BigInteger, primary_key=True),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
    )
    op.create_table(
        "estimates",
        sa.Column("twin_id", sa.Text, primary_key=True),
        sa.Column("time", sa.BigInteger, primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True),
        sa.Column("row", sa.Integer, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True),
        sa.Column("twin_id", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("observable", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("recommended", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("alerts_of_twin", "alerts", ["twin_id", "time"])
    op.create_table(
        "outbox",
        sa.Column("id", _serial, primary_key=True, autoincrement=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("message_key", sa.Text, nullable=False, unique=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        sa.Column("published", sa.Integer, nullable=False),
    )
    pending = sa.text("published = 0")
    op.create_index("outbox_pending", "outbox", ["id"], sqlite_where=pending, postgresql_where=pending)
    op.create_table(
        "offsets",
        sa.Column("log_name", sa.Text, primary_key=True),
        sa.Column("log_partition", sa.Integer, primary_key=True),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("log_name", sa.Text, primary_key=True),
        sa.Column("log_partition", sa.Integer, primary_key=True),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "dead_letters",
        sa.Column("number", _serial, primary_key=True, autoincrement=True),
        sa.Column("rejection_id", sa.Text, nullable=False, unique=True),
        sa.Column("reason_code", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("remedy", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("twin_id", sa.Text),
        sa.Column("source", sa.Text),
        sa.Column("event_id", sa.Text),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "sources",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("institution", sa.Text, nullable=False),
    )
    op.create_table(
        "intake",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("content_hash", sa.Text, nullable=False),
    )
