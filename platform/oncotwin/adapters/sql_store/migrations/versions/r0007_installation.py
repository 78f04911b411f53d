"""What a store must find again whenever it is opened: under which key store its rows are sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the table; the first opening with keys fills it."""
    op.create_table(
        "installation", sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.LargeBinary, nullable=False)
    )
