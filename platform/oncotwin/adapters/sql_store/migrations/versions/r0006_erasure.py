"""Erasures that were not finished, and those that events order."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a column and an index that finds what a worker must do when it starts."""
    op.add_column("tombstones", sa.Column("finished_at", sa.BigInteger))
    ordered = sa.text("kind = 'patient.erased'")
    op.create_index(
        "journal_of_erasures", "journal", ["twin_id", "kind"], sqlite_where=ordered, postgresql_where=ordered
    )
