"""Beliefs can be superseded: by which commit, and for alerts by which event; NIS beside each estimate."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; what is there was not superseded by anything that 0001 could write."""
    for table in ("snapshots", "estimates", "alerts"):
        op.add_column(table, sa.Column("superseded_at", sa.BigInteger))
    op.add_column("estimates", sa.Column("nis", sa.Double))
    op.add_column("alerts", sa.Column("superseded_by", sa.Text, nullable=False, server_default=""))
