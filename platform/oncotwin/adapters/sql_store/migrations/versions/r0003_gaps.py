"""Running numbers of the sources in the journal, taken from the events kept there; the gaps found among them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# Rows whose bytes hold no such name are not read as JSON, nor written again.
_BACKFILL = {
    "sqlite": """
        UPDATE journal SET sequence = json_extract(CAST(payload AS TEXT), '$.sequence')
        WHERE instr(payload, CAST('"sequence"' AS BLOB)) > 0 AND json_valid(CAST(payload AS TEXT))
    """,
    "postgresql": """
        UPDATE journal SET sequence = (convert_from(payload, 'UTF8')::json ->> 'sequence')::bigint
        WHERE position('"sequence"'::bytea IN payload) > 0
    """,
}


def upgrade() -> None:
    """Add the column, fill it, and make the tables; the first look fills those."""
    op.add_column("journal", sa.Column("sequence", sa.BigInteger))
    op.execute(_BACKFILL[op.get_bind().dialect.name])
    known = sa.text("sequence IS NOT NULL")
    op.create_index(
        "journal_of_sequence", "journal", ["source", "sequence"], sqlite_where=known, postgresql_where=known
    )
    op.create_table(
        "sequences",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("institution", sa.Text, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("alerted_at", sa.BigInteger),
    )
    op.create_table(
        "gaps",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("opened_at", sa.BigInteger, nullable=False),
        sa.Column("alert_id", sa.Text, nullable=False),
    )
    op.create_index("gaps_of_alert", "gaps", ["alert_id"])
